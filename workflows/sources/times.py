"""Convert a column of times to unix seconds: times, texts, and numbers of any unit."""

from __future__ import annotations

import contextlib

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.errors import DataError
from twotower.workflows.order import ORDER
from twotower.workflows.sources.arrow_types import without_nan
from twotower.workflows.sources.base import OnMessage
from twotower.workflows.sources.columns import Column, as_numbers, refuse_nulls
from twotower.workflows.sources.time_texts import (
    UnclearTime,
    first_refused,
    parse_format,
    parse_texts,
    without_missing,
)

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""How many of each unit are in a second."""
_EARLIEST, _LATEST = 10**8, 4_102_444_800  # seconds: March 1973 and the year 2100
_ADVICE = (
    "Set ingest.files.time_format to their strptime format, such as '%d/%m/%Y %H:%M' or "
    f"'%Y%m%d', or to their unit ({', '.join(UNITS)})"
)


def as_seconds(
    column: Column, on_message: OnMessage, time_format: str | None = None
) -> pa.ChunkedArray:
    """Convert a column of times to unix seconds.

    Parameters
    ----------
    column : Column
        Dates, times, numbers, or texts. One way of reading is chosen for all rows: the size of
        numbers tells their unit, and texts have one format. Without a zone they are UTC.
    on_message : callable
        Called with a line about how the values are read, unless they are plain unix seconds.
    time_format : str, optional
        The unit of the numbers, a key of `UNITS`, or the strptime format of the texts. Not needed
        for values that Arrow stores as times.

    Returns
    -------
    ChunkedArray of int64

    Raises
    ------
    DataError
        If a time is missing, cannot be read, or has an unclear unit or format.
    """

    def say(remark: str) -> None:
        on_message(f"column {column.stored_name}: {remark}")

    if column.stored_as_time:
        if any(pa.types.is_timestamp(each.type) and each.type.tz is None for each in column.stored):
            say("the times name no zone, so they are read as UTC")
        return as_numbers(column, pa.int64(), _ADVICE)
    for stored in column.stored:
        if pa.types.is_boolean(stored.type):
            raise DataError(f"{stored}: booleans are not times. {_ADVICE}")
    if time_format is not None and time_format not in UNITS:
        return _texts_as_seconds(_as_texts(column), say, time_format)
    numbers = _as_float_or_integer(column)
    if pa.types.is_string(numbers.values.type):
        starts_with_number = first_refused(numbers.values.slice(0, 1), pa.float64()) is None
        if time_format is not None or starts_with_number:
            raise _not_a_number(numbers)
        return _texts_as_seconds(numbers, say)
    times = _whole_numbers(numbers, say)
    if time_format is None:
        return _numbers_as_seconds(column, times, say)
    return _numbers_of_unit(column, times, time_format)


def check_scale(before: pa.ChunkedArray, new: pa.ChunkedArray) -> None:
    """Check that the times of an update are of the same kind as those before.

    Numbers below 10^8 are read as seconds since 1970, but are often places in a sequence or days.
    Beside real times they would be in the wrong order.

    Parameters
    ----------
    before, new : ChunkedArray of int64
        Unix seconds, as `as_seconds` gives them.

    Raises
    ------
    DataError
        If one has only such small numbers and the other has none.
    """
    if not len(before) or not len(new):
        return
    ranges = [pc.min_max(each).as_py() for each in (before, new)]
    for one, other in (ranges, ranges[::-1]):
        if one["max"] < _EARLIEST <= other["min"]:
            (old_low, old_high), (low, high) = (each.values() for each in ranges)
            raise DataError(
                f"interactions, column timestamp: the new numbers are from {low} to {high}, but "
                f"those before are from {old_low} to {old_high} seconds since 1970; store the new "
                "ones in the unit of those before"
            )


def check_order(before: pa.Table, new: pa.Table) -> None:
    """Check that the column `ORDER` of an update goes on after the numbers before.

    Parameters
    ----------
    before, new : Table
        The interactions, with the codes of users.

    Raises
    ------
    DataError
        If the numbers of most known users start again.
    """
    last, first = (
        rows.select(["user_id", ORDER]).to_pandas().groupby("user_id")[ORDER]
        for rows in (before, new)
    )
    both = pd.concat([last.max().rename("last"), first.min().rename("first")], axis=1, join="inner")
    again = both[both["first"] < both["last"]]
    if 2 * len(again) > len(both):
        row = again.iloc[0]
        raise DataError(
            f"interactions, column of ingest.files.order: {len(again):,} of {len(both):,} known "
            f"users start again, such as one at {int(row['first'])} who had {int(row['last'])} "
            "before; let the numbers of an update go on after those before"
        )


def _numbers_as_seconds(column: Column, times: pa.ChunkedArray, say: OnMessage) -> pa.ChunkedArray:
    """Find the unit of whole numbers by their size."""
    low, high = pc.min_max(times).as_py().values()
    if low < 0:
        raise _unclear(column, times, low, "it is before 1970")
    if _are_dates(times, low, high):
        reason = "it may be a date, or seconds of the year 1970"
        raise _unclear(column, times, high, reason)
    if high < _LATEST:
        if high < _EARLIEST:
            say(_read_as("seconds", high))
        return times
    for unit, per_second in UNITS.items():
        if _EARLIEST * per_second <= low and high < _LATEST * per_second:
            say(_read_as(unit, high))
            return pc.divide(times, per_second)
    raise _unclear(column, times, high, "as seconds since 1970 it would be after the year 2100")


def _numbers_of_unit(column: Column, times: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Convert whole numbers of a known unit."""
    low, high = pc.min_max(times).as_py().values()
    if low < 0:
        raise _unclear(column, times, low, "it is before 1970")
    if high >= _LATEST * UNITS[unit]:
        raise _unclear(column, times, high, f"as {unit} since 1970 it is after the year 2100")
    return pc.divide(times, UNITS[unit])


def _read_as(unit: str, high: int) -> str:
    when = pd.Timestamp(high // UNITS[unit], unit="s")
    return f"the numbers are read as {unit} since 1970; the largest, {high}, is {when}"


def _unclear(column: Column, times: pa.ChunkedArray, value: int, reason: str) -> DataError:
    row = pc.index(times, value).as_py()
    return DataError(f"{column.place(row)}: {value}; {reason}. {_ADVICE}")


def _texts_as_seconds(
    column: Column, say: OnMessage, time_format: str | None = None
) -> pa.ChunkedArray:
    """Parse texts in the given format, or in the one that is found for all of them."""
    texts = column.values
    try:
        parsed = parse_texts(texts) if time_format is None else parse_format(texts, time_format)
    except UnclearTime as error:
        value = texts[error.row].as_py()
        advice = "" if "time_format" in error.reason else f". {_ADVICE}"
        if time_format is not None:
            advice = (
                ", as ingest.files.time_format says. Write all times like that or, if the setting "
                "is wrong, correct it and run `twotower ingest`"
            )
        raise DataError(f"{column.place(error.row)}: {value!r}; {error.reason}{advice}") from error
    if parsed.remarks:
        say("; ".join(parsed.remarks))
    return pa.chunked_array([parsed.seconds])


def _as_texts(column: Column) -> Column:
    """Write numbers such as 20201231 as texts, for a strptime format."""
    values = column.values
    if not pa.types.is_string(values.type):
        values = as_numbers(column, pa.int64(), _ADVICE).cast(pa.string())
    return _complete(column.replace_values(values))


def _as_float_or_integer(column: Column) -> Column:
    """Convert texts that all are numbers; other texts stay, without nulls."""
    values = column.values
    if not pa.types.is_string(values.type):
        return column
    trimmed = pc.utf8_trim_whitespace(values.slice(0, 1))
    if first_refused(trimmed, pa.float64()) is None:
        values = pc.utf8_trim_whitespace(values)
        for kind in (pa.int64(), pa.float64()):  # the first is exact
            with contextlib.suppress(pa.ArrowInvalid):
                return column.replace_values(values.cast(kind))
    return _complete(column)


def _complete(column: Column) -> Column:
    """Check that no text is missing, and remove spaces around texts."""
    column = column.replace_values(pc.utf8_trim_whitespace(without_missing(column.values)))
    refuse_nulls(column)
    return column


def _not_a_number(column: Column) -> DataError:
    row = first_refused(column.values, pa.float64()) or 0
    value = column.values[row].as_py()
    return DataError(f"{column.place(row)}: {value!r}; expected a number, as in other rows")


def _whole_numbers(column: Column, say: OnMessage) -> pa.ChunkedArray:
    """Convert numbers to int64; fractions are rounded down."""
    values = column.values
    if pa.types.is_floating(values.type):
        values = without_nan(values)
        whole = pc.floor(values)
        if fractions := pc.sum(pc.not_equal(whole, values)).as_py():
            say(
                f"{fractions:,} numbers have a fraction, which is dropped (times are whole seconds)"
            )
        values = whole
    return as_numbers(column.replace_values(values), pa.int64(), _ADVICE)


def _are_dates(times: pa.ChunkedArray, low: int, high: int) -> bool:
    """Whether all numbers can be dates, such as 20201231."""
    if low <= 1900_00_00 or high >= 2101_00_00:
        return False
    values = times.to_numpy()
    month, day = values // 100 % 100, values % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())
