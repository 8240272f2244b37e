"""Texts become the seconds that they say; what has two meanings is refused with an example."""

from __future__ import annotations

import calendar
import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from twotower.workflows.sources.time_texts import (
    UnclearTime,
    check_format,
    parse_format,
    parse_texts,
)


def parsed(*texts: str):
    return parse_texts(pa.chunked_array([list(texts)]))


def seconds(*when: int) -> int:
    return calendar.timegm(when)


AT = seconds(2020, 9, 16, 6, 45, 34)
NIGHT = seconds(2020, 9, 17, 0, 38, 23)
FORMS = {
    "%Y-%m-%d %H:%M:%S": "ISO 8601",
    "%Y-%m-%dT%H:%M:%S": "ISO 8601",
    "%Y-%m-%dT%H:%M:%SZ": "ISO 8601 with a zone",
    "%Y-%m-%d %H:%M:%S UTC": "ISO 8601 with a zone",
    "%Y-%m-%d %H:%M:%S GMT": "ISO 8601 with a zone",
    "%Y-%m-%dT%H:%M:%S+00:00": "ISO 8601 with a zone",
    "%Y-%m-%dT%H:%M:%S +0000": "ISO 8601 with a zone",
    "%Y-%m-%dT%H:%M:%S+00:00[Europe/London]": "ISO 8601 with a zone",
    "%Y/%m/%d %H:%M:%S": "%Y/%m/%d %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p": "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y, %I:%M:%S%p": "%m/%d/%Y, %I:%M:%S%p",
    "%d.%m.%Y %H:%M:%S": "%d.%m.%Y %H:%M:%S",
    "%d-%m-%YT%H:%M:%S Z": "%d-%m-%YT%H:%M:%S%z",
    "%d %B %Y %H:%M:%S": "%d %B %Y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S": "%d-%b-%Y %H:%M:%S",
    "%B %d, %Y %I:%M:%S %p": "%B %d, %Y %I:%M:%S %p",
    "%a, %d %b %Y %H:%M:%S GMT": "%a, %d %b %Y %H:%M:%S%z",
    "%a, %d %b %Y %H:%M:%S -0000": "%a, %d %b %Y %H:%M:%S%z",
    "%a %b %d %H:%M:%S +0000 %Y": "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y": "%a %b %d %H:%M:%S %Y",
    "%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)": "%a %b %d %Y %H:%M:%S%z",
    "%Y%m%dT%H%M%SZ": "%Y%m%dT%H%M%S%z",
    "%Y%m%d %H:%M:%S": "%Y%m%d %H:%M:%S",
}


@pytest.mark.parametrize("form", FORMS)
def test_texts_of_each_form_become_their_seconds(form):
    times = [dt.datetime.fromtimestamp(second, dt.timezone.utc) for second in (AT, NIGHT)]
    result = parsed(*(time.strftime(form) for time in times))
    assert result.seconds.tolist() == [AT, NIGHT]
    assert result.seconds.dtype == np.int64
    assert result.remarks[0].startswith(f"the texts are read as {FORMS[form]}")
    zoned = "zone" in FORMS[form] or "%z" in FORMS[form]
    assert ("no zone is named, so they are read as UTC" in result.remarks) is not zoned


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["2020-02-29", "2020-03-01"], [(2020, 2, 29, 0, 0, 0), (2020, 3, 1, 0, 0, 0)]),
        (["2020-9-3"], [(2020, 9, 3, 0, 0, 0)]),
        (["2020-09-03 14:05"], [(2020, 9, 3, 14, 5, 0)]),
        (["2020-09-03T14:05:06.5+02:00"], [(2020, 9, 3, 12, 5, 6)]),
        (["2020-09-03 14:05:06,123"], [(2020, 9, 3, 14, 5, 6)]),
        (
            ["2020-09-03T14:05-0730", "2020-09-03T14:05Z"],
            [(2020, 9, 3, 21, 35, 0), (2020, 9, 3, 14, 5, 0)],
        ),
        ([" 2020-09-03 ", "2020-09-04"], [(2020, 9, 3, 0, 0, 0), (2020, 9, 4, 0, 0, 0)]),
        (["09/16/2020 12:05 am"], [(2020, 9, 16, 0, 5, 0)]),
        (["09/16/2020 12:05 PM"], [(2020, 9, 16, 12, 5, 0)]),
        (["09 13, 2009", "09 3, 2009"], [(2009, 9, 13, 0, 0, 0), (2009, 9, 3, 0, 0, 0)]),
        (["3 May 2021", "12 September 2021"], [(2021, 5, 3, 0, 0, 0), (2021, 9, 12, 0, 0, 0)]),
        (["01/05/2024", "13/05/2024"], [(2024, 5, 1, 0, 0, 0), (2024, 5, 13, 0, 0, 0)]),
        (["01/05/2024", "05/13/2024"], [(2024, 1, 5, 0, 0, 0), (2024, 5, 13, 0, 0, 0)]),
        (["05/05/2024"], [(2024, 5, 5, 0, 0, 0)]),
        (["16.09.2020 06:45:34.25"], [(2020, 9, 16, 6, 45, 34)]),
    ],
)
def test_texts_become_seconds(texts, expected):
    assert parsed(*texts).seconds.tolist() == [seconds(*when) for when in expected]


def test_what_was_chosen_is_said():
    result = parsed("01/05/2024", "13/05/2024")
    assert result.remarks == [
        "the texts are read as %d/%m/%Y, the day first because of '13/05/2024'; set "
        "ingest.files.time_format to '%d/%m/%Y' so that an update cannot differ",
        "no zone is named, so they are read as UTC",
    ]
    fractions = parsed("2020-09-03T14:05:06.5Z", "2020-09-03T14:05:06Z").remarks
    assert fractions[1] == "1 have a fraction of a second, which is dropped"
    assert parsed("16.09.2020 06:45:34.25").remarks[-1] == fractions[1]


@pytest.mark.parametrize(
    "texts, row, reason",
    [
        (["01/05/2024", "02/05/2024"], 0, "no value of the column shows whether the month or the"),
        (["13/05/2024", "05/13/2024"], 0, "the day is first, but in '05/13/2024' the month is"),
        (["13/05/2024", "02/30/2024", "30/02/2024"], 1, "it cannot be read as %m/%d/%Y or %d/%m"),
        (["2024-05-01", "2024-02-30"], 1, "it cannot be read as a time like '2024-05-01'"),
        (["2023-02-28", "2023-02-29"], 1, "it cannot be read as a time like '2023-02-28'"),
        (["2024-05-01 10:00", "2024-05-01 24:00"], 1, "it cannot be read as a time like"),
        (["2024-05-01 10:00Z", "2024-05-01 10:00"], 1, "it names no time zone, unlike"),
        (["2024-05-01 10:00", "2024-05-01 10:00+01:00"], 1, "it names a time zone, unlike"),
        (["13/05/2024 01:00 PM", "13/05/2024 13:00 PM"], 1, "it cannot be read as"),
        (["13/05/2024 01:00 PM", "13/05/2024 01:00"], 1, "it cannot be read as"),
        (["05/13/24", "05/14/24"], 0, "the year has two digits"),
        (["13-May-24"], 0, "the year has two digits"),
        (["2024-05-01 10:00 EST"], 0, "the zone EST is unclear"),
        (["yesterday"], 0, "it is not a time of a known form"),
        (["10:30"], 0, "it is not a time of a known form"),
        (["2024-05"], 0, "it is not a time of a known form"),
    ],
)
def test_texts_that_are_unclear_are_refused(texts, row, reason):
    with pytest.raises(UnclearTime) as raised:
        parsed(*texts)
    assert (raised.value.row, raised.value.reason[: len(reason)]) == (row, reason)


def test_the_first_wrong_row_of_many_is_named():
    texts = ["2024-05-01 10:00:00"] * 1000
    texts[617] = texts[800] = "soon"
    with pytest.raises(UnclearTime) as raised:
        parsed(*texts)
    assert raised.value.row == 617


DAYS = [dt.date(2000 + n // 12, n % 12 + 1, n % 12 + 1) for n in range(1500)]  # day equals month
DAY_FIRST, MONTH_FIRST = "13/01/2024", "01/13/2024"


@pytest.mark.parametrize("decisive", [DAY_FIRST, MONTH_FIRST])
@pytest.mark.parametrize("row", [0, 1500])
def test_one_text_of_many_decides(decisive, row):
    texts = [day.strftime("%d/%m/%Y") for day in DAYS]
    texts.insert(row, decisive)
    result = parsed(*texts)
    order = "day" if decisive == DAY_FIRST else "month"
    assert f"the {order} first because of {decisive!r}" in result.remarks[0]
    expected = [seconds(day.year, day.month, day.day, 0, 0, 0) for day in DAYS]
    expected.insert(row, seconds(2024, 1, 13, 0, 0, 0))
    assert result.seconds.tolist() == expected


@pytest.mark.parametrize(
    "first, last, row, reason",
    [
        (DAY_FIRST, MONTH_FIRST, 0, "the day is first, but in '01/13/2024' the month is first"),
        (MONTH_FIRST, DAY_FIRST, 1501, "the day is first, but in '01/13/2024' the month is first"),
        (DAY_FIRST, "soon", 1501, "it cannot be read as %m/%d/%Y or %d/%m/%Y"),
    ],
)
def test_a_late_text_of_many_is_not_overlooked(first, last, row, reason):
    with pytest.raises(UnclearTime) as raised:
        parsed(first, *(day.strftime("%d/%m/%Y") for day in DAYS), last)
    assert (raised.value.row, raised.value.reason[: len(reason)]) == (row, reason)


def test_hours_from_1_to_12_make_a_remark():
    lost = [f"2024-05-{day:02d} {hour:02d}:00" for day in range(1, 11) for hour in range(1, 13)]
    remark = "all hours are from 1 to 12: were AM and PM lost?"
    assert remark in parsed(*lost).remarks
    assert remark not in parsed(*lost, "2024-05-11 13:00").remarks
    assert remark not in parsed(*[f"2024-05-{day:02d}" for day in range(1, 11)] * 20).remarks


def test_a_given_format_decides():
    texts = pa.chunked_array([["01/05/2024", "02/05/2024"]])
    assert parse_format(texts, "%d/%m/%Y").seconds[0] == seconds(2024, 5, 1, 0, 0, 0)
    assert parse_format(texts, "%m/%d/%Y").seconds[0] == seconds(2024, 1, 5, 0, 0, 0)
    with pytest.raises(UnclearTime, match="it cannot be read as %Y-%m-%d"):
        parse_format(texts, "%Y-%m-%d")


@pytest.mark.parametrize(
    "format, message",
    [("%Q", "directive"), ("%d/%m", "has no year"), ("day", "has no year"), ("%Y %", "stray %")],
)
def test_a_wrong_format_is_refused(format, message):
    with pytest.raises(ValueError, match=message):
        check_format(format)
    check_format("%d/%m/%Y %I:%M %p %z")
