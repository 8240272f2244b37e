"""Read interactions, users and items from files whose columns are mapped by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from twotower.workflows.availability import AVAILABLE
from twotower.workflows.errors import DataError
from twotower.workflows.ids import plain_type
from twotower.workflows.order import ORDER
from twotower.workflows.sources.base import (
    IdTypes,
    OnMessage,
    Progress,
    ProgressCounter,
    Source,
    ignore,
)
from twotower.workflows.sources.columns import as_numbers
from twotower.workflows.sources.data_path import is_remote
from twotower.workflows.sources.files.catalogue import mark_available
from twotower.workflows.sources.files.config import FilesConfig, TableName
from twotower.workflows.sources.files.reader import ROW_COLUMNS, TableReader, known_types
from twotower.workflows.sources.files.tables import Log, rows_to_keep, side_table
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.paths import NoRows, expand, same_in_another_format
from twotower.workflows.sources.formats.table import FileTable, open_table
from twotower.workflows.sources.remote import local_copies
from twotower.workflows.sources.times import as_seconds
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.split_file import PARTS
from twotower.workflows.tables import Tables

_SIDES: tuple[tuple[TableName, str], ...] = (("users", "user_id"), ("items", "item_id"))


class FilesSource(Source):
    """Interactions in files, and optionally users and items.

    Columns get tidy types (see `arrow_types.tidy`). In the interactions, `rating` becomes float32,
    `timestamp` becomes int64 unix seconds, and the column `order` of the settings becomes int64.
    """

    name = "files"
    names_files = True

    def __init__(
        self, path: Path | None, settings: FilesConfig | None, wanted: Wanted | None = None
    ):
        super().__init__(path, settings, wanted)
        self._mixed: set[str] = set()

    @property
    def mixed(self) -> set[str]:
        """The tables with columns of their own file and of the interactions."""
        return self._mixed

    @property
    def duplicates(self) -> str:
        """What to do with repeated pairs: "error", "keep_last" or "keep_all"."""
        if self.config.duplicates != "auto":
            return self.config.duplicates
        return "keep_all" if self.wanted.every_row else "keep_last"

    @property
    def keeps_repeats(self) -> bool:
        """Whether all rows of a pair are kept."""
        return self.duplicates == "keep_all"

    @property
    def lists_all_items(self) -> bool:
        """Whether `catalogue` is complete."""
        return self.config.catalogue == "complete"

    @property
    def config(self) -> FilesConfig:
        """The settings; DataError if there are none."""
        if self.settings is None:
            raise DataError("source files needs the section `files` under `ingest`")
        return self.settings

    @property
    def base(self) -> Path:
        """The folder to which the paths in the settings are relative."""
        return self.path or Path()

    def files(self) -> list[Path]:
        """All files of the interactions, the users and the items; DataError if one is remote."""
        paths = [self.base / path for _, path in self._paths]
        for path in filter(is_remote, paths):
            raise DataError(f"{path}: not on this machine, as is needed here; copy the files first")
        found = [file.path for path in paths for file in expand(path, self.config.format)]
        return list(dict.fromkeys(found))

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Read all tables. `progress` counts columns, and before that the bytes of remote files."""
        paths = {name: self.base / path for name, path in self._paths}
        with local_copies(paths, Findings.of(on_message), progress) as (places, findings):
            tables = {name: self._open(name, place, findings) for name, place in places.items()}
            return Tables(**self._tables(tables, {}, progress, findings))

    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read all tables that have rows in `folder`, or the interactions if it is a file.

        In a folder or zip, a file may be in another format, under the same name with another
        ending. A column may have no value in any row: `tables.merge` gives it its type. A remote
        folder is copied whole.
        """
        with local_copies({"day": folder}, Findings.of(on_message), progress) as (places, findings):
            return self._read_day(places["day"], id_types, progress, findings)

    def read_items(
        self,
        path: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read a file of items and nothing else, as `read_update` does."""
        with local_copies({"items": path}, Findings.of(on_message), progress) as (places, findings):
            items = self._open("items", places["items"], findings)
            return self._tables({"items": items}, id_types, progress, findings)

    def _read_day(
        self, folder: Path, id_types: IdTypes, progress: Progress | None, findings: Findings
    ) -> dict[str, pa.Table]:
        tables: dict[TableName, FileTable] = {}
        is_table = folder.is_file() and folder.suffix != ".zip"
        if is_table:
            tables["interactions"] = self._open("interactions", folder, findings)
        for name, path in () if is_table else self._paths:
            if path.is_absolute():
                raise DataError(
                    f"{path}: ingest.files has an absolute path, but an update reads the same "
                    "files from another folder; make the path relative to ingest.path and run "
                    "`twotower ingest` again"
                )
            try:
                place = same_in_another_format(folder / path)
                tables[name] = self._open(name, place, findings)
            except NoRows:
                continue
        if not tables:
            names = ", ".join(map(str, self.config.paths))
            raise DataError(
                f"{folder}: no row in {names}; nothing to add. Give the files these names, or name "
                "a single file of interactions"
            )
        return self._tables(tables, id_types, progress, findings)

    @property
    def _paths(self) -> list[tuple[TableName, Path]]:
        config = self.config
        paths = {"interactions": config.interactions, "users": config.users, "items": config.items}
        return [(name, path) for name, path in paths.items() if path is not None]  # type: ignore[misc]

    def options(self, table: TableName) -> ReadOptions:
        """How to read the files of a table."""
        config, wanted = self.config, self.wanted
        names = ["user_id", "item_id", *ROW_COLUMNS, *config.keep, *config.text_columns]
        names += [*wanted.interactions, *wanted.users, *wanted.items, *config.catalogue_columns]
        types = {**wanted.types, **dict.fromkeys(config.text_columns, pa.string())}
        return ReadOptions(
            format=config.format,
            separator=config.separator,
            header=config.header,
            column_names=tuple(config.column_names.get(table, ())),
            encoding=config.encoding,
            quotes=config.quotes,
            types=known_types(types, self._names(table)),
            wanted=frozenset([*names, *(self._names(table).get(name, name) for name in names)]),
        )

    def _names(self, table: TableName) -> dict[str, str]:
        """The names in the files of a table, by those here, where they differ."""
        names = {
            f"{side[:-1]}_id": name
            for side, name in self.config.id_columns.items()
            if side == table
        }
        if self.config.order is not None:
            names[ORDER] = self.config.order
        return {**self.config.columns, **names}

    def _open(self, name: TableName, path: Path, findings: Findings) -> FileTable:
        return open_table(path, self.options(name), self._names(name), findings)

    def _tables(
        self,
        tables: dict[TableName, FileTable],
        types: IdTypes,
        progress: Progress | None,
        findings: Findings,
    ) -> dict[str, pa.Table]:
        """Read the wanted columns of the tables that are there."""
        wanted, kept = self.wanted, self._kept_columns(tables.get("interactions"))
        sides = {"users": wanted.users, "items": wanted.items}
        # The ids of each table are columns, too.
        total = len(tables) + len(kept) + sum(map(len, sides.values()))
        total += len(self.config.catalogue_columns)
        counter = ProgressCounter(progress, total + ("interactions" in tables))
        readers = {
            name: TableReader(table, counter, findings, wanted.categories)
            for name, table in tables.items()
        }
        found: dict[str, pa.Table] = {}
        logs: dict[str, Log] = {}
        if "interactions" in readers:
            reader = readers["interactions"]
            reader.keep_complete(
                ["user_id", "item_id", *(name for name in kept if name in ROW_COLUMNS)]
            )
            ids = {key: reader.ids(key, types.get(key)) for _, key in _SIDES}
            found["interactions"] = self._interactions(reader, ids, kept, findings)
            logs = {
                key: Log(reader, key, ids[key], self.config.differing, findings)
                for _, key in _SIDES
            }
        for name, key in _SIDES:
            log, given = logs.get(key), readers.get(name)
            if given is None and (log is None or getattr(self.config, name) is not None):
                continue  # an update without this file
            kind = plain_type(log.ids.type) if log is not None else types.get(key)
            columns = sides[name]
            if log is not None and given is not None and any(each not in given for each in columns):
                self._mixed.add(name)
            if name == "items" and given is not None and mark_available(given, self.config):
                columns = (*columns, AVAILABLE)
            found[name] = side_table(log, given, key, columns, kind, findings, wanted.vectors)
        return found

    def _kept_columns(self, log: FileTable | None) -> list[str]:
        """The columns of the interactions to keep, except ids."""
        if log is None:
            return []
        wanted, mapped = self.wanted, self._names("interactions")
        optional = [
            name
            for name in ROW_COLUMNS
            if name in mapped or (name == "timestamp" and wanted.ordered and name in log)
        ]
        names = dict.fromkeys([*self.config.keep, *optional, *wanted.interactions])
        return [name for name in names if name not in ("user_id", "item_id")]

    def _interactions(
        self,
        reader: TableReader,
        ids: dict[str, pa.Array],
        kept: list[str],
        findings: Findings,
    ) -> pa.Table:
        config = self.config
        rows = rows_to_keep(ids["user_id"], ids["item_id"], reader, self.duplicates, findings)
        columns = {key: column.take(rows) for key, column in ids.items()}
        for name in kept:
            if name == "part" and config.part_folders:
                columns[name] = reader.table.folders(PARTS).take(rows)
                continue
            column = reader.column(name)
            values = column.values
            if name == "rating":
                values = as_numbers(column, pa.float32())
            elif name == "timestamp":
                values = as_seconds(column, findings, config.time_format)
            elif name == ORDER:
                values = as_numbers(column, pa.int64(), "ingest.files.order is a column of these")
            columns[name] = values.take(rows)
        return pa.table(columns)
