"""Repeated pairs, and features that are read from the interactions."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.sources.conftest import PAIRS, files_source, read
from twotower.workflows.errors import DataError


def test_a_feature_that_differs_from_row_to_row_is_refused_with_a_way_out(tmp_path):
    log = PAIRS.assign(city=["Oslo", "Rome", "Bari"], age=[30, 40, 40], tags=[["a"], ["b"], ["b"]])
    settings = {"user_features": ["age", "tags", "city"], "item_features": ["age"]}
    message = (
        r"log\.parquet, row 2, column city: 'Rome' for user_id 2, which has 'Bari' in a later row; "
        "1 of 2 users have more than one value"
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, log, **settings)
    tables, messages = read(tmp_path, log, **settings, differing="keep_last")
    assert tables.users["city"].to_pylist() == ["Oslo", "Bari"]
    assert messages == [
        "column city: 1 of 2 users have more than one value; the last value is used, "
        "which may be in the test part",
        "column age: 1 of 2 items have more than one value; the last value is used, "
        "which may be in the test part",
    ]
    log.drop_duplicates("user_id")[["user_id", "age", "tags", "city"]].to_parquet(
        tmp_path / "users.parquet"
    )
    settings["item_features"] = []
    tables, messages = read(tmp_path, log, **settings, users="users.parquet")
    assert (tables.users["city"].to_pylist(), messages) == (["Oslo", "Rome"], [])


def test_an_unknown_value_beside_a_known_one_does_not_differ(tmp_path):
    tables, messages = read(
        tmp_path, PAIRS.assign(city=["Oslo", "Rome", None]), user_features=["city"]
    )
    assert (tables.users["city"].to_pylist(), messages) == (["Oslo", "Rome"], [])
    tables, _ = read(tmp_path, PAIRS.assign(city=["Oslo", None, None]), user_features=["city"])
    assert tables.users["city"].to_pylist() == ["Oslo", None]


@pytest.mark.parametrize(
    "same, other",
    [
        ([[1, None], [1, None]], [2]),
        ([[1.5, float("nan")], [1.5, float("nan")]], [2.5]),
        ([["a", None], ["a", None]], None),
        ([[], []], [1]),
        ([2**60 + 1, 2**60 + 1], None),
        ([0.0, -0.0], 1.5),
        ([None, None], "a"),
    ],
)
def test_equal_values_do_not_differ(same, other, tmp_path):
    log = pa.table({"user_id": [2, 2, 1], "item_id": [10, 11, 10], "x": [*same, other]})
    pq.write_table(log, tmp_path / "log.parquet")
    source = files_source(tmp_path, interactions="log.parquet", user_features=["x"])
    assert source.read().users["x"][0].as_py() == other


@pytest.mark.parametrize(
    "one, other", [(2**60, 2**60 + 1), (["a"], ["a", None]), (1.5, 2.5), ("a", "b"), ([1], [])]
)
def test_different_values_differ_beside_nulls(one, other, tmp_path):
    log = pa.table({"user_id": [1, 2, 2], "item_id": [10, 10, 11], "x": [None, one, other]})
    pq.write_table(log, tmp_path / "log.parquet")
    source = files_source(tmp_path, interactions="log.parquet", user_features=["x"])
    with pytest.raises(DataError, match=r"row 2, column x: .* for user_id 2, which has "):
        source.read()


@pytest.mark.parametrize(
    "duplicates, expected",
    [("keep_last", "only the last row of each pair is kept"), ("keep_all", "all are kept")],
)
def test_repeated_pairs_are_counted(duplicates, expected, tmp_path):
    log = pd.concat([PAIRS, PAIRS[:2], PAIRS[:1]])
    tables, lines = read(tmp_path, log, duplicates=duplicates)
    assert len(tables.interactions) == {"keep_last": 3, "keep_all": 6}[duplicates]
    assert len(lines) == 1
    assert lines[0].startswith(f"3 of 6 rows repeat a user_id and item_id; {expected}")
    assert read(tmp_path, PAIRS, duplicates=duplicates)[1] == []
