"""Positives of stored interactions, read in parts, equal those of all rows at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.interactions import reading
from twotower.workflows.interactions.positives import check_stored, count_column, read_positives

ROWS = 1000


def written(folder) -> tuple[pd.DataFrame, str]:
    """Interactions in row groups of 90, and their file. Nulls are in some row groups only."""
    rng = np.random.default_rng(3)
    late = np.arange(ROWS) >= 800
    rows = pa.table(
        {
            "user_id": rng.integers(0, 50, ROWS),
            "item_id": rng.integers(0, 90, ROWS),
            "rating": rng.integers(1, 6, ROWS).astype(np.float32),
            "event": pa.array(
                rng.choice(["view", "buy", "cart"], ROWS), mask=rng.random(ROWS) < 0.1
            ),
            "count": pa.array(rng.integers(0, 9, ROWS), mask=late & (rng.random(ROWS) < 0.5)),
            "place": pa.array(rng.integers(0, 9, ROWS), mask=late & (rng.random(ROWS) < 0.5)),
        }
    )
    path = folder / "interactions.parquet"
    pq.write_table(rows, path, row_group_size=90)
    return pd.read_parquet(path), path


@pytest.mark.parametrize("with_nvtabular", [True, False])
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, lambda rows: rows.index >= 0),
        ({"column": "rating", "at_least": 4}, lambda rows: rows["rating"] >= 4),
        ({"column": "event", "values": ["buy"]}, lambda rows: rows["event"] == "buy"),
        ({"column": "count", "at_least": 8}, lambda rows: rows["count"] >= 8),
    ],
)
def test_parts_have_the_rows_and_types_of_the_whole(
    tmp_path, monkeypatch, config, expected, with_nvtabular
):
    monkeypatch.setattr(reading, "PARTITION_ROWS", 200)
    monkeypatch.setattr(reading, "BATCH_ROWS", 64)
    rows, path = written(tmp_path)
    columns = ["user_id", "item_id", "rating", "count"]
    told: list[tuple[int, int]] = []
    found = read_positives(
        path,
        PositivesConfig(**config),
        columns,
        with_nvtabular=with_nvtabular,
        on_rows=lambda *each: told.append(each),
    )
    kept = rows[expected(rows)]
    pd.testing.assert_frame_equal(found.rows, kept[columns].reset_index(drop=True))
    unknown = rows[config["column"]].isna().sum() if config else 0
    assert found.without_value == unknown
    assert told == [(270, 1000), (540, 1000), (810, 1000), (1000, 1000)]


def test_whole_numbers_stay_whole_where_they_are_features(tmp_path):
    _, path = written(tmp_path)
    config = PositivesConfig(column="rating", at_least=4)
    rows = read_positives(path, config, ["place", "count"], whole_numbers=["place"]).rows
    assert rows.dtypes.astype(str).tolist() == ["Int64", "float64"]


def test_the_values_of_a_column_are_counted_over_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BATCH_ROWS", 64)
    rows, path = written(tmp_path)
    counts = count_column(path, PositivesConfig(column="event", values=["buy"]))
    assert counts.to_dict() == rows["event"].value_counts().to_dict()
    assert counts.is_monotonic_decreasing and counts.name == "event"
    assert count_column(path, PositivesConfig(column="rating")).index.max() == 5
    check_stored(path, PositivesConfig(column="event", values=["buy"]), FeaturesConfig())


def test_the_last_rows_and_ids_are_read_without_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PARTITION_ROWS", 200)
    rows, path = written(tmp_path)
    for count in (0, 1, 90, 500, ROWS, ROWS + 5):
        last = reading.read_last(path, ["item_id", "user_id"], count)
        expected = rows[["item_id", "user_id"]].iloc[max(ROWS - count, 0) :]
        pd.testing.assert_frame_equal(last, expected.reset_index(drop=True))
    users, items = reading.read_numbers(path, ["user_id", "item_id"])
    np.testing.assert_array_equal(users, rows["user_id"])
    np.testing.assert_array_equal(items, rows["item_id"])
