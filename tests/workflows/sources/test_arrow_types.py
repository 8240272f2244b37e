"""Arrow types and their tidy types."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.sources.conftest import column, files_source


@pytest.mark.parametrize(
    "table, expected",
    [
        (column([True, None]), [1.0, None]),
        (column([Decimal("1.50"), None]), [1.5, None]),
        (column([Decimal(2**60), Decimal(7)], pa.decimal128(38, 0)), [2**60, 7]),
        (column([b"a", b"b"]), ["a", "b"]),
        (column(["a", ""], pa.large_string()), ["a", None]),
        (column([["a", None], None], pa.large_list(pa.large_string())), [["a", None], None]),
        (column([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [[1, 2], [3, 4]]),
        (column([[None, 2], [3, None]], pa.list_(pa.int8(), 2)), [[None, 2], [3, None]]),
        (column([1.5, float("nan")]), [1.5, None]),
    ],
)
def test_types_become_tidy(table, expected, tmp_path):
    pq.write_table(table, tmp_path / "log.parquet")
    source = files_source(tmp_path, interactions="log.parquet", user_features=["x"])
    assert source.read().users["x"].to_pylist() == expected
