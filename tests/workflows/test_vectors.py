"""Columns of vectors: arrays by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.tables import Tables, merge
from twotower.workflows.vectors import VECTOR, as_column, as_matrix, check_vectors, read_matrix

LISTS = [[1.0, 2.0], None, [], [3.5, 4.0], [float("nan")] * 2]
MATRIX = np.array([[1, 2], [0, 0], [0, 0], [3.5, 4], [0, 0]], np.float32)


def matrix(values, kind=None, dim=2) -> np.ndarray:
    column = pa.chunked_array([pa.array(values, kind)]) if kind else pa.chunked_array([values])
    return as_matrix(column, dim, "column v", lambda row: f"row {row}")


@pytest.mark.parametrize("value", [pa.float16(), pa.float32(), pa.float64()])
def test_lists_become_rows_and_missing_ones_zeros(value):
    lists = [[np.float16(x) for x in row] if row else row for row in LISTS]
    np.testing.assert_array_equal(matrix(lists, pa.list_(value)), MATRIX)
    np.testing.assert_array_equal(matrix(lists, pa.large_list(value)), MATRIX)


def test_parts_of_a_column_have_their_own_places():
    column = pa.chunked_array(
        [pa.array(LISTS), pa.array(LISTS).slice(3, 1), pa.nulls(1, pa.list_(pa.float64()))]
    )
    expected = np.concatenate([MATRIX, MATRIX[3:4], np.zeros((1, 2))])
    np.testing.assert_array_equal(as_matrix(column, 2, "v", str), expected)
    fixed = pa.array([[9, 9], [1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)).slice(1)
    np.testing.assert_array_equal(matrix(fixed), [[1, 2], [0, 0], [3, 4]])
    assert matrix([[1, 2], [3, 4]], pa.list_(pa.int64())).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"^row 5: a vector of 1 numbers in v, but the"):
        as_matrix(pa.chunked_array([pa.array(LISTS), pa.array([[1.0]])]), 2, "v", "row {}".format)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], [1.0, None]], "row 1: the vector in column v has nan at place 1"),
        ([[np.inf, 0.0]], "row 0: the vector in column v has inf at place 0"),
        ([[1e39, 0.0]], "row 0: the vector in column v has inf at place 0; numbers must be finite"),
        ([["a", "b"]], "column v has values of type list<item: string>, not vectors"),
        ([0.5], r"type double, not vectors. Store one vector per row as a list of numbers"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        matrix(pa.array(values))


def test_a_column_is_read_again_as_it_was(tmp_path):
    column = as_column(MATRIX)
    assert column.type == VECTOR and column.null_count == 3
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": np.arange(5), "v": column}), path)
    np.testing.assert_array_equal(read_matrix(path, "v", 2), MATRIX)
    check_vectors(path, {"v": 2}, "features.item_vectors")
    with pytest.raises(DataError, match="have 2 numbers, but the settings say 3"):
        check_vectors(path, {"v": 3}, "features.item_vectors")
    with pytest.raises(DataError, match="the items table has no column w; it has item_id, v"):
        check_vectors(path, {"w": 3}, "features.item_vectors")
    assert as_column(np.zeros((0, 3), np.float32)).type == VECTOR
    # Merged with new rows, as an update does.
    items = pq.read_table(path)
    empty = pa.table({"user_id": pa.array([], pa.int64()), "item_id": pa.array([], pa.int64())})
    old = Tables(empty, empty.select(["user_id"]), items)
    new = pa.table({"item_id": [1, 7], "v": as_column(np.float32([[5, 6], [7, 8]]))})
    merged, _ = merge(old, old._replace(items=new))
    pq.write_table(merged.items, path)
    expected = np.vstack([MATRIX[:1], [[5, 6]], MATRIX[2:], [[7, 8]]])
    np.testing.assert_array_equal(read_matrix(path, "v", 2), expected)
