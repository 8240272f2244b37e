"""Read the new data of an update and merge it with the tidy tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from twotower.workflows.availability import note_changes, settled, withdraw_unlisted
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import IngestConfig, check_place, encoded, source_of
from twotower.workflows.order import ORDER
from twotower.workflows.rows import distinct, wanted_again, with_all_rows, with_known_values
from twotower.workflows.sources.base import OnMessage, Progress, Source, ignore
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.source import FilesSource
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.times import check_order, check_scale
from twotower.workflows.sources.vector_files import VectorFiles, note_missing
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import MergedRows, Rows, StoredTables
from twotower.workflows.tables import Tables, merge, same
from twotower.workflows.update.day import Day


def ingest_more(
    config: IngestConfig,
    data: Path,
    more: Path | pa.Table,
    progress: Progress | None = None,
    on_message: OnMessage = ignore,
    wanted: Wanted | None = None,
    items_only: bool = False,
) -> Day | None:
    """Read new data and merge it with the tidy tables.

    Parameters
    ----------
    config : IngestConfig
    data : Path
        The folder with the tidy tables.
    more : Path or Table
        A folder or zip in the format of the source: new interactions, or only users or items. Or
        new interactions, with the columns of the tidy table and ids as given. A new user or item
        without a row has unknown features; a known one keeps its row.
    progress, on_message : callable, optional
        As for `ingest`.
    wanted : Wanted, optional
        As for `ingest`. The columns that are read are those of the tidy tables.
    items_only : bool
        `more` is a file with one row per item in a format of source `files`, whatever the source
        of the run. Items that it does not list stay as they are.

    Returns
    -------
    Day or None
        The merged tables (see `tables.merge`); None if there is nothing new.

    Raises
    ------
    DataError
    """
    findings = Findings(on_message, config.strict)
    before, old = RunIds.read(data), StoredTables.read(data)
    again = wanted_again(wanted or Wanted(), old, before)
    source = source_of(config, again)
    sides: Collection[str] = ()
    if isinstance(more, pa.Table):
        raw: Mapping[str, pa.Table] = {"interactions": more}
    else:
        raw = _read_more(config, source, more, items_only, again, before, progress, findings)
        files = VectorFiles(config.vectors, more, wanted)
        raw, sides = {**raw, **files.add_to_update(raw, old, before.types)}, files.sides
    ids = RunIds(
        before.users.extend(*(raw[name]["user_id"] for name in raw if name != "items")),
        before.items.extend(*(raw[name]["item_id"] for name in raw if name != "users")),
    )
    empty = Tables(
        old.interactions.schema.empty_table(), old.users.slice(0, 0), old.items.slice(0, 0)
    )
    new = empty._replace(**encoded(raw, ids))
    new = with_all_rows(new, ids, findings, distinct(new.interactions), old)
    if "timestamp" in old.interactions.column_names:
        check_scale(old.interactions["timestamp"], new.interactions["timestamp"])
    new = new._replace(items=settled(new.items, source.lists_all_items))
    merged, appended = merge(old, new, source.keeps_repeats)
    _check_new_order(merged.interactions)
    for name in {*source.mixed, *sides}:
        table = with_known_values(getattr(merged, name), getattr(old, name))
        merged = merged._replace(**{name: table})
    if source.lists_all_items and "items" in raw and not items_only:
        merged = merged._replace(items=withdraw_unlisted(merged.items, new.items))
    note_changes(old.items, merged.items, ids.items, findings)
    note_missing(new, wanted, findings)
    return None if same(merged, old) else Day(old, new, merged, appended, ids, findings.entries)


def _read_more(
    config: IngestConfig,
    source: Source,
    more: Path,
    items_only: bool,
    wanted: Wanted,
    before: RunIds,
    progress: Progress | None,
    findings: Findings,
) -> Mapping[str, pa.Table]:
    """Read new data from files; the arguments are those of `ingest_more`."""
    check_place("files" if items_only else config.source, more)
    if items_only:
        items = FilesSource(None, config.files or FilesConfig(interactions=more), wanted)
        return items.read_items(more, before.types, progress, findings)
    return source.read_update(more, before.types, progress, findings)


def _check_new_order(merged: Rows) -> None:
    """Check the numbers that order the appended rows, if there are any, against those before."""
    if ORDER in merged.column_names:
        assert isinstance(merged, MergedRows)
        known = replace(merged, appended=merged.schema.empty_table())
        columns = {name: known[name] for name in ("user_id", ORDER)}
        check_order(pa.table(columns), merged.appended)
