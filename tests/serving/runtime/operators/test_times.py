"""Hours, weekdays, months and intervals of known moments."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import get_args
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from twotower.serving.runtime.operators.times import EARLIEST, KINDS, LATEST, TimeFeatures
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.times import fit_times

ALL = FeaturesConfig(time=list(KINDS), time_buckets=3)


def features(times=(0, 10, 20, 30, 40, 50), zone: str = "UTC") -> TimeFeatures:
    config = ALL.copy(update={"time_zone": zone})
    return TimeFeatures(**fit_times(np.array(times), config))


def encoded(*seconds: int, zone: str = "UTC") -> dict[str, list]:
    columns = features(zone=zone).encode(np.array(seconds))
    return {name.removeprefix("time_"): column.tolist() for name, column in columns.items()}


def test_each_value_of_the_setting_is_made():
    assert get_args(FeaturesConfig.__fields__["time"].type_) == (*KINDS,)
    for kind, column in ALL.time_columns.items():
        values = features().encode(np.arange(3))[column]
        assert values.dtype == (np.float64 if kind == "number" else np.int64)


def test_moments_by_hand():
    found = encoded(
        0,  # Thursday, 1 January 1970
        -1,  # Wednesday, 31 December 1969, 23:59:59
        951_868_799,  # Tuesday, 29 February 2000, 23:59:59
        951_868_800,  # Wednesday, 1 March 2000
        1_714_588_200,  # Wednesday, 1 May 2024, 18:30
        4_107_542_400,  # Monday, 1 March 2100, which is no leap year
    )
    assert found["hour_of_day"] == [0, 23, 23, 0, 18, 0]
    assert found["day_of_week"] == [3, 2, 1, 2, 2, 0]
    assert found["month"] == [1, 12, 2, 3, 5, 3]


def test_a_bucket_begins_at_its_edge_and_later_times_are_in_the_last_one():
    assert features().edges.tolist() == [20, 40]
    assert encoded(-99, 0, 19, 20, 39, 40, 50, 10**9)["bucket"] == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_number_stays_in_the_range_of_training():
    assert encoded(-99, 0, 19, 50, 10**9)["number"] == [0.0, 0.0, 19.0, 50.0, 50.0]


def test_daylight_saving_time():
    """Berlin went from 2 to 3 o'clock on 31 March 2024, and back on 27 October, at 1:00 UTC."""
    spring, autumn = 1_711_846_800, 1_729_990_800
    found = encoded(spring - 1, spring, autumn - 1, autumn, zone="Europe/Berlin")
    assert found["hour_of_day"] == [1, 3, 2, 2]
    assert encoded(-7_000, zone="Asia/Kolkata")["hour_of_day"] == [3]  # 22:03:20 and 5:30


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"])
def test_the_standard_library_agrees(zone):
    draw = np.random.default_rng(0)
    seconds = draw.integers(-2_000_000_000, 4_000_000_000, 3_000)
    moments = [
        datetime.fromtimestamp(int(each), timezone.utc).astimezone(ZoneInfo(zone))
        for each in seconds
    ]
    found = encoded(*seconds.tolist(), zone=zone)
    assert found["hour_of_day"] == [each.hour for each in moments]
    assert found["day_of_week"] == [each.weekday() for each in moments]
    assert found["month"] == [each.month for each in moments]


def test_the_first_and_the_last_second():
    found = encoded(EARLIEST, LATEST)
    assert (found["hour_of_day"], found["month"]) == ([0, 23], [1, 12])
    assert found["day_of_week"] == [datetime.min.weekday(), datetime.max.weekday()]
