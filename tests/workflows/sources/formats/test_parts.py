"""Parts of one table that differ: types, columns and folders."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.table import open_table


def parts(folder, *columns):
    """A table with a parquet file for each array, and its messages."""
    for number, values in enumerate(columns):
        ids = pa.array(range(len(values)))
        pq.write_table(pa.table({"x": values, "id": ids}), folder / f"{number}.parquet")
    messages: list[str] = []
    return open_table(folder, on_message=messages.append), messages


@pytest.mark.parametrize(
    "arrays, expected",
    [
        ([pa.array([1, 2]), pa.array([3.0, None])], [1, 2, 3, None]),
        ([pa.array([1, 2]), pa.array([2.5])], [1.0, 2.0, 2.5]),
        ([pa.array([1]), pa.nulls(2)], [1, None, None]),
        ([pa.nulls(1), pa.array([1.5])], [None, 1.5]),
        ([pa.nulls(1), pa.array([["a"]])], [None, ["a"]]),
        ([pa.array(["a"]), pa.array(["b"], pa.large_string())], ["a", "b"]),
        ([pa.array(["a"]), pa.array(["b"]).dictionary_encode()], ["a", "b"]),
        ([pa.array(["a"]), pa.array([b"b"])], ["a", "b"]),
        ([pa.array([1], pa.uint8()), pa.array([2], pa.int32())], [1, 2]),
        ([pa.array([True]), pa.array([2])], [1, 2]),
        ([pa.array([7], pa.decimal128(9)), pa.array([8])], [7, 8]),
    ],
)
def test_types_that_agree_are_joined(arrays, expected, tmp_path):
    table, messages = parts(tmp_path, *arrays)
    values = table.column("x").values.to_pylist()
    assert (values, messages) == (expected, [])
    assert [type(value) for value in values] == [type(value) for value in expected]


def test_types_that_differ_are_refused_by_file_and_column(tmp_path):
    table, _ = parts(tmp_path, pa.array([1]), pa.array(["a"]))
    message = r"1\.parquet, column x: string, but .*0\.parquet has int64; different types"
    with pytest.raises(DataError, match=message):
        table.column("x")


def test_columns_may_be_in_another_order_or_missing(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": [2], "c": [5]}), tmp_path / "1.parquet")
    messages: list[str] = []
    table = open_table(tmp_path, on_message=messages.append)
    read = {name: table.column(name).values.to_pylist() for name in table.names}
    assert read == {"a": [1, 2], "b": ["x", "y"], "c": [None, 5]}
    assert messages == [
        f"column c: 1 of 2 files lack it, such as {tmp_path / '0.parquet'}; the values of 1 rows "
        "are unknown"
    ]
    assert "c" in table and "d" not in table
    with pytest.raises(DataError, match="no column d; there are a, b, c"):
        table.column("d")


def test_a_table_may_have_more_files_than_a_process_may_open(tmp_path):
    resource = pytest.importorskip("resource")
    for number in range(40):
        pq.write_table(pa.table({"x": [number]}), tmp_path / f"{number}.parquet")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, limits[1]))
    try:
        assert open_table(tmp_path).column("x").values.to_pylist() == list(range(40))
        for number in range(40):
            (tmp_path / f"{number}.parquet").unlink()
            (tmp_path / f"{number}.csv").write_text(f"x,y\n{number},1\n")
        with pytest.raises(DataError, match="Too many open files"):
            open_table(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
