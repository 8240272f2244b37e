"""A published data set: source `files` reads its interactions, its layout knows the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.ids import plain_type
from twotower.workflows.sources.base import IdTypes, OnMessage, Progress, Source, ignore
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.source import FilesSource
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.layouts.place import Place, places
from twotower.workflows.tables import Tables

Side = Literal["users", "items"]


class Published(Source):
    """A data set in the layout in which it is published.

    Attributes
    ----------
    download : str
        Where to get it, for messages.
    folders : tuple of str
        The names of the folders, or zips, in which it is published.
    """

    download: ClassVar[str]
    folders: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def is_at(cls, place: Place) -> bool:
        """Whether a place has a file of the layout, by its name and its first lines."""

    @abstractmethod
    def interactions(self, place: Place) -> FilesConfig | None:
        """How source `files` reads the interactions; None if the place has none.

        Raises
        ------
        DataError
            If it is not clear which file has them.
        """

    def side_files(self, place: Place) -> Mapping[Side, str]:
        """The files that the place has with one row per user, or per item."""
        return {}

    def read_side(
        self, place: Place, side: Side, ids: pa.ChunkedArray | None, findings: Findings
    ) -> pa.Table:
        """Read a file of `side_files`.

        Parameters
        ----------
        place : Place
        side : str
        ids : ChunkedArray or None
            The users or items of the interactions, if there are interactions.
        findings : Findings
            Gets what was left out.

        Returns
        -------
        Table
            The first column is user_id or item_id, of any type that can be cast to that of the
            interactions.
        """
        raise NotImplementedError

    def check(self, interactions: pa.Table) -> None:
        """Raise DataError if the interactions have a value that the layout does not have."""

    @classmethod
    def find(cls, path: Path) -> Place | None:
        """Find the data at `path`, or in a folder or zip of it with one of the usual names."""
        return next((place for place in places(path, cls.folders) if cls.is_at(place)), None)

    @classmethod
    def recognise(cls, path: Path) -> Path | None:
        """Find the data (see `find`)."""
        place = cls.find(path)
        return place and place.root

    def files(self) -> list[Path]:
        """The files that are read, or the zip."""
        place = self._place(self.path)
        if not place.root.is_dir():
            return [place.root]
        config = self.interactions(place)
        names: list[str | Path] = [*(config.paths if config else ())]
        names += self.side_files(place).values()
        return [place.folder / name for name in names]

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Read all tables. `progress` counts the columns of the interactions."""
        place, findings = self._place(self.path), Findings.of(on_message)
        config = self.interactions(place)
        if config is None:
            raise DataError(f"{place.root}: no file with interactions; expected {self.contents}")
        tables = self._files_source(place, config).read(progress, findings)
        return Tables(**self._completed(place, tables._asdict(), {}, findings))

    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read new interactions, users and items, as many of them as there are."""
        place, findings = self._place(folder), Findings.of(on_message)
        config, tables = self.interactions(place), {}
        if config is not None:
            source = self._files_source(place, config)
            tables = source.read_update(place.folder, id_types, progress, findings)
        completed = self._completed(place, tables, id_types, findings)
        # Without a file of their own, users and items keep the rows that they have.
        given = ("interactions", *self.side_files(place))
        return {name: completed[name] for name in given if name in completed}

    def _files_source(self, place: Place, config: FilesConfig) -> FilesSource:
        """The source of the interactions; they have no features of users or items."""
        return FilesSource(place.folder, config, self.wanted._replace(users=(), items=()))

    def _completed(
        self,
        place: Place,
        tables: dict[str, pa.Table],
        id_types: IdTypes,
        findings: Findings,
    ) -> dict[str, pa.Table]:
        """Check the interactions, and read the sides that have files of their own."""
        if "interactions" in tables:
            self.check(tables["interactions"])
        for side in self.side_files(place):
            key = f"{side[:-1]}_id"
            ids = tables[side][key] if side in tables else None
            rows = self.read_side(place, side, ids, findings)
            kind = plain_type(ids.type) if ids is not None else id_types[key]
            tables = {**tables, side: _one_row_per_id(_with_ids_of(kind, rows), side, findings)}
        return tables

    def _place(self, path: Path | None) -> Place:
        if path is None:
            raise DataError(
                f"source {self.name} needs `path` (--data): the folder or zip of the data set, "
                f"from {self.download}"
            )
        place = self.find(path)
        if place is None:
            raise DataError(f"{path}: no data of {self.contents} there, from {self.download}")
        return place


def _with_ids_of(kind: pa.DataType, rows: pa.Table) -> pa.Table:
    """Cast the ids of a table, its first column, to the type of those of the interactions."""
    key = rows.column_names[0]
    try:
        return rows.set_column(0, key, rows[0].cast(kind))
    except pa.ArrowInvalid as error:
        raise DataError(f"{key}: not of the kind as in the interactions: {error}") from error


def _one_row_per_id(rows: pa.Table, side: Side, findings: Findings) -> pa.Table:
    """Keep the last row of each id."""
    key = rows.column_names[0]
    numbered = pa.table({"id": rows[0], "row": pa.array(range(len(rows)), pa.int64())})
    last = numbered.group_by("id").aggregate([("row", "max")])["row_max"]
    findings.changed(
        "repeated_rows",
        len(rows) - len(last),
        f"{len(rows) - len(last):,} rows of {side} repeat a {key}",
        "the last row of each is used",
    )
    return rows.take(last)
