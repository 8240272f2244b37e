"""Times of any unit become seconds, and unclear ones are refused."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.workflows.sources.conftest import DATES, PAIRS, SECONDS, read
from twotower.workflows.errors import DataError
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.times import check_scale


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
    tables, messages = read(tmp_path, PAIRS.assign(timestamp=values), keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == [1_600_000_000]
    assert len(messages) == 1
    assert messages[0].startswith("2 of 3 rows of ") and "have no timestamp" in messages[0]


TIMES = {
    "zoned": pd.Series(DATES).dt.tz_localize("UTC").dt.tz_convert("America/New_York"),
    "nanoseconds": pd.Series(DATES),
    "digits": SECONDS.astype(str),
}


LOCAL = "column timestamp: the times name no zone, so they are read as UTC"


@pytest.mark.parametrize("kind", TIMES)
def test_times_become_seconds(kind, tmp_path):
    tables, messages = read(tmp_path, PAIRS.assign(timestamp=TIMES[kind]), keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == SECONDS.tolist()
    assert messages == ([LOCAL] if kind == "nanoseconds" else [])


@pytest.mark.parametrize(
    "form, remark",
    [
        ("%Y-%m-%d %H:%M:%S UTC", "the texts are read as ISO 8601 with a zone"),
        (
            "%m/%d/%Y %I:%M:%S %p",
            "the texts are read as %m/%d/%Y %I:%M:%S %p, the month first because of "
            "'12/31/2020 11:59:59 PM'; set ingest.files.time_format to '%m/%d/%Y %I:%M:%S %p' so "
            "that an update cannot differ; no zone is named, so they are read as UTC",
        ),
    ],
)
def test_texts_become_seconds_and_a_message_says_how(form, remark, tmp_path):
    log = PAIRS.assign(timestamp=[date.strftime(form) for date in DATES])
    tables, messages = read(tmp_path, log, keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == SECONDS.tolist()
    assert messages == [f"column timestamp: {remark}"]


@pytest.mark.parametrize(
    "values, time_format, expected",
    [
        ([5, 7, 9], "seconds", [5, 7, 9]),
        ([0, 5999, "6000"], "milliseconds", [0, 5, 6]),
        ([" 5", "7 ", "6000"], "seconds", [5, 7, 6000]),
        ([20200131, 20200201, 20200201], "%Y%m%d", [1580428800, 1580515200, 1580515200]),
        (["01/02/2020", "01/02/2020", "02/02/2020"], "%d/%m/%Y", [1580515200] * 2 + [1580601600]),
    ],
)
def test_the_setting_decides_what_is_unclear(values, time_format, expected, tmp_path):
    values = list(map(str, values)) if "6000" in values else values
    log = PAIRS.assign(timestamp=values)
    tables, _ = read(tmp_path, log, keep=["timestamp"], time_format=time_format)
    assert tables.interactions["timestamp"].to_pylist() == expected


@pytest.mark.parametrize(
    "values, time_format, message",
    [
        (["5", "soon", "7"], "seconds", "row 2, column timestamp: 'soon'; expected a number"),
        ([" 5", "soon", "7"], None, "row 2, column timestamp: 'soon'; expected a number"),
        ([5, 6, 10**13], "milliseconds", "row 3.*10000000000000; as milliseconds .* after the"),
        (
            ["2020-01-31"] * 3,
            "%d/%m/%Y",
            "'2020-01-31'.*cannot be read as %d/%m/%Y, as ingest.files.time_format says",
        ),
    ],
)
def test_what_does_not_fit_is_refused(values, time_format, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(
            tmp_path,
            PAIRS.assign(timestamp=values),
            keep=["timestamp"],
            time_format=time_format,
        )


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValidationError, match="'minutes' has no year"):
        FilesConfig(interactions="log.parquet", time_format="minutes")


def test_a_sequence_of_places_is_not_mixed_with_times():
    places, times = (pa.chunked_array([values]) for values in ([1, 2, 3], SECONDS))
    for before, new in ((times, places), (places, times)):
        with pytest.raises(DataError, match="store the new ones in the unit of those before"):
            check_scale(before, new)
    none = pa.chunked_array([pa.array([], pa.int64())])
    for before, new in ((times, times), (places, places), (none, places), (places, none)):
        check_scale(before, new)


def test_dates_become_the_seconds_of_their_midnight(tmp_path):
    dates = [date.date() for date in DATES]
    log = PAIRS.assign(timestamp=dates, since=dates)
    tables, _ = read(tmp_path, log, keep=["timestamp", "since"])
    expected = [1577836800, 1609372800, 1577836800]
    assert tables.interactions["timestamp"].to_pylist() == expected
    assert tables.interactions["since"].to_pylist() == expected


@pytest.mark.parametrize(
    "times, message, time_format",
    [
        (
            ["01/02/2020 02:00 PM", "02/02/2020 1:00 AM", "02/02/2020 12:00 AM"],
            r"row 1, column timestamp: '01/02/2020 02:00 PM'; no value of the column shows",
            "%d/%m/%Y %I:%M %p",
        ),
        (
            [20200201, 20200202, 20200202],
            r"row 2, column timestamp: 20200202; it may be a date",
            "%Y%m%d",
        ),
        (
            [20200201140000, 20200202010000, 20200202000000],
            r"row 2, column timestamp: 20200202010000; as seconds .* after the year 2100",
            "%Y%m%d%H%M%S",
        ),
        ([1577836800, 1577836800000, 1], "row 2, column timestamp: 1577836800000", None),
        ([1577836800, -1, 5], "row 2, column timestamp: -1; it is before 1970", None),
    ],
)
def test_times_that_are_ambiguous_are_refused_with_what_to_do(
    times, message, time_format, tmp_path
):
    log = PAIRS.assign(timestamp=times)
    with pytest.raises(DataError, match=f"{message}.*Set ingest.files.time_format to"):
        read(tmp_path, log, keep=["timestamp"])
    if time_format:
        tables, _ = read(tmp_path, log, keep=["timestamp"], time_format=time_format)
        days = [second // 86400 for second in tables.interactions["timestamp"].to_pylist()]
        assert days == [18293, 18294, 18294]


@pytest.mark.parametrize(
    "times, message",
    [
        ([1.5, np.inf, 3.0], "expected numbers as int64 for timestamp"),
        ([True, False, True], "column timestamp: booleans are not times"),
    ],
)
def test_values_that_are_no_times_are_refused(times, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(tmp_path, PAIRS.assign(timestamp=times), keep=["timestamp"])


def test_only_the_interactions_timestamp_and_rating_have_a_meaning(tmp_path):
    users = pd.DataFrame({"user_id": [1, 2], "timestamp": ["never", None], "rating": ["A", "B"]})
    users.to_parquet(tmp_path / "users.parquet")
    features = {"users": "users.parquet", "user_features": ["timestamp", "rating"]}
    tables, _ = read(tmp_path, PAIRS, **features)
    assert tables.users.to_pydict() == users.to_dict("list")
