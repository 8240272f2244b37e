"""Any interactions kept as parquet: columns are mapped by name, ids and references are checked."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from workflows.errors import DataError
from workflows.tables import Tables, repeated_pairs, sorted_by_id

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class ParquetConfig(BaseModel, extra="forbid"):
    """Where the parquet files are and what their columns mean."""

    interactions: Path = Field(
        ..., description="File, folder or glob of the interactions; relative to the data path."
    )
    users: Path | None = Field(
        None,
        description="File, folder or glob with one row a user. Without it the user features are "
        "taken from the interactions: the last row of a user, in file order, wins.",
    )
    items: Path | None = Field(
        None, description="The same for items. Without it the last row of an item wins."
    )
    columns: dict[str, str] = Field(
        {},
        description="Our column name -> the name in the files, where they differ, such as "
        "{user_id: uid, item_id: sku}. A users or items file may use either.",
    )
    keep: list[str] = Field(
        [], description="More columns of the interactions to keep: rating, timestamp, click, ..."
    )
    user_features: list[str] = Field([], description="Columns of the user table beside user_id.")
    item_features: list[str] = Field([], description="Columns of the item table beside item_id.")
    duplicates: Literal["error", "keep_last", "keep_all"] = Field(
        "error",
        description="What to do with a (user_id, item_id) pair that occurs again. For a log of "
        "impressions keep_all: keep_last would let a later row without a click replace a click.",
    )


def read_parquet(
    config: ParquetConfig,
    base: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tables:
    """Read and check the files that `config` names, one column at a time.

    Integers and booleans become int64, beside nulls too; floats float64, `rating` float32,
    `timestamp` int64 unix seconds. `base` is the folder that relative paths start from. Raises
    DataError naming the file, the column, the row (from 1) and the value.
    """
    features = (*config.keep, *config.user_features, *config.item_features)
    given = [path for path in (config.users, config.items) if path is not None]
    reading = _Progress(progress, 2 + len(features) + len(given))
    source = _Files(config.interactions, base, config.columns, reading)
    user_ids, item_ids = source.ids("user_id"), source.ids("item_id")
    rows = _rows_to_keep(config, source, user_ids, item_ids)
    columns = {"user_id": pa.array(user_ids[rows]), "item_id": pa.array(item_ids[rows])}
    columns |= {name: source.feature(name).take(rows) for name in config.keep}

    def side(path: Path | None, key: str, ids: np.ndarray, features: list[str]) -> pa.Table:
        if path is None:
            return _last_rows(source, key, ids, features)
        table = _given_table(_Files(path, base, config.columns, reading), key, features)
        _check_references(source, key, ids, table, path)
        return table

    return Tables(
        pa.table(columns),
        side(config.users, "user_id", user_ids, config.user_features),
        side(config.items, "item_id", item_ids, config.item_features),
    )


def read_parquet_day(
    config: ParquetConfig,
    base: Path,
    before: Tables,
    progress: Callable[[int, int], None] | None = None,
) -> Tables:
    """As `read_parquet`, of a day that may have no interactions: only users, or items, or both.

    A table without any row in `base` has the columns of `before` and no row.
    """
    if _rows_in(base / config.interactions):
        return read_parquet(config, base, progress)
    sides = {
        "users": (config.users, "user_id", config.user_features),
        "items": (config.items, "item_id", config.item_features),
    }
    sides = {name: side for name, side in sides.items() if side[0] and _rows_in(base / side[0])}
    if not sides:
        paths = [path for path in (config.interactions, config.users, config.items) if path]
        raise DataError(f"{base}: no row in {', '.join(map(str, paths))}; nothing to take in")
    reading = _Progress(progress, sum(1 + len(features) for *_, features in sides.values()))
    tables = {name: table.slice(0, 0) for name, table in before._asdict().items()}
    for name, (path, key, features) in sides.items():
        tables[name] = _given_table(_Files(path, base, config.columns, reading), key, features)
    return Tables(**tables)


def _rows_in(path: Path) -> int:
    """How many rows the files that `path` names have, 0 without a file."""
    try:
        files = _expand(path)
    except DataError:
        return 0
    return sum(_open(file).metadata.num_rows for file in files)


def _rows_to_keep(
    config: ParquetConfig, source: _Files, user_ids: np.ndarray, item_ids: np.ndarray
) -> np.ndarray:
    """Row numbers that `duplicates` leaves, ascending."""
    kept = np.ones(len(user_ids), dtype=bool)
    if config.duplicates == "keep_last":
        # Seen from the end, the last row of a pair is its first.
        repeats, _ = repeated_pairs(user_ids[::-1], item_ids[::-1])
        kept[len(kept) - 1 - repeats] = False
    elif config.duplicates == "error":
        repeats, firsts = repeated_pairs(user_ids, item_ids)
        if len(repeats):
            row, first = int(repeats[0]), int(firsts[0])
            raise DataError(
                f"{source.row(row)}: user_id {user_ids[row]} and item_id {item_ids[row]} occur "
                f"already in {source.row(first)}; remove one, or set `duplicates` to keep_last "
                "or keep_all"
            )
    return np.flatnonzero(kept)


def _last_rows(source: _Files, key: str, ids: np.ndarray, features: Sequence[str]) -> pa.Table:
    unique, from_end = np.unique(ids[::-1], return_index=True)
    rows = len(ids) - 1 - from_end
    columns = {key: pa.array(unique)}
    return pa.table(columns | {name: source.feature(name).take(rows) for name in features})


def _given_table(source: _Files, key: str, features: Sequence[str]) -> pa.Table:
    ids = source.ids(key)
    repeats, firsts = repeated_pairs(ids, np.zeros_like(ids))
    if len(repeats):
        raise DataError(
            f"{source.row(int(repeats[0]))}: {key} {ids[repeats[0]]} has a row already, "
            f"{source.row(int(firsts[0]))}; expected one row each"
        )
    return sorted_by_id(
        pa.table({key: pa.array(ids)} | {name: source.feature(name) for name in features})
    )


def _check_references(
    source: _Files, key: str, ids: np.ndarray, table: pa.Table, path: Path
) -> None:
    unknown = ~np.isin(ids, table[key].to_numpy())
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"{source.row(row)}: {key} {ids[row]} has no row in {path} "
            f"({int(unknown.sum())} such rows); add it there or leave these interactions out"
        )


class _Progress:
    def __init__(self, report: Callable[[int, int], None] | None, total: int):
        self._report, self._total, self._done = report, total, 0

    def step(self) -> None:
        self._done += 1
        if self._report:
            self._report(self._done, self._total)


class _Files:
    """One table kept in one or more parquet files, read column by column to bound the memory."""

    def __init__(self, path: Path, base: Path | None, columns: dict[str, str], reading: _Progress):
        self._paths = _expand(base / path if base else path)
        self._mapping = columns
        self._reading = reading
        self._files = [_open(p) for p in self._paths]
        self._ends = np.cumsum([file.metadata.num_rows for file in self._files])
        if self._ends[-1] == 0:
            raise DataError(f"{self._paths[0]}: no rows")

    def row(self, number: int) -> str:
        """Row `number` (0-based over all files) as messages show it."""
        index = int(np.searchsorted(self._ends, number, side="right"))
        start = self._ends[index - 1] if index else 0
        return f"{self._paths[index]}, row {number - start + 1}"

    def ids(self, name: str) -> np.ndarray:
        """A column of ids as int64, without nulls or negative values."""
        column = self._read(name)
        source = self._name_in(name, 0)
        advice = "ids must be whole numbers of 0 or more"
        if column.null_count:
            row = int(np.argmax(pc.is_null(column).to_numpy()))
            raise DataError(
                f"{self.row(row)}, column {source}: null; {advice}. Leave such rows out"
            )
        if not pa.types.is_int64(column.type):
            row = 0
            if pa.types.is_floating(column.type):
                row = int(np.argmax(column.to_numpy() % 1 != 0))
            raise DataError(
                f"{self.row(row)}, column {source}: {column[row].as_py()!r} ({column.type}); "
                f"{advice}. Number the values (pandas.factorize) or cast the column to int64"
            )
        values = column.to_numpy()
        if (values < 0).any():
            row = int(np.argmax(values < 0))
            raise DataError(f"{self.row(row)}, column {source}: {values[row]}; {advice}")
        return values

    def feature(self, name: str) -> pa.ChunkedArray:
        """A column in its tidy type, one of int64, float64, string, list."""
        column = self._read(name)
        if name == "rating":
            return self._cast(column, name, pa.float32())
        if name == "timestamp":
            return self._cast(column, name, pa.int64())
        return column

    def _read(self, name: str) -> pa.ChunkedArray:
        parts = []
        for index, (path, file) in enumerate(zip(self._paths, self._files, strict=True)):
            source = self._name_in(name, index)
            try:
                column = file.read(columns=[source]).column(0)
                parts.append(_tidy(column))
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{path}, column {source}: cannot be read: {error}") from error
            except pa.ArrowNotImplementedError as error:
                raise DataError(f"{path}, column {source}: {error}") from error
        self._reading.step()
        types = {part.type for part in parts}
        if types == {pa.int64(), pa.float64()}:
            parts = [part.cast(pa.float64()) for part in parts]
        elif len(types) > 1:
            raise DataError(
                f"{self._paths[0]} and others, column {name}: different types in the files "
                f"({', '.join(sorted(map(str, types)))})"
            )
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)

    def _name_in(self, name: str, index: int) -> str:
        there = self._files[index].schema_arrow.names
        mapped = self._mapping.get(name, name)
        for candidate in (mapped, name):
            if candidate in there:
                return candidate
        raise DataError(
            f"{self._paths[index]}: no column {mapped}; there are {', '.join(there)}. "
            f"Map it in the config: columns: {{{name}: <name in the file>}}"
        )

    def _cast(self, column: pa.ChunkedArray, name: str, wanted: pa.DataType) -> pa.ChunkedArray:
        try:
            column = column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{self._paths[0]}, column {self._name_in(name, 0)}: expected numbers as {wanted} "
                f"for {name}: {error}"
            ) from error
        if column.null_count:
            row = int(np.argmax(pc.is_null(column).to_numpy()))
            raise DataError(f"{self.row(row)}, column {self._name_in(name, 0)}: null {name}")
        return column


def _expand(path: Path) -> list[Path]:
    """The files that `path` names, in natural order (part.2 before part.10)."""
    if path.is_dir():
        found: Iterable[Path] = path.rglob("*.parquet")
    elif path.is_file():
        found = [path]
    else:
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
    files = sorted(found, key=_natural)
    if not files:
        raise DataError(f"{path}: no parquet file there")
    return files


def _natural(path: Path) -> list[str | int]:
    # Text and digits alternate, so that two paths always compare like with like.
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", str(path))]


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error


def _tidy(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as int64, float64, string or list of these."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _tidy(column.cast(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.list_(_tidy_type(kind.value_type)))
    if pa.types.is_timestamp(kind):
        return pc.divide(column.cast(pa.int64()), _PER_SECOND[kind.unit])
    return column.cast(_tidy_type(kind))


def _tidy_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    raise pa.ArrowNotImplementedError(
        f"type {kind} is not supported; store numbers, strings or lists of these"
    )
