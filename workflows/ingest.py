"""Read a data set from its source, and write the tidy tables and the ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, Field, root_validator, validator

from twotower.workflows.availability import (
    is_available,
    note_changes,
    settled,
    withdraw_unlisted,
)
from twotower.workflows.day import Day
from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids, RunIds
from twotower.workflows.order import ORDER
from twotower.workflows.profile import Profile, profile
from twotower.workflows.rows import wanted_again, with_all_rows, with_known_values
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.source import AliCCPRaw
from twotower.workflows.sources.base import OnMessage, Progress, Source, ignore
from twotower.workflows.sources.data_path import DataPath, is_remote
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.source import FilesSource
from twotower.workflows.sources.findings import Findings, write_report
from twotower.workflows.sources.layouts.amazon import Amazon
from twotower.workflows.sources.layouts.atomic import Atomic
from twotower.workflows.sources.layouts.lightgcn import LightGCN
from twotower.workflows.sources.layouts.movielens import MovieLens10M, MovieLensCSV
from twotower.workflows.sources.movielens.source import MovieLens1M, MovieLens100K
from twotower.workflows.sources.synthetic import SyntheticConfig, SyntheticSource
from twotower.workflows.sources.times import check_order, check_scale
from twotower.workflows.sources.vector_files import VectorFiles, ids_file, note_missing, place_of
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables, merge, sorted_by_id

_CLASSES: tuple[type[Source], ...] = (
    MovieLens1M,
    MovieLens100K,
    MovieLens10M,
    MovieLensCSV,
    Amazon,
    Atomic,
    LightGCN,
    AliCCPRaw,
    SyntheticSource,
    FilesSource,
)
SOURCES = {source.name: source for source in _CLASSES}
"""All sources by name, in the order in which `detect_source` prefers them."""


class IngestConfig(BaseModel, extra="forbid"):
    """Which data set to read, and where it is."""

    source: str = Field(
        ..., description="Format of the data. `synthetic` generates data and needs no files."
    )
    path: DataPath | None = Field(
        None,
        description="For a published data set: the folder or zip with its files, or a folder that "
        "contains it. For files: the folder to which the paths under `ingest.files` are "
        "relative; it may be an s3:// or gs:// path. If relative, it is resolved against the "
        "working directory; the run folder stores the absolute path.",
    )
    # The settings of a source are in the field that is named like the source.
    files: FilesConfig | None = Field(
        None, description="Files and columns to read. Required when `source` is files."
    )
    synthetic: SyntheticConfig = Field(
        SyntheticConfig(), description="Size and seed of the generated data set."
    )
    ali_ccp_raw: AliCCPConfig = Field(
        AliCCPConfig(), description="How Ali-CCP's official text files are read."
    )

    vectors: dict[str, Path] = Field(
        {},
        description="Pretrained vectors in .npy files, as {column: file}, where the column is one "
        "of `features.item_vectors` or `features.user_vectors`. The file has one row per vector; "
        "beside image.npy, image.ids.npy or image.ids.txt (one per line) has the ids of its rows. "
        "Paths are relative to `ingest.path`. An update reads the files of the same names.",
    )
    strict: bool = Field(
        False,
        description="Whether imperfect data is refused. By default documented rules handle it, "
        "such as dropping rows without an id, and each is reported with its count in a line and in "
        "data/report.json.",
    )

    @root_validator(pre=True)
    def _parquet_is_files_now(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("source") == "parquet" or "parquet" in values:
            raise ValueError(
                "source parquet is called files now: write `source: files`, and rename the section "
                "`parquet` to `files`. Columns that `features` names need no user_features or "
                "item_features there"
            )
        return values

    @validator("source")
    def _is_known(cls, name: str) -> str:
        if name not in SOURCES:
            raise ValueError(f"{name!r}: no such source; choose one of {', '.join(SOURCES)}")
        return name

    @root_validator(skip_on_failure=True)
    def _is_read_from_there(cls, values: dict[str, Any]) -> dict[str, Any]:
        _check_place(values["source"], values["path"])
        return values

    @property
    def names_files(self) -> bool:
        """Whether the settings name files relative to `path` (see `Source.names_files`)."""
        return SOURCES[self.source].names_files


class IngestReport(BaseModel):
    """The size of the tables, and their source."""

    source: str
    users: int
    items: int
    interactions: int
    synthetic: bool
    withdrawn: int = 0

    @classmethod
    def of(cls, source: str, tables: Tables, synthetic: bool) -> IngestReport:
        """Make the report on `tables` of a source; `synthetic` as in `Source`."""
        return cls(
            source=source,
            users=len(tables.users),
            items=len(tables.items),
            interactions=len(tables.interactions),
            synthetic=synthetic,
            withdrawn=int((~is_available(tables.items)).sum()),
        )

    def __str__(self) -> str:
        """The report in one line."""
        kind = "synthetic data" if self.synthetic else self.source
        return (
            f"{kind}: {self.interactions:,} interactions, {self.users:,} users, "
            f"{self.items:,} items" + (f" ({self.withdrawn:,} withdrawn)" if self.withdrawn else "")
        )


def ingest(
    config: IngestConfig,
    out: Path,
    progress: Progress | None = None,
    on_message: OnMessage = ignore,
    wanted: Wanted | None = None,
) -> IngestReport:
    """Read and check the source, then write the tidy tables.

    Parameters
    ----------
    config : IngestConfig
    out : Path
        The folder for interactions.parquet, users.parquet and items.parquet (see `Tables`), and for
        user_ids.parquet and item_ids.parquet (see `Ids`); report.json has what was found in the
        data (see `Findings`) and its `Profile`. Nothing is written if the data is wrong.
    progress : callable, optional
        Called with (units done, units in total).
    on_message : callable, optional
        Called with a line for each thing in the data that people should know, such as repeated
        rows, with its count.
    wanted : Wanted, optional
        The columns that the settings of the run name.

    Raises
    ------
    DataError
    """
    findings = Findings(on_message, config.strict)
    source = _source(config, wanted)
    raw = source.read(progress, findings)
    files = VectorFiles(config.vectors, config.path, wanted)
    raw = raw._replace(**files.add_to(raw._asdict()))
    ids = RunIds(
        Ids.of(raw.users["user_id"], raw.interactions["user_id"]),
        Ids.of(raw.items["item_id"], raw.interactions["item_id"]),
    )
    tables = with_all_rows(Tables(**_encoded(raw._asdict(), ids)), ids, findings)
    tables = tables._replace(items=settled(tables.items, source.lists_all_items))
    note_changes(tables.items.slice(0, 0), tables.items, ids.items, findings)
    note_missing(tables, wanted, findings)
    tables.write(out)
    ids.write(out)
    write_report(out, findings.entries, _profile(tables).dict())
    return IngestReport.of(config.source, tables, source.synthetic)


def _profile(tables: Tables) -> Profile:
    log = tables.interactions
    has_time = "timestamp" in log.column_names
    return profile(
        users=log["user_id"].to_numpy(),
        items=log["item_id"].to_numpy(),
        seconds=log["timestamp"].to_numpy() if has_time else None,
    )


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
    findings, before, old = (
        Findings(on_message, config.strict),
        RunIds.read(data),
        Tables.read(data),
    )
    again = wanted_again(wanted or Wanted(), old, before)
    source = _source(config, again)
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
    empty = Tables(*(table.slice(0, 0) for table in old))
    new = with_all_rows(empty._replace(**_encoded(raw, ids)), ids, findings, old)
    if "timestamp" in old.interactions.column_names:
        check_scale(old.interactions["timestamp"], new.interactions["timestamp"])
    new = new._replace(items=settled(new.items, source.lists_all_items))
    merged, appended = merge(old, new, source.keeps_repeats)
    _check_new_order(merged.interactions, appended)
    for name in {*source.mixed, *sides}:
        table = with_known_values(getattr(merged, name), getattr(old, name))
        merged = merged._replace(**{name: table})
    if source.lists_all_items and "items" in raw and not items_only:
        merged = merged._replace(items=withdraw_unlisted(merged.items, new.items))
    note_changes(old.items, merged.items, ids.items, findings)
    note_missing(new, wanted, findings)
    return None if merged.same(old) else Day(old, new, merged, appended, ids, findings.entries)


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
    _check_place("files" if items_only else config.source, more)
    if items_only:
        items = FilesSource(None, config.files or FilesConfig(interactions=more), wanted)
        return items.read_items(more, before.types, progress, findings)
    return source.read_update(more, before.types, progress, findings)


def _check_new_order(interactions: pa.Table, appended: int) -> None:
    """Check the numbers that order the last rows, if there are any, against those before."""
    if ORDER in interactions.column_names:
        known = len(interactions) - appended
        check_order(interactions[:known], interactions[known:])


def _encoded(raw: Mapping[str, pa.Table], ids: RunIds) -> dict[str, pa.Table]:
    """Replace the ids of a source's tables by codes; users and items are sorted by them."""
    tables = {name: ids.encode(table) for name, table in raw.items()}
    return {
        name: table if name == "interactions" else sorted_by_id(table)
        for name, table in tables.items()
    }


def source_files(config: IngestConfig) -> list[Path]:
    """List the files that `ingest` reads, in a fixed order; none for synthetic data.

    Raises
    ------
    DataError
        If a file that the settings name does not exist.
    """
    files = _source(config).files()
    for path in config.vectors.values():
        file = place_of(config.path, path)
        files += [file, ids_file(file)]
    return list(dict.fromkeys(files))


def _source(config: IngestConfig, wanted: Wanted | None = None) -> Source:
    if wanted is not None:  # what .npy files have is not in the source
        users, items = (
            tuple(name for name in names if name not in config.vectors)
            for names in (wanted.users, wanted.items)
        )
        wanted = wanted._replace(users=users, items=items)
    settings = getattr(config, config.source.replace("-", "_"), None)
    return SOURCES[config.source](config.path, settings, wanted)


def _check_place(source: str, path: Path | None) -> None:
    """Raise DataError if `path` is remote and only source `files` could read it."""
    if path is not None and is_remote(path) and not SOURCES[source].names_files:
        raise DataError(
            f"{path}: source {source} reads files of this machine only; copy them first"
        )


def detect_source(path: Path) -> tuple[str, Path] | None:
    """Find out which source's data is in a folder or file.

    Parameters
    ----------
    path : Path
        For example a folder with the official MovieLens files, a zip, or a folder that contains
        ml-1m/, ml-1m.zip, ml-100k/ or ml-100k.zip.

    Returns
    -------
    (str, Path) or None
        The name of the source whose files are at `path` or else, of the sources with files in a
        folder of it, the first; and the folder or file with the data. None if there is none (see
        `Source.recognise`).

    Raises
    ------
    DataError
        If a zip is damaged, or the files of several sources are at `path`.
    """
    found: dict[str, Path] = {}
    for name, source in SOURCES.items():
        if (place := source.recognise(path)) is not None:
            found[name] = place
    here = [name for name, place in found.items() if place == path]
    if len(here) > 1:
        several = " and ".join(SOURCES[name].contents for name in here)
        raise DataError(
            f"{path}: files of {several}; give each data set a folder of its own, or name the "
            "source in a config"
        )
    return next(((name, found[name]) for name in here or found), None)


def detectable() -> str:
    """Name the data sets that `detect_source` can find, with their files, for messages."""
    return ", ".join(source.contents for source in SOURCES.values() if source.contents)
