"""Read a data set from its source, and write the tidy tables and the ids."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, Field, root_validator, validator

from twotower.workflows.availability import is_available, note_changes, settled
from twotower.workflows.errors import DataError
from twotower.workflows.ids import INTEGERS, Ids, RunIds
from twotower.workflows.profile import Profile, profile, stored_profile
from twotower.workflows.rows import distinct, with_all_rows
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.source import AliCCPRaw
from twotower.workflows.sources.base import OnMessage, Progress, ProgressCounter, Source, ignore
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
from twotower.workflows.sources.vector_files import VectorFiles, ids_file, note_missing, place_of
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import StoredTables
from twotower.workflows.tables import Tables, sorted_by_id

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
        check_place(values["source"], values["path"])
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
    def of(cls, source: str, tables: Tables | StoredTables, synthetic: bool) -> IngestReport:
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
    work: Path | None = None,
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
    work : Path, optional
        A folder for what a large source has read so far, from which an interrupted `ingest` goes
        on. Such a source removes it at the end.

    Raises
    ------
    DataError
    """
    findings = Findings(on_message, config.strict)
    source = source_of(config, wanted)
    source.work = work
    raw = source.read(progress, findings)
    if isinstance(raw, StoredTables):
        return _ingest_stored(config, source, raw, out, findings=findings, progress=progress)
    files = VectorFiles(config.vectors, config.path, wanted)
    raw = raw._replace(**files.add_to(raw._asdict()))
    ids = RunIds(
        Ids.of(raw.users["user_id"], raw.interactions["user_id"]),
        Ids.of(raw.items["item_id"], raw.interactions["item_id"]),
    )
    tables = Tables(**encoded(raw._asdict(), ids))
    tables = with_all_rows(tables, ids, findings, distinct(tables.interactions))
    tables = tables._replace(items=settled(tables.items, source.lists_all_items))
    note_changes(tables.items.slice(0, 0), tables.items, ids.items, findings)
    note_missing(tables, wanted, findings)
    tables.write(out)
    ids.write(out)
    write_report(out, findings.entries, _profile(tables).dict())
    return IngestReport.of(config.source, tables, source.synthetic)


def _ingest_stored(
    config: IngestConfig,
    source: Source,
    raw: StoredTables,
    out: Path,
    *,
    findings: Findings,
    progress: Progress | None,
) -> IngestReport:
    """Write the tidy tables of a source whose interactions may not fit in memory."""
    log, ids = raw.interactions, INTEGERS
    present = {key: log.distinct(key) for key in ("user_id", "item_id")}
    sides = Tables(log.schema.empty_table(), sorted_by_id(raw.users), sorted_by_id(raw.items))
    sides = with_all_rows(sides, ids, findings, present)
    tables = StoredTables(log, sides.users, settled(sides.items, source.lists_all_items))
    note_changes(tables.items.slice(0, 0), tables.items, ids.items, findings)

    counter = ProgressCounter(progress, len(log))
    tables.write(out, counter.advance)
    ids.write(out)
    for file in raw.more:
        shutil.move(file, out / file.name)
    found = stored_profile(log, users=present["user_id"], items=present["item_id"])
    write_report(out, findings.entries, found.dict())
    if source.work is not None:
        shutil.rmtree(source.work, ignore_errors=True)
    return IngestReport.of(config.source, tables, source.synthetic)


def _profile(tables: Tables) -> Profile:
    log = tables.interactions
    has_time = "timestamp" in log.column_names
    return profile(
        users=log["user_id"].to_numpy(),
        items=log["item_id"].to_numpy(),
        seconds=log["timestamp"].to_numpy() if has_time else None,
    )


def encoded(raw: Mapping[str, pa.Table], ids: RunIds) -> dict[str, pa.Table]:
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
    files = source_of(config).files()
    for path in config.vectors.values():
        file = place_of(config.path, path)
        files += [file, ids_file(file)]
    return list(dict.fromkeys(files))


def source_of(config: IngestConfig, wanted: Wanted | None = None) -> Source:
    if wanted is not None:  # what .npy files have is not in the source
        users, items = (
            tuple(name for name in names if name not in config.vectors)
            for names in (wanted.users, wanted.items)
        )
        wanted = wanted._replace(users=users, items=items)
    settings = getattr(config, config.source.replace("-", "_"), None)
    return SOURCES[config.source](config.path, settings, wanted)


def check_place(source: str, path: Path | None) -> None:
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
