"""Read interactions, users and items from parquet files whose columns are mapped by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.ids import plain_type
from twotower.workflows.sources.base import (
    IdTypes,
    OnMessage,
    Progress,
    ProgressCounter,
    Source,
    ignore,
)
from twotower.workflows.sources.columns import as_numbers
from twotower.workflows.sources.parquet.config import ParquetConfig
from twotower.workflows.sources.parquet.files import ParquetFiles, count_rows, expand
from twotower.workflows.sources.parquet.tables import (
    check_references,
    given_table,
    rows_to_keep,
    table_from_interactions,
)
from twotower.workflows.sources.times import as_seconds
from twotower.workflows.tables import Tables


class ParquetSource(Source):
    """Interactions in parquet files, and optionally users and items.

    Columns get tidy types (see `arrow_types.tidy`). In the interactions, `rating` becomes float32
    and `timestamp` becomes int64 unix seconds.
    """

    name = "parquet"
    names_files = True

    def __init__(self, path: Path | None, settings: ParquetConfig | None):
        super().__init__(path, settings)

    @property
    def keeps_repeats(self) -> bool:
        """Whether `duplicates` is keep_all."""
        return self.config.duplicates == "keep_all"

    @property
    def config(self) -> ParquetConfig:
        """The settings; DataError if there are none."""
        if self.settings is None:
            raise DataError("source parquet needs the section `parquet` under `ingest`")
        return self.settings

    @property
    def base(self) -> Path:
        """The folder to which the paths in the settings are relative."""
        return self.path or Path()

    def files(self) -> list[Path]:
        """All files of the interactions, the users and the items."""
        return [file for path in self.config.paths for file in expand(self.base / path)]

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Read all tables. `progress` counts columns."""
        return self._read(self.base, {}, progress, on_message)

    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read all tables or, if there is no new interaction, those of users or items.

        A column may have no value in any row: `tables.merge` gives it its type.
        """
        for path in self.config.paths:
            if path.is_absolute():
                raise DataError(
                    f"{path}: ingest.parquet has an absolute path, but an update reads the same "
                    "files from another folder; make the path relative to ingest.path and run "
                    "`twotower ingest` again"
                )
        if count_rows(folder / self.config.interactions):
            return self._read(folder, id_types, progress, on_message, need_values=False)._asdict()
        return self._read_sides(folder, id_types, progress)

    def _read(
        self,
        base: Path,
        types: IdTypes,
        progress: Progress | None,
        on_message: OnMessage,
        need_values: bool = True,
    ) -> Tables:
        config = self.config
        features = (*config.keep, *config.user_features, *config.item_features)
        sides = [path for path in (config.users, config.items) if path is not None]
        # The ids of the interactions and of each given table are columns, too.
        counter = ProgressCounter(progress, 2 + len(features) + len(sides))
        log = ParquetFiles(base / config.interactions, config.columns, counter, need_values)
        user_ids, item_ids = (log.ids(key, types.get(key)) for key in ("user_id", "item_id"))
        rows = rows_to_keep(
            user_ids, item_ids, log.rows, duplicates=config.duplicates, on_message=on_message
        )
        columns = {"user_id": user_ids.take(rows), "item_id": item_ids.take(rows)}
        for name in config.keep:
            column = _kept_column(log, name, config.time_format, on_message)
            columns[name] = column.take(rows)

        def side(path: Path | None, key: str, ids: pa.Array, features: list[str]) -> pa.Table:
            if path is None:
                return table_from_interactions(
                    log, key, ids, features, differing=config.differing, on_message=on_message
                )
            files = ParquetFiles(base / path, config.columns, counter, need_values)
            table = given_table(files, key, features, plain_type(ids.type))
            check_references(ids, log.rows, key, table, path)
            return table

        return Tables(
            interactions=pa.table(columns),
            users=side(config.users, "user_id", user_ids, config.user_features),
            items=side(config.items, "item_id", item_ids, config.item_features),
        )

    def _read_sides(
        self, base: Path, types: IdTypes, progress: Progress | None
    ) -> dict[str, pa.Table]:
        """Read the users, the items or both, where there are rows."""
        config = self.config
        sides = {
            name: (base / path, key, features)
            for name, path, key, features in (
                ("users", config.users, "user_id", config.user_features),
                ("items", config.items, "item_id", config.item_features),
            )
            if path is not None and count_rows(base / path)
        }
        if not sides:
            raise DataError(
                f"{base}: no row in {', '.join(map(str, config.paths))}; nothing to add"
            )
        total = sum(1 + len(features) for _, _, features in sides.values())
        counter = ProgressCounter(progress, total)
        tables = {}
        for name, (path, key, features) in sides.items():
            files = ParquetFiles(path, config.columns, counter, need_values=False)
            tables[name] = given_table(files, key, features, types[key])
        return tables


def _kept_column(
    log: ParquetFiles, name: str, time_format: str | None, on_message: OnMessage
) -> pa.ChunkedArray:
    """Read a column of the interactions; rating and timestamp have types of their own."""
    column = log.column(name)
    if name == "rating":
        return as_numbers(column, pa.float32())
    if name == "timestamp":
        return as_seconds(column, on_message, time_format)
    return column.values
