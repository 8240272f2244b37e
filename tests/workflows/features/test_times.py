"""What is learned from the times of the training part, and which time a query has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflows.features.conftest import USERS
from tests.workflows.features.test_checks import write_tables
from twotower.workflows.errors import DataError
from twotower.workflows.features.checks import check_data
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.times import bucket_edges, query_times, zone_shifts
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.split import SplitConfig


def test_buckets_have_equally_many_rows():
    times = np.random.default_rng(0).permutation(np.arange(1_000) ** 2)
    edges = bucket_edges(times, 8)
    assert len(edges) == 7
    counts = np.bincount(np.searchsorted(edges, times, side="right"))
    assert counts.tolist() == [125] * 8


@pytest.mark.parametrize(
    "times, edges",
    [
        ([5, 1, 3, 7], [5]),  # two and two
        ([1, 1, 1, 9], []),  # the bucket of the ones has three quarters
        ([1, 9, 9, 9], [9]),
        ([4, 4], []),
        ([-5, -3], [-3]),
    ],
)
def test_edges_by_hand(times, edges):
    assert bucket_edges(np.array(times), 2) == edges


def test_the_changes_of_a_zone():
    assert zone_shifts("UTC") == ([0], [])
    shifts, changes = zone_shifts("Europe/Berlin")
    assert changes == sorted(changes) and len(shifts) == len(changes) + 1
    assert 1_711_846_800 in changes  # 31 March 2024, 1:00 UTC
    assert zone_shifts("Etc/GMT-2") == ([7_200], [])


PAIRS = pd.DataFrame({"user_id": [1, 2, 1, 1, 2, 2], "timestamp": [10, 8, 30, 20, 9, 9]})
PARTS = pd.Series(["train", "train", "test", "valid", "valid", "test"])


def test_the_next_item_is_asked_for_at_the_time_of_the_one_before():
    found = query_times(PAIRS, PARTS, "leave_last_out")
    # User 1: 10 (train), 20 (valid) and 30 (test). User 2: 8 and, in the order of rows, 9 and 9.
    assert found.tolist() == [10, 8, 20, 10, 8, 9]
    assert found.dtype == np.int64


@pytest.mark.parametrize("method", ["random", "temporal", "file", "column"])
def test_other_queries_have_the_time_of_their_pair(method):
    assert query_times(PAIRS, PARTS, method).tolist() == PAIRS["timestamp"].tolist()


def test_a_missing_time_is_named(tmp_path):
    rows = pd.DataFrame({"user_id": [1, 5], "item_id": [10, 20], "timestamp": [1, 2]})
    config = FeaturesConfig(time=["hour_of_day"])
    write_tables(tmp_path, rows)
    check_data(tmp_path, PositivesConfig(), config)
    write_tables(tmp_path, rows.drop(columns="timestamp"))
    with pytest.raises(DataError, match=r"features\.time: the interactions have no timestamp\. If"):
        check_data(tmp_path, PositivesConfig(), config)


def test_the_time_is_read_where_it_is_a_feature():
    def wanted(**settings):
        return Wanted.of(PositivesConfig(), SplitConfig(), FeaturesConfig(**settings), [])

    assert wanted(time=["month"]).ordered and not wanted().ordered
    assert "time_month" not in wanted(time=["month"]).interactions


@pytest.mark.parametrize(
    "config, message",
    [
        ({"time": ["hour"]}, "unexpected value; permitted: 'hour_of_day'"),
        ({"time": ["month", "month"]}, "month: named twice; name each once"),
        ({"time_zone": "Europe/Belin"}, "'Europe/Belin' is no time zone that this machine knows"),
        ({"time_zone": "../UTC"}, "'../UTC' is no time zone"),
        ({"time_zone": "Europe"}, "'Europe' is no time zone"),
        ({"time": ["month"], "context_numeric": ["timestamp"]}, "timestamp: named twice"),
        ({"time": ["month"], "user": ["time_month"]}, "time_month: named twice"),
    ],
)
def test_wrong_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        FeaturesConfig(**config)


def test_the_columns_of_the_time_are_context():
    config = FeaturesConfig(time=["month", "number"], context=["place"])
    assert config.context_columns == ["place", "time_month", "time_number"]
    assert config.stored_context == ["place"]
    assert config.of_interaction.numeric == ["time_number"]
    assert not set(config.context_columns) & set(USERS)
