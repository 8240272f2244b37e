"""The type of a text column: the one that all of its values allow."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_INTEGER = "^(0|-?[1-9][0-9]*)$"
# An exponent needs a sign or a decimal point before it, because 12e5 may be a code.
_NUMBER = (
    r"^-?((0|[1-9][0-9]*)([eE][+-][0-9]+)?|((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)$"
)
NULL_WORDS = ("NaN", "nan", "NULL", "null", "NA", "N/A", "None", "\\N")
"""They mean "no value" in a column whose other values are all numbers."""


def typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a text column the type that all of its values allow.

    int64, or else uint64, if each is an integer as programs write it, without leading zeros; or
    else float64 if each is such a number; or else string. Spaces around a number do not count, and
    neither do `NULL_WORDS`. Without any value, the type is null.

    Parameters
    ----------
    column : ChunkedArray of string

    Returns
    -------
    ChunkedArray of int64, uint64, float64, string or null

    Examples
    --------
    >>> typed(pa.chunked_array([["5", None], ["6 ", "NA"]])).to_pylist()
    [5, None, 6, None]
    >>> typed(pa.chunked_array([["00042", "7"]])).to_pylist()
    ['00042', '7']
    """
    if (whole := _integers(column)) is not None:
        return whole
    values = pc.drop_null(pc.unique(column))
    if not len(values):
        return pa.chunked_array([pa.nulls(len(column))])
    is_word = pc.is_in(values, pa.array(NULL_WORDS))
    numbers = pc.utf8_trim_whitespace(values.filter(pc.invert(is_word)))
    if not len(numbers):
        return column
    kinds = []
    if _all_match(numbers, _INTEGER):
        kinds = [pa.int64(), pa.uint64()]
    elif _all_match(numbers, _NUMBER):
        kinds = [pa.float64()]
    for kind in kinds:
        try:
            numbers.cast(kind)
        except pa.ArrowInvalid:  # out of range
            continue
        return as_number(column, kind)
    return column


def _integers(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Convert text that is integers only, as programs write them, in less time and memory.

    The text of an integer that was cast is the text before if there is no zero or space too many.
    """
    chunks = []
    for texts in column.chunks:
        try:
            numbers = texts.cast(pa.int64())
        except pa.ArrowInvalid:
            return None
        same = pc.all(pc.equal(numbers.cast(pa.string()), texts))
        if not same.as_py():  # None if there is no value
            return None
        chunks.append(numbers)
    return pa.chunked_array(chunks, pa.int64()) if chunks else None


def as_number(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Convert text to a numeric type, `NULL_WORDS` to null; ArrowInvalid if a value has no such."""
    is_word = pc.is_in(column, pa.array(NULL_WORDS))
    return pc.utf8_trim_whitespace(pc.if_else(is_word, None, column)).cast(kind)


def first_not(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """The first row whose text is not a number of a type; ValueError if there is none."""
    pattern = _INTEGER if pa.types.is_integer(kind) else _NUMBER
    texts = pc.utf8_trim_whitespace(column)
    fits = pc.or_(pc.match_substring_regex(texts, pattern), pc.is_in(column, pa.array(NULL_WORDS)))
    return pc.index(pc.fill_null(fits, True), False).as_py()


def _all_match(values: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())
