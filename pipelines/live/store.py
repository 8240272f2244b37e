"""The store of a run's events, and what an event of the run may hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import read_ids
from twotower.pipelines.steps.processed import INTERACTIONS
from twotower.serving.runtime.live.opening import FILE, open_store
from twotower.serving.runtime.live.rules import EventRules
from twotower.serving.runtime.live.store import EVENTS, EventStore
from twotower.workflows.features.positives import values_like

ID_TYPES = {"int64": "INT64", "uint64": "UINT64", "string": "BYTES"}
"""Type of ids in the tables -> Triton data type."""


def event_rules(run: Run) -> EventRules:
    """Return what an event of the run may hold: ids, time, and columns that training reads."""
    names, positives, ids = run.config.features, run.config.positives, read_ids(run)
    schema = pq.read_schema(run.path / "data" / INTERACTIONS)
    given = dict.fromkeys([*positives.columns, *names.stored_context])
    values: list[int | float | str] = []
    if positives.values:
        column = schema.empty_table().to_pandas()[positives.column]
        values = list(values_like(column, positives.values))
    return EventRules(
        user=names.user_id,
        item=names.item_id,
        time=names.time_column,
        user_type=ID_TYPES[str(ids.users.type)],
        item_type=ID_TYPES[str(ids.items.type)],
        columns={name: _triton_type(schema.field(name).type) for name in given},
        required=positives.columns,
        column=positives.column,
        at_least=None if values or positives.column is None else positives.threshold,
        values=values,
    )


@contextmanager
def opened_store(run: Run, channel: str = EVENTS) -> Iterator[EventStore]:
    """Open the store of the run's events, or that of answers, for a block.

    Raises
    ------
    ConfigError
        If the run has none.
    ServingError
        If it cannot be opened.
    """
    settings = run.config.serving.events.settings
    if settings is None:
        raise ConfigError(
            "the run keeps no events: set serving.events.store to sqlite or redis, for example "
            f"twotower events --run {run.path} --set serving.events.store=sqlite"
        )
    root = run.path / TRITON
    root.mkdir(exist_ok=True)
    store = open_store(settings, root / FILE, channel)
    try:
        yield store
    finally:
        store.close()


def _triton_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "INT64"
    return "FP64" if pa.types.is_floating(kind) else "BYTES"


def columns_of(events: list[dict], types: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    """Return the values of events by column; what an event does not give is null.

    Parameters
    ----------
    events : list of dict
    types : dict of str to DataType
        The columns to return. A boolean one holds 0 or 1 in events.
    """
    table = pd.DataFrame(events, columns=list(types), dtype=object)
    found = {}
    for name, kind in types.items():
        values = [None if value is None or value != value else value for value in table[name]]
        if pa.types.is_boolean(kind):
            values = [None if value is None else bool(value) for value in values]
        elif pa.types.is_integer(kind):
            values = [None if value is None else int(value) for value in values]
        found[name] = pa.array(values, kind)
    return found
