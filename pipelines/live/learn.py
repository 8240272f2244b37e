"""The recorded events as new data for an update."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.pipelines.console import say
from twotower.pipelines.live.store import columns_of, event_rules, opened_store
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import read_ids
from twotower.pipelines.steps.processed import INTERACTIONS
from twotower.serving.runtime.live.state import learned_position
from twotower.serving.runtime.live.store import position_text
from twotower.workflows.order import ORDER
from twotower.workflows.stored import StoredRows

LEARNED = "events"
"""The entry in the notes of the step `ingest` that says up to which event the run has learned."""


class RecordedEvents(NamedTuple):
    """Events that a run has not learned from.

    Attributes
    ----------
    interactions : Table
        With the columns of the run's interactions, ids as given.
    learned : dict of str to str
        What the run has learned from once it has learned from these: a store, and a position in it.
    """

    interactions: pa.Table
    learned: dict[str, str]


def read_recorded(run: Run) -> RecordedEvents:
    """Read the events that the run has not learned from.

    Raises
    ------
    ConfigError
        If the run keeps no events.
    ServingError
        If they cannot be read.
    """
    before = run.notes("ingest").get(LEARNED)
    with opened_store(run) as store:
        learned = learned_position(store, before)
        stored = [each for each in store.read_new() if each.position > learned]
        until = stored[-1].position if stored else learned
        identity = store.identity
    rules = event_rules(run)
    new = [each for each in stored if rules.holds(each.event)]
    if len(new) < len(stored):
        say(
            f"{len(stored) - len(new):,} of {len(stored):,} events are left out: they have other "
            "columns, or ids of another kind, than this run"
        )
    path, ids, names = run.path / "data" / INTERACTIONS, read_ids(run), run.config.features
    schema = pq.read_schema(path)
    types = dict(zip(schema.names, schema.types, strict=True))
    types |= {names.user_id: ids.users.type, names.item_id: ids.items.type}
    columns = columns_of([each.event for each in new], types)
    if ORDER in columns:
        latest = (
            pc.max(batch[ORDER]).as_py() or 0 for batch in StoredRows((path,)).batches([ORDER])
        )
        first = max(latest, default=0) + 1
        columns[ORDER] = pa.array(np.arange(first, first + len(new)))
    return RecordedEvents(pa.table(columns), {"store": identity, "until": position_text(until)})
