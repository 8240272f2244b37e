"""Parse a whole column of texts as times: ISO 8601, or one strptime format found for all rows."""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_MISSING = ("", "nan", "nat", "none", "null")
# Other spellings of what ISO 8601 writes, in the order in which they are replaced.
_SPELLINGS = (
    (r"\s*(\[[A-Za-z_/+-]+\]|\([A-Za-z ]+\))$", ""),  # the name of a zone after its offset
    (r"\s*(UTC|GMT)([+-])", r"\2"),
    (r"\s*(UTC|GMT|Z|z)$", "Z"),
    (r"\s+([+-]\d{2}:?\d{2})$", r"\1"),
    (r"(:\d{2}),(\d)", r"\1.\2"),
)
_FRACTION = r"(\d:\d{2}:\d{2})\.\d+"
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}(?::\d{2}){0,2}(?P<zone>Z|[+-]\d{2}(:?\d{2})?)?)?")
_TOKEN = re.compile(
    r"(?P<time>\d{1,2}:\d{2}(?P<seconds>:\d{2})?)(?:(?P<gap>\s*)(?P<half>[AaPp][Mm])\b)?"
    r"(?:(?P<space>\s*)(?P<zone>Z|[+-]\d{2}:?\d{2})(?!\d))?"
    r"|(?P<number>\d+)|(?P<word>[^\W\d_]+)|(?P<other>.)",
    re.DOTALL,
)
_WORDS = {
    name.lower(): code
    for names, code in (
        (calendar.day_name, "%A"),
        (calendar.month_name[1:], "%B"),
        (calendar.day_abbr, "%a"),  # May is both a full and a short name
        (calendar.month_abbr[1:], "%b"),
    )
    for name in names
}
_LONG_MONTHS = f"(?i){'|'.join(name for name in calendar.month_name[1:] if len(name) > 3)}"
_LONG_NUMBERS = {4: "%Y", 6: "%H%M%S", 8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
_LOCAL = "no zone is named, so they are read as UTC"
_UNKNOWN = "it is not a time of a known form"
_SAMPLE = 1000
"""Number of different texts that are tried first."""
_MIN_HALF_DAY = 100
"""Minimum number of times for the remark that no hour is outside 1 to 12."""


class UnclearTime(Exception):
    """A value of a column of times that cannot be read, or has more than one meaning.

    Parameters
    ----------
    row : int
        The row of the column, from 0.
    reason : str
        What is wrong, and what to do if that depends on it.
    formats : tuple of str
        The strptime formats that all values of the column fit, if there are several.
    """

    def __init__(self, row: int, reason: str, formats: tuple[str, ...] = ()):
        super().__init__(reason)
        self.row, self.reason, self.formats = row, reason, formats


class Parsed(NamedTuple):
    """Texts as unix seconds.

    Attributes
    ----------
    seconds : ndarray of int64, shape (n,)
    remarks : list of str
        How the texts were read.
    format : str or None
        The strptime format, if the values decided between the month and the day first.
    """

    seconds: np.ndarray
    remarks: list[str]
    format: str | None = None


def parse_texts(texts: pa.ChunkedArray) -> Parsed:
    """Parse texts that all have the same form of time.

    Parameters
    ----------
    texts : ChunkedArray of string
        Without nulls, and not only numbers.

    Raises
    ------
    UnclearTime
        If a text is not a time, has another form than the first one, or if day and month or the
        century are unclear.
    """
    first = _normalised(texts.slice(0, 1))[0].as_py()
    if match := _ISO.fullmatch(re.sub(_FRACTION, r"\1", first)):
        return _parse_iso(texts, bool(match["zone"]))
    formats = _formats(re.sub(_FRACTION, r"\1", first))
    texts = _normalised(texts)
    fractions = pc.sum(pc.match_substring_regex(texts, pattern=_FRACTION)).as_py()
    texts = pc.replace_substring_regex(texts, pattern=_FRACTION, replacement=r"\1")
    coded = texts.combine_chunks().dictionary_encode()
    if pc.any(pc.match_substring_regex(coded.dictionary, pattern=_LONG_MONTHS)).as_py():
        formats = [format.replace("%b", "%B") for format in formats]  # the first month was May
    chosen = None
    if len(formats) == 1:
        result = _parse_all(coded, formats[0])
        remarks = [f"the texts are read as {formats[0]}"]
    else:
        result, remarks, chosen = _decide(coded, formats)
    if "%z" not in formats[0]:
        remarks += _remarks_on_local(result, with_hours="%H" in formats[0])
    if fractions:
        remarks.append(_dropped(fractions))
    return Parsed(result, remarks, chosen)


def parse_format(texts: pa.ChunkedArray, format: str) -> Parsed:
    """Parse texts in a strptime format that the settings name; raise UnclearTime as above."""
    coded = texts.combine_chunks().dictionary_encode()
    result = _parse_all(coded, format)
    zoned = "%z" in format or format.endswith(("Z", "UTC", "GMT"))
    return Parsed(result, [] if zoned else [_LOCAL])


def check_format(format: str) -> None:
    """Raise ValueError if it is not a strptime format of a time with a year."""
    try:
        datetime.strptime("", format)
    except ValueError as error:
        if "does not match" not in str(error):
            raise
    if "%Y" not in format and "%y" not in format:
        raise ValueError(f"{format!r} has no year; a strptime format has %Y, such as '%d/%m/%Y'")


def without_missing(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace texts that stand for no value, such as an empty one, by null."""
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    return pc.if_else(pc.is_in(plain, value_set=pa.array(_MISSING)), None, texts)


def first_refused(texts: pa.ChunkedArray, kind: pa.DataType) -> int | None:
    """Find the first text that Arrow cannot cast to `kind`, by halving; None if there is none."""

    def accepted(start: int, end: int) -> bool:
        try:
            texts.slice(start, end - start).cast(kind)
        except pa.ArrowInvalid:
            return False
        return True

    start, end = 0, len(texts)
    if accepted(start, end):
        return None
    while end - start > 1:
        middle = (start + end) // 2
        if accepted(start, middle):
            start = middle
        else:
            end = middle
    return start


def _parse_iso(texts: pa.ChunkedArray, zoned: bool) -> Parsed:
    """Parse ISO 8601 with Arrow, which is strict: all texts have an offset, or none has."""
    kind = pa.timestamp("ns", "UTC" if zoned else None)
    try:
        times = texts.cast(kind)
    except pa.ArrowInvalid:
        example = texts[0].as_py()
        texts = _normalised(texts)
        row = first_refused(texts, kind)
        if row is not None:
            other = pa.timestamp("ns", None if zoned else "UTC")
            if first_refused(texts.slice(row, 1), other) is None:
                reason = f"it names {'no' if zoned else 'a'} time zone, unlike {example!r}"
            else:
                reason = f"it cannot be read as a time like {example!r}"
            raise UnclearTime(row, reason) from None
        times = texts.cast(kind)
    nanoseconds = times.cast(pa.int64()).to_numpy()
    seconds = nanoseconds // 10**9
    remarks = [f"the texts are read as ISO 8601{' with a zone' if zoned else ''}"]
    if not zoned:
        remarks += _remarks_on_local(seconds, with_hours=True)
    if fractions := int((nanoseconds % 10**9 != 0).sum()):
        remarks.append(_dropped(fractions))
    return Parsed(seconds, remarks)


def _normalised(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write zones and fractions as ISO 8601 does."""
    texts = pc.utf8_trim_whitespace(texts)
    for pattern, replacement in _SPELLINGS:
        texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=replacement)
    return texts


def _formats(text: str) -> list[str]:
    """Find the strptime formats that a text may have; two if its day and month are unclear."""
    parts: list[str] = []
    numbers: list[int] = []  # places in `parts` of numbers of one or two digits
    for token in _TOKEN.finditer(text):
        if token["time"]:
            clock = "%I:%M" if token["half"] else "%H:%M"
            half = f"{token['gap']}%p" if token["half"] else ""
            zone = f"{token['space']}%z" if token["zone"] else ""
            parts.append(f"{clock}{':%S' if token['seconds'] else ''}{half}{zone}")
        elif token["number"]:
            if len(token["number"]) <= 2:
                numbers.append(len(parts))
            parts.append(_LONG_NUMBERS.get(len(token["number"]), ""))
        elif token["word"]:
            parts.append(_word(token["word"], text))
        else:
            parts.append("%%" if token["other"] == "%" else token["other"])
    return _with_days_and_months(parts, numbers)


def _with_days_and_months(parts: list[str], numbers: list[int]) -> list[str]:
    """Fill in what the numbers of one or two digits at the places `numbers` are."""
    if "%Y%m%d" in parts and not numbers:
        return ["".join(parts)]
    has_month = any(part in ("%b", "%B") for part in parts)
    orders = [["%d"]] if has_month else [["%m", "%d"], ["%d", "%m"]]
    if "%Y" not in parts and len(numbers) == len(orders[0]) + 1:
        raise UnclearTime(0, "the year has two digits, so the century and the order are unclear")
    if "%Y" not in parts or len(numbers) != len(orders[0]):
        raise UnclearTime(0, _UNKNOWN)
    if parts.index("%Y") < numbers[0]:  # after the year, the month is first everywhere
        orders = orders[:1]
    formats = []
    for order in orders:
        for place, code in zip(numbers, order, strict=True):
            parts[place] = code
        formats.append("".join(parts))
    return formats


def _word(word: str, text: str) -> str:
    if (code := _WORDS.get(word.lower())) is not None:
        return code
    if word in ("T", "Z"):
        return word if word == "T" else "%z"
    zone = re.search(rf"\d\s*(?:[AaPp][Mm])?\s*{word}$", text.rstrip())
    if zone and 2 <= len(word) <= 5:
        raise UnclearTime(0, f"the zone {word} is unclear; write an offset, such as +02:00")
    raise UnclearTime(0, _UNKNOWN)


def _parse(texts: Sequence[str], format: str) -> tuple[np.ndarray, np.ndarray]:
    """Parse texts in a strptime format: unix seconds, and whether each text has the format."""
    values = np.array(texts, dtype=object)
    try:
        times = pd.to_datetime(values, format=format, errors="coerce", utc=True)
    except ValueError as error:  # pandas refuses the format itself
        raise UnclearTime(0, f"the format {format!r} cannot be used: {error}") from error
    seconds = times.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    return seconds, times.notna()


def _parse_all(coded: pa.DictionaryArray, format: str) -> np.ndarray:
    """Parse coded texts in a strptime format that all must have."""
    texts, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    seconds, good = _parse(texts, format)
    if not good.all():
        row = int(np.argmax(~good[codes]))
        raise UnclearTime(row, f"it cannot be read as {format}")
    return seconds[codes]


def _decide(
    coded: pa.DictionaryArray, formats: list[str]
) -> tuple[np.ndarray, list[str], str | None]:
    """Choose between the month first and the day first: the one that reads every text."""
    texts, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    # Usually the first texts decide, and reading all in both formats takes twice as long.
    in_sample = [_parse(texts[:_SAMPLE], format)[1] for format in formats]
    fits = [bool(each.all()) for each in in_sample]
    if sum(fits) == 1:
        chosen = fits.index(True)
        found, is_good = _parse(texts, formats[chosen])
        if is_good.all():
            shown = texts[int(np.argmin(in_sample[1 - chosen]))]
            return found[codes], [_chosen(formats, chosen, shown)], formats[chosen]
    return _decide_by_all(texts, codes, formats)


def _decide_by_all(
    texts: list[str], codes: np.ndarray, formats: list[str]
) -> tuple[np.ndarray, list[str], str | None]:
    """As `_decide`, from all texts; UnclearTime if they do not decide."""
    seconds, good = zip(*(_parse(texts, format) for format in formats), strict=True)

    def first(mask: np.ndarray) -> int:
        """The first row whose text is in `mask`."""
        return int(np.argmax(mask[codes]))

    if not (good[0] | good[1]).all():
        row = first(~(good[0] | good[1]))
        raise UnclearTime(row, f"it cannot be read as {formats[0]} or {formats[1]}")
    fits = [bool(each.all()) for each in good]
    if not any(fits):
        other = texts[codes[first(~good[1])]]
        reason = f"the day is first, but in {other!r} the month is first; write all alike"
        raise UnclearTime(first(~good[0]), reason)
    if all(fits):
        differ = seconds[0] != seconds[1]
        if differ.any():
            raise UnclearTime(
                first(differ),
                "no value of the column shows whether the month or the day is first. Set "
                f"ingest.files.time_format to {formats[0]!r} or {formats[1]!r}",
                formats=tuple(formats),
            )
        return seconds[0][codes], [f"the texts are read as {formats[0]}"], None
    chosen = fits.index(True)
    shown = texts[codes[first(~good[1 - chosen])]]
    return seconds[chosen][codes], [_chosen(formats, chosen, shown)], formats[chosen]


def _chosen(formats: list[str], chosen: int, shown: str) -> str:
    return (
        f"the texts are read as {formats[chosen]}, the {('month', 'day')[chosen]} first because of "
        f"{shown!r}; set ingest.files.time_format to {formats[chosen]!r} so that an update cannot "
        "differ"
    )


def _remarks_on_local(seconds: np.ndarray, with_hours: bool) -> list[str]:
    """Say that times without a zone are UTC, and whether they may lack AM and PM."""
    remarks = [_LOCAL]
    hours = seconds // 3600 % 24
    lacks_half = with_hours and len(hours) >= _MIN_HALF_DAY
    if lacks_half and hours.min() >= 1 and hours.max() <= 12:
        remarks.append("all hours are from 1 to 12: were AM and PM lost?")
    return remarks


def _dropped(fractions: int) -> str:
    return f"{fractions:,} have a fraction of a second, which is dropped"
