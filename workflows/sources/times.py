"""Convert a column of times to unix seconds, and find the unit of numbers."""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.errors import DataError
from twotower.workflows.sources.arrow_types import without_nan
from twotower.workflows.sources.base import OnMessage
from twotower.workflows.sources.columns import Column, as_numbers

_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_EARLIEST, _LATEST = 10**8, 4_102_444_800  # seconds: March 1973 and the year 2100
_ADVICE = (
    "Store seconds since 1970, or times: in pandas, pandas.to_datetime(column, utc=True) converts "
    'texts, and with format="%Y%m%d" it converts numbers like 20201231'
)


def as_seconds(column: Column, on_message: OnMessage) -> pa.ChunkedArray:
    """Convert a column of times to unix seconds.

    Parameters
    ----------
    column : Column
        Dates, times, numbers, or texts with numbers. The size of numbers tells their unit, from
        seconds to nanoseconds.
    on_message : callable
        Called with a line about the unit, unless it is clear, and about dropped fractions.

    Returns
    -------
    ChunkedArray of int64

    Raises
    ------
    DataError
        If a time is missing, before 1970, not a number, or of an unclear unit.
    """
    times = _whole_numbers(column, on_message)
    if column.stored_as_time:
        return times
    values = times.to_numpy()
    low, high = int(values.min()), int(values.max())
    read_as = f"column {column.stored_name}: the numbers are read as"
    row = int(values.argmax())
    if low < 0:
        row, reason = int(values.argmin()), "it is before 1970"
    elif _are_dates(values):
        reason = "it may be a date, or seconds of the year 1970"
    elif high < _LATEST:
        if high < _EARLIEST:
            when = pd.Timestamp(high, unit="s")
            on_message(f"{read_as} seconds since 1970; the largest, {high}, is {when}")
        return times
    else:
        for unit, per_second in _UNITS.items():
            if _EARLIEST * per_second <= low and high < _LATEST * per_second:
                when = pd.Timestamp(high // per_second, unit="s")
                on_message(f"{read_as} {unit} since 1970; the largest, {high}, is {when}")
                return pc.divide(times, per_second)
        reason = "as seconds since 1970 it would be after the year 2100"
    raise DataError(f"{column.place(row)}: {values[row]}; {reason}. {_ADVICE}")


def _whole_numbers(column: Column, on_message: OnMessage) -> pa.ChunkedArray:
    """Convert a column of times to int64; fractions are rounded down."""
    for stored in column.stored:
        if pa.types.is_boolean(stored.type):
            raise DataError(f"{stored}: booleans are not times. {_ADVICE}")
    values = column.values
    if pa.types.is_string(values.type):
        try:
            values = values.cast(pa.int64())  # exact, unlike a cast by way of floats
        except pa.ArrowInvalid:
            # If this fails as well, `as_numbers` names the value.
            with contextlib.suppress(pa.ArrowInvalid):
                values = without_nan(values.cast(pa.float64()))
    if pa.types.is_floating(values.type):
        whole = pc.floor(values)
        if fractions := pc.sum(pc.not_equal(whole, values)).as_py():
            on_message(
                f"column {column.stored_name}: {fractions:,} numbers have a fraction, which is "
                "dropped (times are whole seconds)"
            )
        values = whole
    return as_numbers(column.replace_values(values), pa.int64(), _ADVICE)


def _are_dates(values: np.ndarray) -> bool:
    """Whether all numbers can be dates, such as 20201231."""
    month, day = values // 100 % 100, values % 100
    years = (values > 1900_00_00) & (values < 2101_00_00)
    return bool((years & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())
