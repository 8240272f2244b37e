"""Times of any unit become seconds, and unclear ones are refused."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from tests.workflows.sources.conftest import DATES, PAIRS, SECONDS, read
from twotower.workflows.errors import DataError


@pytest.mark.parametrize(
    "per_second, unit", [(1, None), (10**3, "milliseconds"), (10**6, "micro"), (10**9, "nano")]
)
def test_numbers_of_another_unit_become_seconds_and_a_message_says_so(per_second, unit, tmp_path):
    log = PAIRS.assign(timestamp=SECONDS * per_second)
    tables, messages = read(tmp_path, log, keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == SECONDS.tolist()
    assert len(messages) == (unit is not None)
    if unit:
        assert messages[0].startswith(f"column timestamp: the numbers are read as {unit}")
        assert messages[0].endswith(f"{SECONDS[1] * per_second}, is 2020-12-31 23:59:59")


def test_places_in_a_sequence_are_times_and_a_message_says_so(tmp_path):
    tables, messages = read(tmp_path, PAIRS.assign(timestamp=[0, 18518, 1]), keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == [0, 18518, 1]
    line = "the numbers are read as seconds since 1970; the largest, 18518, is 1970-01-01 05:08:38"
    assert messages == [f"column timestamp: {line}"]


@pytest.mark.parametrize("kind", [float, str, Decimal])
def test_fractions_of_seconds_are_dropped_and_a_message_says_so(kind, tmp_path):
    values = [kind("1601110000.0"), kind("1601110000.75"), kind("1601110001.5")]
    tables, messages = read(tmp_path, PAIRS.assign(timestamp=values), keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == [1601110000, 1601110000, 1601110001]
    line = "2 numbers have a fraction, which is dropped (times are whole seconds)"
    assert messages == [f"column timestamp: {line}"]


@pytest.mark.parametrize("values", [[1.6e9, np.nan, np.nan], ["1.6e9", "nan", None]])
def test_times_that_are_missing_are_counted(values, tmp_path):
    message = (
        r"row 2, column timestamp: null timestamp \(2 such rows\); leave such rows out or give"
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, PAIRS.assign(timestamp=values), keep=["timestamp"])


TIMES = {
    "zoned": pd.Series(DATES).dt.tz_localize("UTC").dt.tz_convert("America/New_York"),
    "nanoseconds": pd.Series(DATES),
    "digits": SECONDS.astype(str),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_become_seconds(kind, tmp_path):
    tables, messages = read(tmp_path, PAIRS.assign(timestamp=TIMES[kind]), keep=["timestamp"])
    assert (tables.interactions["timestamp"].to_pylist(), messages) == (SECONDS.tolist(), [])


def test_dates_become_the_seconds_of_their_midnight(tmp_path):
    dates = [date.date() for date in DATES]
    log = PAIRS.assign(timestamp=dates, since=dates)
    tables, _ = read(tmp_path, log, keep=["timestamp", "since"])
    expected = [1577836800, 1609372800, 1577836800]
    assert tables.interactions["timestamp"].to_pylist() == expected
    assert tables.interactions["since"].to_pylist() == expected


@pytest.mark.parametrize(
    "times, message, advice",
    [
        (
            ["01/31/2020 02:00 PM", "02/01/2020 1:00 AM", "02/01/2020 12:00 AM"],
            "Failed to parse string: '02/01/2020 12:00 AM'",
            lambda column: pd.to_datetime(column, utc=True),
        ),
        (
            [20200131, 20200201, 20200201],
            r"row 2, column timestamp: 20200201; it may be a date",
            lambda column: pd.to_datetime(column, format="%Y%m%d"),
        ),
        (
            [20200131140000, 20200201010000, 20200201000000],
            r"row 2, column timestamp: 20200201010000; as seconds .* after the year 2100",
            lambda column: pd.to_datetime(column, format="%Y%m%d%H%M%S"),
        ),
        ([1577836800, 1577836800000, 1], "row 2, column timestamp: 1577836800000", None),
        ([1.5, np.inf, 3.0], "expected numbers as int64 for timestamp", None),
        ([True, False, True], "column timestamp: booleans are not times", None),
        ([1577836800, -1, 5], "row 2, column timestamp: -1; it is before 1970", None),
    ],
)
def test_times_that_are_ambiguous_are_refused_with_what_to_do(times, message, advice, tmp_path):
    log = PAIRS.assign(timestamp=times)
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, log, keep=["timestamp"])
    assert "Store seconds since 1970, or times: in pandas" in str(raised.value)
    if advice:
        tables, _ = read(
            tmp_path, log.assign(timestamp=advice(log["timestamp"])), keep=["timestamp"]
        )
        days = [second // 86400 for second in tables.interactions["timestamp"].to_pylist()]
        assert days == [18292, 18293, 18293]


def test_only_the_interactions_timestamp_and_rating_have_a_meaning(tmp_path):
    users = pd.DataFrame({"user_id": [1, 2], "timestamp": ["never", None], "rating": ["A", "B"]})
    users.to_parquet(tmp_path / "users.parquet")
    features = {"users": "users.parquet", "user_features": ["timestamp", "rating"]}
    tables, _ = read(tmp_path, PAIRS, **features)
    assert tables.users.to_pydict() == users.to_dict("list")
