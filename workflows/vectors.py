"""Columns of pretrained vectors: checked, as arrays, and as columns of the tidy tables.

In the tidy tables a vector is a list of float32, and null where there is none. In arrays, a row of
zeros says that there is none: a vector of zeros has no direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError

if TYPE_CHECKING:
    from merlin.schema import Schema

    from twotower.workflows.features.sides import Side

VECTOR = pa.list_(pa.float32())
"""The type of a column of vectors in the tidy tables."""
FILE = "vectors.{}.npy"
"""The file of a column of vectors among the encoded tables."""
BLOCK = 1 << 27
"""Numbers that a chunk of a column has at most; its offsets are int32."""
STORE = (
    "Store one vector per row as a list of numbers, in parquet or JSON lines, or as a .npy file "
    "(ingest.vectors)"
)


def as_matrix(
    column: pa.ChunkedArray, dim: int, where: str, place: Callable[[int], str]
) -> np.ndarray:
    """Check a column of vectors, and return it as an array.

    Parameters
    ----------
    column : ChunkedArray, shape (n,)
        Lists of numbers. Null, an empty list and a list of nothing but NaN mean no vector.
    dim : int
        The length that each vector must have.
    where : str
        The column, for messages.
    place : callable
        Describes a row, counted from 0, with its id.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        Zeros in the rows without a vector.

    Raises
    ------
    DataError
        If the column has no lists of numbers, or a vector has another length or a number that is
        not finite. The message names the row.
    """
    matrix, start = np.zeros((len(column), dim), np.float32), 0
    for chunk in column.chunks:
        if chunk.null_count < len(chunk):
            lengths, numbers = _flat(chunk, where)
            wrong = np.flatnonzero((lengths != dim) & (lengths > 0))
            if len(wrong):
                raise DataError(
                    f"{place(start + int(wrong[0]))}: a vector of {lengths[wrong[0]]:,} numbers in "
                    f"{where}, but the settings say {dim:,} ({len(wrong):,} such rows); give every "
                    "vector this length, or correct the number under features"
                )
            rows = start + np.flatnonzero(lengths)
            matrix[rows] = numbers.reshape(-1, dim)
        start += len(chunk)
    return checked(matrix, where, place)


def _flat(chunk: pa.Array, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The length of each list, 0 for null, and the numbers of all lists."""
    kind = chunk.type
    is_fixed = pa.types.is_fixed_size_list(kind)
    is_list = is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    value = kind.value_type if is_list else kind
    if not is_list or not (pa.types.is_floating(value) or pa.types.is_integer(value)):
        raise DataError(f"{where} has values of type {kind}, not vectors. {STORE}")
    if is_fixed:
        valid = chunk.is_valid().to_numpy(False)
        size = kind.list_size
        values = chunk.values.slice(chunk.offset * size, len(chunk) * size)
        numbers = _numbers(values).reshape(len(chunk), size)[valid]
        return np.where(valid, size, 0), numbers.ravel()
    lengths = pc.fill_null(pc.list_value_length(chunk), 0)
    return lengths.to_numpy(False).astype(np.int64), _numbers(chunk.flatten())


def _numbers(values: pa.Array) -> np.ndarray:
    """Return numbers as float32, null as NaN."""
    if not pa.types.is_floating(values.type):
        values = values.cast(pa.float64(), safe=False)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def checked(matrix: np.ndarray, where: str, place: Callable[[int], str]) -> np.ndarray:
    """Replace rows of nothing but NaN by zeros, and check that all other numbers are finite.

    Raises
    ------
    DataError
        The message names the first wrong row.
    """
    for start in range(0, len(matrix), 1 << 16):
        block = matrix[start : start + (1 << 16)]
        bad = ~np.isfinite(block)
        if not bad.any():
            continue
        block[np.isnan(block).all(axis=1)] = 0
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = (int(each[0]) for each in np.nonzero(bad))
            raise DataError(
                f"{place(start + row)}: the vector in {where} has {block[row, column]} at place "
                f"{column}; numbers must be finite and fit in 32 bits. Leave out vectors that are "
                "not known (null)"
            )
    return matrix


def as_column(matrix: np.ndarray) -> pa.ChunkedArray:
    """Return vectors float32 [n, dim] as a column of the tidy tables; a row of zeros is null."""
    step = max(1, BLOCK // matrix.shape[1])
    starts = range(0, max(len(matrix), 1), step)
    return pa.chunked_array([_lists(matrix[start : start + step]) for start in starts], VECTOR)


def _lists(block: np.ndarray) -> pa.Array:
    known = block.any(axis=1)
    ends = np.append(0, np.cumsum(np.where(known, block.shape[1], 0))).astype(np.int32)
    missing = np.append(~known, False)  # the last offset ends the last list
    offsets = pa.array(ends, pa.int32(), mask=missing if missing.any() else None)
    kept = block if known.all() else block[known]
    return pa.ListArray.from_arrays(offsets, pa.array(np.ravel(kept), pa.float32()))


def read_matrix(path: Path, column: str, dim: int) -> np.ndarray:
    """Read a column of vectors of a tidy table as an array, see `as_matrix`."""
    values = pq.read_table(path, columns=[column])[column]
    return as_matrix(values, dim, f"column {column}", lambda row: f"{path}, row {row + 1}")


def check_vectors(path: Path, vectors: Mapping[str, int], setting: str) -> None:
    """Check that a tidy table has the columns of vectors, with the length of the settings.

    Parameters
    ----------
    path : Path
    vectors : mapping of str to int
        The length of each column.
    setting : str
        "features.item_vectors" or "features.user_vectors", for messages.

    Raises
    ------
    DataError
    """
    there = pq.read_schema(path)
    for column, dim in vectors.items():
        if column not in there.names:
            raise DataError(
                f"{setting}: the {path.stem} table has no column {column}; it has "
                f"{', '.join(there.names)}. If the files have it, run `twotower ingest` again"
            )
        if there.field(column).type != VECTOR:
            raise DataError(
                f"{setting}: column {column} was not read as vectors; run `twotower ingest` again"
            )
        lengths = pc.list_value_length(pq.read_table(path, columns=[column])[column])
        found = pc.drop_null(lengths.unique()).to_pylist()
        if not found:
            raise DataError(f"{setting}: column {column} has no vector in any row; leave it out")
        if found != [dim]:
            raise DataError(
                f"{setting}: the vectors in column {column} have {found[0]:,} numbers, but the "
                f"settings say {dim:,}; correct the setting"
            )


def save_vectors(table: Path, side: Side, out: Path) -> None:
    """Write the vectors of a tidy table, one array per column, which training maps into memory.

    Parameters
    ----------
    table : Path
        users.parquet or items.parquet.
    side : Side
    out : Path
        The folder for `vectors.<internal name>.npy`.
    """
    for column, (name, dim) in zip(side.vectors, side.internal.vectors.items(), strict=True):
        np.save(out / FILE.format(name), read_matrix(table, column, dim))


def load_vectors(folder: Path, side: Side) -> dict[str, np.ndarray]:
    """Map what `save_vectors` wrote: float32 [n, dim] by internal name."""
    names = side.internal.vectors
    return {name: np.load(folder / FILE.format(name), mmap_mode="r") for name in names}


def vector_schema(sides: Iterable[Side]) -> Schema:
    """Return the schema of the arrays: lists of fixed length, tagged EMBEDDING."""
    from merlin.schema import ColumnSchema, Schema, Tags

    tags = {"user": Tags.USER, "item": Tags.ITEM}
    return Schema(
        [
            ColumnSchema(
                name,
                dtype=np.float32,
                tags=[tags[side.name], Tags.EMBEDDING],
                properties={"value_count": {"min": dim, "max": dim}},
                is_list=True,
                is_ragged=False,
            )
            for side in sides
            for name, dim in side.internal.vectors.items()
        ]
    )
