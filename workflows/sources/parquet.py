"""Any interactions kept as parquet: columns are mapped by name, ids and references are checked."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from twotower.workflows.errors import DataError
from twotower.workflows.tables import Tables, repeated_pairs, sorted_by_id

UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)
"""What pyarrow raises for damaged files; MemoryError for a damaged size."""

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_EARLIEST, _LATEST = 10**8, 4_102_444_800  # seconds: March 1973 and the year 2100

_IDS = "ids must be whole numbers of 0 or more"
_LOWER_BITS = (
    "Of hashes keep the lower 63 bits, which are the same every day: in pandas "
    '(column & (2**63 - 1)).astype("int64")'
)
_TEXT_IDS = (
    "Number the values where the files are made. A value needs the same number every day, which "
    "pandas.factorize does not give: hash the texts, in pandas "
    '(pandas.util.hash_array(column.to_numpy()) >> 1).astype("int64"), or keep a table of values '
    "and numbers and add new values at its end"
)


_TIMES = (
    "Store seconds since 1970, or times: in pandas pandas.to_datetime(column, utc=True) makes them "
    'of texts, and with format="%Y%m%d" of numbers like 20201231'
)


def ignore(line: str) -> None:
    """No-op callback."""


class ParquetConfig(BaseModel, extra="forbid"):
    """Where the parquet files are and what their columns mean."""

    interactions: Path = Field(
        ...,
        description="File, folder or glob pattern with one row per interaction, relative to "
        "`ingest.path`.",
    )
    users: Path | None = Field(
        None,
        description="File, folder or glob pattern with one row per user. Without it, user features "
        "are read from the interactions (see `differing`).",
    )
    items: Path | None = Field(
        None,
        description="File, folder or glob pattern with one row per item. Without it, item features "
        "are read from the interactions (see `differing`).",
    )
    columns: dict[str, str] = Field(
        {},
        description="Column names that differ in the files, as {name in this project: name in the "
        "file}, for example {user_id: uid, item_id: sku}. A users or items file may use either "
        "name.",
    )
    keep: list[str] = Field(
        [],
        description="Further columns of the interactions to keep, for example rating, timestamp or "
        "click.",
    )
    user_features: list[str] = Field([], description="Columns of the user table, without user_id.")
    item_features: list[str] = Field([], description="Columns of the item table, without item_id.")
    duplicates: Literal["error", "keep_last", "keep_all"] = Field(
        "error",
        description="What to do when a (user_id, item_id) pair occurs more than once. error: stop. "
        "keep_last: keep only its last row. keep_all: keep all rows; use it for a log of "
        "impressions, where a later row without a click must not replace a click.",
    )
    differing: Literal["error", "keep_last"] = Field(
        "error",
        description="What to do when a feature that is read from the interactions has more than "
        "one value for a user or an item. error: stop. keep_last: use the value of the last row in "
        "file order. That row may belong to the test part, which makes test metrics too high.",
    )


def read_parquet(
    config: ParquetConfig,
    base: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = ignore,
    need_values: bool = True,
) -> Tables:
    """Read and check the files that `config` names, one column at a time.

    Integers and booleans become int64, beside nulls too, floats and decimals float64, dates and
    times int64 unix seconds; of the interactions `rating` becomes float32 and `timestamp` int64
    unix seconds. `base` is the folder that relative paths start from. `tell` gets a line for each
    thing that was read in a way that the reader should know of. A column without any value has no
    type: it is refused, or without `need_values` kept as nulls. Raises DataError naming the file,
    the column, the row (from 1) and the value.
    """
    features = (*config.keep, *config.user_features, *config.item_features)
    given = [path for path in (config.users, config.items) if path is not None]
    reading = _Progress(progress, 2 + len(features) + len(given))
    source = _Files(config.interactions, base, config.columns, reading, tell, need_values)
    user_ids, item_ids = source.ids("user_id"), source.ids("item_id")
    rows = _rows_to_keep(config, source, user_ids, item_ids, tell)
    columns = {"user_id": pa.array(user_ids[rows]), "item_id": pa.array(item_ids[rows])}
    columns |= {name: source.kept(name).take(rows) for name in config.keep}

    def side(path: Path | None, key: str, ids: np.ndarray, features: list[str]) -> pa.Table:
        if path is None:
            return _last_rows(source, key, ids, features, config.differing, tell)
        files = _Files(path, base, config.columns, reading, tell, need_values)
        table = _given_table(files, key, features)
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
    tell: Callable[[str], None] = ignore,
) -> Tables:
    """Like `read_parquet`, for a day, which may have only users or items and no interactions.

    A table without any row in `base` has the columns of `before` and no row. A column may have no
    value in any row: `tables.merge` gives it the type that it has in `before`.
    """
    if _rows_in(base / config.interactions):
        return read_parquet(config, base, progress, tell, need_values=False)
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
        files = _Files(path, base, config.columns, reading, tell, need_values=False)
        tables[name] = _given_table(files, key, features)
    return Tables(**tables)


def _rows_in(path: Path) -> int:
    """Number of rows in the files that `path` names; 0 if there is no file."""
    try:
        files = expand(path)
    except DataError:
        return 0
    return sum(_open(file).metadata.num_rows for file in files)


def _rows_to_keep(
    config: ParquetConfig,
    source: _Files,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    tell: Callable[[str], None],
) -> np.ndarray:
    """Row numbers that `duplicates` leaves, ascending."""
    kept = np.ones(len(user_ids), dtype=bool)
    # Seen from the end, the last row of a pair is its first.
    step = -1 if config.duplicates == "keep_last" else 1
    repeats, firsts = repeated_pairs(user_ids[::step], item_ids[::step])
    if not len(repeats):
        return np.flatnonzero(kept)
    if config.duplicates == "error":
        row, first = int(repeats[0]), int(firsts[0])
        raise DataError(
            f"{source.row(row)}: user_id {user_ids[row]} and item_id {item_ids[row]} occur "
            f"already in {source.row(first)} ({len(repeats):,} rows repeat a pair); remove one, "
            "or set ingest.parquet.duplicates to keep_last or keep_all"
        )
    done = "all are kept, and of a pair's positive rows the split takes the last"
    if config.duplicates == "keep_last":
        done = "of each pair the last row is kept"
        kept[len(kept) - 1 - repeats] = False
    tell(f"{len(repeats):,} of {len(kept):,} rows repeat a user_id and item_id; {done}")
    return np.flatnonzero(kept)


def _last_rows(
    source: _Files,
    key: str,
    ids: np.ndarray,
    features: Sequence[str],
    differing: str,
    tell: Callable[[str], None],
) -> pa.Table:
    unique, from_end, row_of = np.unique(ids[::-1], return_index=True, return_inverse=True)
    rows, row_of = len(ids) - 1 - from_end, row_of[::-1]
    columns = {key: pa.array(unique)}
    for name in features:
        column = source.feature(name)
        columns[name] = column.take(rows)
        codes = _codes(column)
        differs = codes != codes[rows][row_of]
        if not differs.any():
            continue
        row = int(differs.argmax())
        side, count = key.partition("_")[0], len(np.unique(ids[differs]))
        found = f"{count:,} of {len(unique):,} {side}s have more than one value"
        if differing == "error":
            value, last = _shown(column[row]), _shown(columns[name][int(row_of[row])])
            raise DataError(
                f"{source.row(row)}, column {name}: {value} of {key} {ids[row]}, "
                f"which has {last} in a later row; {found}. Put the {side}s into a table of one "
                f"row each and name it under ingest.parquet.{side}s, or set "
                "ingest.parquet.differing to keep_last; the last row may be of the test part, "
                "whose figures are then too good"
            )
        tell(f"column {name}: {found}; the last row is taken, which may be of the test part")
    return pa.table(columns)


def _shown(value: pa.Scalar) -> str:
    return repr(value.as_py()) if value.is_valid else "no value"


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number per row, equal where the values are; nulls equal each other."""
    if pa.types.is_list(column.type):
        rows = [None if row is None else tuple(row) for row in column.to_pylist()]
        return pd.factorize(pd.Series(rows, dtype=object))[0]
    if pa.types.is_floating(column.type):  # Arrow tells 0.0 from -0.0
        return pd.factorize(column.to_numpy())[0]
    codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in column.dictionary_encode().chunks]
    return np.concatenate(codes)


def _given_table(source: _Files, key: str, features: Sequence[str]) -> pa.Table:
    ids = source.ids(key)
    repeats, firsts = repeated_pairs(ids, np.zeros_like(ids))
    if len(repeats):
        raise DataError(
            f"{source.row(int(repeats[0]))}: {key} {ids[repeats[0]]} has a row already, "
            f"{source.row(int(firsts[0]))} ({len(repeats):,} such rows); leave one row of each"
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

    def __init__(
        self,
        path: Path,
        base: Path | None,
        columns: dict[str, str],
        reading: _Progress,
        tell: Callable[[str], None] = ignore,
        need_values: bool = True,
    ):
        self._paths = expand(base / path if base else path)
        self._mapping = columns
        self._reading, self._tell, self._need_values = reading, tell, need_values
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
        if column.null_count:
            row = int(np.argmax(pc.is_null(column).to_numpy()))
            raise self._bad_id(name, row, "null", f"Leave such rows out ({column.null_count:,})")
        if pa.types.is_floating(column.type):
            row, advice = _float_id(column.to_numpy())
            raise self._bad_id(name, row, f"{column[row].as_py()!r} ({column.type})", advice)
        if not pa.types.is_int64(column.type):
            raise self._bad_id(name, 0, f"{column[0].as_py()!r} ({column.type})", _TEXT_IDS)
        values = column.to_numpy()
        if (values < 0).any():
            row = int(np.argmax(values < 0))
            raise self._bad_id(name, row, str(values[row]), _LOWER_BITS)
        return values

    def _bad_id(self, name: str, row: int, found: str, advice: str) -> DataError:
        where = f"{self.row(row)}, column {self._name_in(name, 0)}"
        return DataError(f"{where}: {found}; {_IDS}. {advice}")

    def kept(self, name: str) -> pa.ChunkedArray:
        """A column of the interactions that is no feature, in its tidy type."""
        if name == "rating":
            return self._cast(self._read(name), name, pa.float32())
        if name == "timestamp":
            return self._seconds(name)
        return self.feature(name)

    def feature(self, name: str) -> pa.ChunkedArray:
        """A column in its tidy type, one of int64, float64, string, list."""
        return self._read(name)

    def _seconds(self, name: str) -> pa.ChunkedArray:
        """A column of times as int64 unix seconds; the unit of numbers is told by their size."""
        times = self._whole_numbers(name)
        if _is_time(self._type_in(name, 0)):
            return times
        values = times.to_numpy()
        low, high = int(values.min()), int(values.max())
        row = int(values.argmax())
        if low < 0:
            row, reason = int(values.argmin()), "it is before 1970"
        elif _are_dates(values):
            reason = "it may be a date, or seconds of the year 1970"
        elif high < _LATEST:
            if high < _EARLIEST:
                self._tell(
                    f"column {self._name_in(name, 0)}: the numbers are taken for seconds since "
                    f"1970, the largest, {high}, for {pd.Timestamp(high, unit='s')}"
                )
            return times
        else:
            for unit, per_second in _UNITS.items():
                if _EARLIEST * per_second <= low and high < _LATEST * per_second:
                    when = pd.Timestamp(high // per_second, unit="s")
                    self._tell(
                        f"column {self._name_in(name, 0)}: the numbers are taken for {unit} since "
                        f"1970, {high} for {when}"
                    )
                    return pc.divide(times, per_second)
            reason = "seconds since 1970 would lie beyond the year 2100"
        raise DataError(
            f"{self.row(row)}, column {self._name_in(name, 0)}: {values[row]}; {reason}. {_TIMES}"
        )

    def _whole_numbers(self, name: str) -> pa.ChunkedArray:
        """A column of times as int64, fractions rounded down."""
        for index, path in enumerate(self._paths):
            if pa.types.is_boolean(self._type_in(name, index)):
                raise DataError(
                    f"{path}, column {self._name_in(name, index)}: booleans are no times. {_TIMES}"
                )
        column = self._read(name)
        if pa.types.is_string(column.type):
            try:
                column = column.cast(pa.int64())  # exact, unlike by way of floats
            except pa.ArrowInvalid:
                with contextlib.suppress(pa.ArrowInvalid):  # `_cast` names the value
                    column = _without_nan(column.cast(pa.float64()))
        if pa.types.is_floating(column.type):
            whole = pc.floor(column)
            if fractions := pc.sum(pc.not_equal(whole, column)).as_py():
                self._tell(
                    f"column {self._name_in(name, 0)}: {fractions:,} numbers have a fraction, "
                    "which is dropped (times are whole seconds)"
                )
            column = whole
        return self._cast(column, name, pa.int64())

    def _read(self, name: str) -> pa.ChunkedArray:
        parts, kinds = [], set()
        for index, (path, file) in enumerate(zip(self._paths, self._files, strict=True)):
            source = self._name_in(name, index)
            try:
                column = file.read(columns=[source]).column(0)
                parts.append(_tidy(column))
            except pa.ArrowNotImplementedError as error:
                raise DataError(f"{path}, column {source}: {error}") from error
            except UNREADABLE as error:
                raise DataError(f"{path}, column {source}: cannot be read: {error}") from error
            if not _untyped(parts[-1].type):
                kinds.add("times" if _is_time(column.type) else str(parts[-1].type))
        self._reading.step()
        if not kinds and self._need_values:
            raise DataError(
                f"{self._paths[0]}, column {self._name_in(name, 0)}: no value in any row; leave "
                "the column out"
            )
        if kinds == {"int64", "double"}:
            parts = [part.cast(pa.float64()) for part in parts]
        elif len(kinds) > 1:
            raise DataError(
                f"{self._paths[0]} and others, column {name}: different types in the files "
                f"({', '.join(sorted(kinds))}); store one type in all of them"
            )
        # A file without any value of a column may have stored it without a type.
        types = [part.type for part in parts]
        kind = min(types, key=lambda each: (_untyped(each), pa.types.is_null(each)))
        chunks = [chunk for part in parts for chunk in part.cast(kind).chunks]
        return pa.chunked_array(chunks, kind)

    def _type_in(self, name: str, index: int) -> pa.DataType:
        return self._files[index].schema_arrow.field(self._name_in(name, index)).type

    def _name_in(self, name: str, index: int) -> str:
        there = self._files[index].schema_arrow.names
        if not name:
            raise DataError(
                f"{self._paths[index]}, column '': a column needs a name; give it one in the "
                "config: columns: {<name>: ''}, and list that name in place of ''"
            )
        mapped = self._mapping.get(name, name)
        for candidate in (mapped, name):
            if there.count(candidate) > 1:
                raise DataError(
                    f"{self._paths[index]}: {there.count(candidate)} columns named {candidate}; "
                    "give each a name of its own"
                )
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
                f"for {name}: {error}. {_TIMES if name == 'timestamp' else ''}".rstrip()
            ) from error
        if column.null_count:
            row = int(np.argmax(pc.is_null(column).to_numpy()))
            raise DataError(
                f"{self.row(row)}, column {self._name_in(name, 0)}: null {name} "
                f"({column.null_count:,} such rows); leave such rows out or give them a value"
            )
        return column


def _float_id(ids: np.ndarray) -> tuple[int, str]:
    """An example row of float ids and the advice that fits them."""
    fractions = ~np.isfinite(ids) | (np.trunc(ids) != ids)
    if fractions.any():
        return int(fractions.argmax()), "Store the ids as whole numbers"
    row = int(np.abs(ids).argmax())
    if abs(ids[row]) < 2**53:
        return row, 'Cast the column: astype("int64")'
    return row, (
        "Make the file anew from ids that were never floats, as these have been rounded: in pandas "
        'read them as "Int64", which has nulls, too'
    )


def expand(path: Path) -> list[Path]:
    """The files that `path` names, in natural order (part.2 before part.10).

    Of a folder, which Spark may name like a file, all parquet files in it; hidden ones and those
    whose name, or folder's name, begins with "_" are no data.
    """
    found = [path] if path.exists() else map(Path, glob.glob(_pattern(path), recursive=True))
    files = set()
    for each in found:
        if each.is_file():
            files.add(each)
        files |= {
            file
            for file in each.rglob("*.parquet")
            if file.is_file()
            and not any(part.startswith(("_", ".")) for part in file.relative_to(each).parts)
        }
    if not files:
        raise DataError(f"{path}: no parquet file there")
    return sorted(files, key=_natural)


def _pattern(path: Path) -> str:
    """`path` as a glob pattern; glob characters in existing parent folders are escaped."""
    folder = path
    while not folder.exists():
        folder = folder.parent
    return str(Path(glob.escape(str(folder)), path.relative_to(folder)))


def _natural(path: Path) -> list[str | int]:
    # Text and digits alternate, so that two paths always compare like with like.
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", str(path))]


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
        file.schema_arrow.names  # noqa: B018 - damaged names show only when they are read
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    return file


def _tidy(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as int64, float64, string or list of these; null where there is no value."""
    kind = column.type
    if pa.types.is_null(kind):
        return column
    if pa.types.is_dictionary(kind):
        return _tidy(column.cast(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
        column = pa.chunked_array([_as_lists(chunk) for chunk in column.chunks], kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.list_(_tidy_type(kind.value_type)))
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        return pc.divide(column.cast(pa.int64()), _PER_SECOND[kind.unit])
    if pa.types.is_uint64(kind) and (high := pc.max(column).as_py() or 0) >= 2**63:
        raise ValueError(f"{high} is beyond 2**63 - 1. {_LOWER_BITS}")
    column = column.cast(_tidy_type(kind))
    if pa.types.is_floating(column.type):
        return _without_nan(column)
    return column


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_nan(column), None, column)


def _untyped(kind: pa.DataType) -> bool:
    """Whether a column of this type has no value in any row: only nulls, or lists of these."""
    return pa.types.is_null(kind.value_type if pa.types.is_list(kind) else kind)


def _as_lists(chunk: pa.FixedSizeListArray) -> pa.ListArray:
    """The same rows as lists of any length; older versions of Arrow have no cast for it.

    None of them is null: Arrow reads no file that has such a list.
    """
    offsets = np.arange(len(chunk) + 1, dtype=np.int32) * chunk.type.list_size
    return pa.ListArray.from_arrays(offsets, chunk.flatten())


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _are_dates(values: np.ndarray) -> bool:
    """Whether all numbers read as a date, such as 20201231."""
    month, day = values // 100 % 100, values % 100
    years = (values > 1900_00_00) & (values < 2101_00_00)
    return bool((years & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


def _tidy_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return kind
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_decimal(kind):
        return pa.float64() if kind.scale else pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    if any(is_kind(kind) for is_kind in text):
        return pa.string()
    raise pa.ArrowNotImplementedError(
        f"type {kind} is not supported; store numbers, strings or lists of these"
    )
