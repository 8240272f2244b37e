"""From a source of interactions to tidy tables with raw ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from twotower.workflows.day import Day
from twotower.workflows.errors import DataError
from twotower.workflows.sources.movielens import read_movielens, read_movielens_day
from twotower.workflows.sources.official import LAYOUTS, find
from twotower.workflows.sources.parquet import (
    ParquetConfig,
    expand,
    ignore,
    read_parquet,
    read_parquet_day,
)
from twotower.workflows.sources.synthetic import SyntheticConfig, synthesise
from twotower.workflows.tables import Tables, merge


class IngestConfig(BaseModel, extra="forbid"):
    """Which data set, and where it is."""

    source: Literal["ml-1m", "ml-100k", "synthetic", "parquet"] = Field(
        ..., description="Format of the data. `synthetic` generates data and needs no files."
    )
    path: Path | None = Field(
        None,
        description="For ml-1m and ml-100k: the folder or zip with the official files, or a folder "
        "that contains it. For parquet: the folder to which the paths under `ingest.parquet` are "
        "relative. If relative, it is resolved against the working directory; the run folder "
        "stores the absolute path.",
    )
    parquet: ParquetConfig | None = Field(
        None, description="Files and columns to read. Required when `source` is parquet."
    )
    synthetic: SyntheticConfig = Field(
        SyntheticConfig(), description="Size and seed of the generated data set."
    )


class IngestReport(BaseModel):
    """What was read."""

    source: str
    users: int
    items: int
    interactions: int
    synthetic: bool

    @classmethod
    def of(cls, source: str, tables: Tables) -> IngestReport:
        """The report on `tables` of a source."""
        counts = {name: table.num_rows for name, table in tables._asdict().items()}
        return cls(source=source, synthetic=source == "synthetic", **counts)

    def __str__(self) -> str:
        """One line for people."""
        kind = "synthetic data" if self.synthetic else self.source
        return (
            f"{kind}: {self.interactions:,} interactions, {self.users:,} users, "
            f"{self.items:,} items"
        )


def ingest(
    config: IngestConfig,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = ignore,
) -> IngestReport:
    """Read and check the source, then write the tidy tables into `out`.

    `tell` gets a line for each thing that was read in a way that people should know of, such as
    repeated rows, with its count. Nothing is written before everything is checked. See
    `workflows.tables.Tables` for what interactions.parquet, users.parquet and items.parquet hold.
    Raises DataError.
    """
    tables = _read(config, progress, tell)
    tables.write(out)
    return IngestReport.of(config.source, tables)


def ingest_more(
    config: IngestConfig,
    data: Path,
    more: Path,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = ignore,
) -> Day | None:
    """The tidy tables in `data` merged with what `more` brings (see `tables.merge`).

    `more` is a folder or zip in the format of the source: the same files with new interactions
    and, as there, a row for every user and item that these name; or no interactions, only rows of
    users or items. None when it brings nothing. Raises DataError.
    """
    if config.source == "synthetic":
        raise DataError("source synthetic has no new data to read; make a run from a data set")
    fixed = [path for path in _parquet_paths(config) if path.is_absolute()]
    if fixed:
        raise DataError(
            f"{fixed[0]}: ingest.parquet names a place that does not change with the folder of the "
            "new data; make it relative to ingest.path and run `twotower ingest` again"
        )
    old = Tables.read(data)
    if config.source == "parquet" and config.parquet is not None:
        new = read_parquet_day(config.parquet, more, old, progress, tell)
    else:
        new = read_movielens_day(config.source, more, old, progress)
    keep_repeats = config.source == "parquet" and config.parquet.duplicates == "keep_all"
    merged, appended = merge(old, new, keep_repeats)
    return None if merged.same(old) else Day(old, new, merged, appended)


def _parquet_paths(config: IngestConfig) -> list[Path]:
    if config.source != "parquet" or config.parquet is None:
        return []
    files = config.parquet
    return [path for path in (files.interactions, files.users, files.items) if path is not None]


def source_files(config: IngestConfig) -> list[Path]:
    """The files that `ingest` would read, in a fixed order; none of synthetic data.

    Raises DataError when there are none of parquet.
    """
    if config.source == "synthetic" or (config.path is None and config.source != "parquet"):
        return []
    if config.source == "parquet":
        base = config.path or Path()
        return [file for path in _parquet_paths(config) for file in expand(base / path)]
    found = find(LAYOUTS[config.source], config.path)
    if found is None:
        return []
    if found.root.is_file():
        return [found.root]
    return [found.root / name for name in sorted(found.names)]


def _read(
    config: IngestConfig,
    progress: Callable[[int, int], None] | None,
    tell: Callable[[str], None],
) -> Tables:
    if config.source == "synthetic":
        return synthesise(config.synthetic, progress)
    if config.source == "parquet":
        if config.parquet is None:
            raise DataError("source parquet needs the section `parquet` in the config")
        return read_parquet(config.parquet, config.path, progress, tell)
    if config.path is None:
        raise DataError(f"source {config.source} needs `path`: the folder or zip of the data set")
    return read_movielens(config.source, config.path, progress)


def detect_source(path: Path) -> tuple[Literal["ml-1m", "ml-100k"], Path] | None:
    """Which official data set `path` holds, and the folder or zip it is in; None when neither.

    `path` is a folder with the files, a zip, or a folder with ml-1m/, ml-1m.zip, ml-100k/ or
    ml-100k.zip; where there are both, ML-1M wins. One file of a layout is enough to recognise
    it: what is missing is for `ingest` to say. Raises DataError for a damaged zip.
    """
    for layout in LAYOUTS.values():
        found = find(layout, path)
        if found:
            return layout.name, found.root
    return None
