"""What a column of a table holds: its kind, counts and range, on all rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.sources.arrow_types import is_time, tidy

if TYPE_CHECKING:
    from twotower.workflows.sources.formats.table import FileTable

MIN_REPEATED = 5
"""Ids with several rows that are needed to say that a column belongs to them."""
SAMPLE = 2_000
"""Different texts that are looked at for words, addresses and separators."""
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"\+?\(?\d[\d ()/.-]{6,16}\d")
_LINK = re.compile(r"(https?://|www\.)\S+")
_COMMA = re.compile(r"-?\d{1,3}(\.?\d{3})*,\d+")
_SEPARATED = re.compile(r"[^|;,]+([|;,])[^|;,]+")


@dataclass(frozen=True, eq=False)
class Facts:
    """A column and what can be counted in it.

    Attributes
    ----------
    name : str
    values : ChunkedArray
        In a tidy type (see `arrow_types.tidy`), or uint64 if an int64 cannot hold them. An empty
        text is null.
    stored : DataType
        The type in the file.
    codes : ndarray of int64, shape (n,)
        Equal values have equal codes, from 0; -1 for null.
    distinct : int
        Number of different values.
    """

    name: str
    values: pa.ChunkedArray
    stored: pa.DataType
    codes: np.ndarray
    distinct: int

    @classmethod
    def of(cls, name: str, values: pa.ChunkedArray, stored: pa.DataType) -> Facts:
        """Count the values of a column."""
        if pa.types.is_uint64(values.type) and (pc.max(values).as_py() or 0) < 2**63:
            values = values.cast(pa.int64())
        if pa.types.is_string(values.type):
            blank = pc.equal(pc.utf8_trim_whitespace(values), "")
            values = pc.if_else(blank, None, values)
        codes, distinct = _codes(values)
        return cls(name=name, values=values, stored=stored, codes=codes, distinct=distinct)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.codes)

    @cached_property
    def nulls(self) -> int:
        """The number of rows without a value."""
        return int((self.codes < 0).sum())

    @property
    def is_list(self) -> bool:
        """Whether the values are lists."""
        return bool(pa.types.is_list(self.values.type))

    @property
    def is_text(self) -> bool:
        """Whether the values are texts."""
        return bool(pa.types.is_string(self.values.type))

    @property
    def is_time(self) -> bool:
        """Whether the file says that the values are dates or times."""
        return is_time(self.stored)

    @property
    def is_boolean(self) -> bool:
        """Whether the file says that the values are true or false."""
        return bool(pa.types.is_boolean(self.stored))

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """The values as float64, NaN for null; None if they are not numbers."""
        kind = self.values.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return None
        return pc.fill_null(self.values.cast(pa.float64(), safe=False), np.nan).to_numpy()

    @cached_property
    def known_numbers(self) -> np.ndarray:
        """The numbers without nulls; empty if the values are not numbers."""
        return np.empty(0) if self.numbers is None else self.numbers[~np.isnan(self.numbers)]

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest number."""
        return float(self.known_numbers.min()), float(self.known_numbers.max())

    @cached_property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers."""
        known = self.known_numbers
        return len(known) > 0 and bool((known == np.trunc(known)).all())

    @cached_property
    def texts(self) -> list[str]:
        """Up to `SAMPLE` different texts."""
        if not self.is_text:
            return []
        return pc.drop_null(self.values).unique()[:SAMPLE].to_pylist()

    @cached_property
    def words(self) -> float:
        """The mean number of words of the texts; 0 for other columns."""
        counts = [len(text.split()) for text in self.texts]
        return float(np.mean(counts)) if counts else 0.0

    @cached_property
    def separator(self) -> str | None:
        """The character that separates several values in one text, as in Comedy|Drama."""
        found = [match[1] for text in self.texts if (match := _SEPARATED.match(text))]
        if len(found) < 0.1 * len(self.texts) or not found:
            return None
        mark = max(sorted(set(found)), key=found.count)
        parts = [part.strip() for text in self.texts for part in text.split(mark)]
        repeat = len(set(parts)) < 0.7 * len(parts)
        return mark if repeat and np.mean([len(part.split()) for part in parts]) < 3 else None

    @cached_property
    def has_decimal_comma(self) -> bool:
        """Whether the texts are numbers with a comma before the fraction, as in 12,50."""
        return bool(self.texts) and all(_COMMA.fullmatch(text.strip()) for text in self.texts)

    @cached_property
    def personal(self) -> str | None:
        """What kind of personal data the texts look like, or None."""
        for kind, pattern in (("e-mail addresses", _EMAIL), ("phone numbers", _PHONE)):
            if self.texts and self.distinct > 10:
                share = np.mean([bool(pattern.fullmatch(text.strip())) for text in self.texts])
                digits = np.mean([sum(map(str.isdigit, text)) for text in self.texts])
                marked = any(mark in text for text in self.texts for mark in "+ ()/-")
                if share > 0.8 and (kind[0] == "e" or (digits >= 7 and marked)):
                    return kind
        return None

    @cached_property
    def is_link(self) -> bool:
        """Whether the texts are addresses of web pages or images."""
        return bool(self.texts) and bool(
            np.mean([bool(_LINK.match(text)) for text in self.texts]) > 0.8
        )

    def examples(self, count: int = 3) -> str:
        """The first different values, for messages."""
        shown = pc.drop_null(self.values[: 10 * SAMPLE]).unique()[:count].to_pylist()
        texts = [repr(each) if isinstance(each, str) else str(each) for each in shown]
        return ", ".join(text if len(text) <= 40 else text[:36] + "...'" for text in texts)


def _codes(values: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    if pa.types.is_list(values.type) and pa.types.is_floating(values.type.value_type):
        vectors = [None if row is None else row.tobytes() for row in values.to_pandas()]
        codes, found = pd.factorize(pd.Series(vectors, dtype=object))
        return codes.astype(np.int64), len(found)
    if pa.types.is_nested(values.type):
        rows = [None if row is None else str(row) for row in values.to_pylist()]
        codes, found = pd.factorize(pd.Series(rows, dtype=object))
        return codes.astype(np.int64), len(found)
    if pa.types.is_null(values.type):
        return np.full(len(values), -1), 0
    coded = values.combine_chunks().dictionary_encode()
    chunks = coded.chunks if isinstance(coded, pa.ChunkedArray) else [coded]
    if not chunks:
        return np.empty(0, np.int64), 0
    codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy(False) for chunk in chunks])
    return codes.astype(np.int64), len(chunks[-1].dictionary)


def facts_of(table: FileTable, progress: Callable[[int, int, str], None]) -> dict[str, Facts]:
    """Count the values of each column of a table that can be used, by its name in the file.

    `progress` is called before each column, with the number of those that are read, the number of
    all, and the name.
    """
    found: dict[str, Facts] = {}
    names = [name for name in table.names if name not in table.unusable]
    for name in names:
        progress(len(found), len(names), name)
        column = table.column(name, keep_unsigned=True)
        found[name] = Facts.of(name, column.values, column.stored[0].type)
    return found


def facts_of_frame(frame: pa.Table) -> dict[str, Facts]:
    """Count the values of each column of a table in memory."""
    return {
        name: Facts.of(name, tidy(frame[name], keep_unsigned=True), frame[name].type)
        for name in frame.column_names
    }


def constancy(codes: np.ndarray, groups: np.ndarray) -> tuple[float, int]:
    """Say how far the values of a column are decided by an id.

    Parameters
    ----------
    codes, groups : ndarray of int64, shape (n,)
        Codes of the column and of the id; rows where either is -1 do not count.

    Returns
    -------
    share : float
        Among the rows of ids with several rows, the share that has its id's most frequent value,
        less the share that one value for all would reach, scaled so that 1 is always and 0 is no
        better than that.
    ids : int
        The number of these ids.
    """
    known = (codes >= 0) & (groups >= 0)
    codes, groups = codes[known], groups[known]
    if not len(codes):
        return 0.0, 0
    several = np.bincount(groups)[groups] > 1
    codes, groups = codes[several], groups[several]
    if not len(codes):
        return 0.0, 0
    pairs, counts = np.unique(groups * (codes.max() + 1) + codes, return_counts=True)
    owners = pairs // (codes.max() + 1)
    best = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(best, owners, counts)
    chance = np.bincount(codes).max() / len(codes)
    share = best.sum() / len(codes)
    ids = int(np.count_nonzero(best))
    if chance == 1.0:
        return 0.0, ids
    return float((share - chance) / (1 - chance)), ids


def overlap(left: Facts, right: Facts) -> float:
    """Return the share of the different values of `left` that occur in `right`."""
    ours, theirs = _comparable(left), _comparable(right)
    return len(ours & theirs) / len(ours) if ours else 0.0


def _comparable(facts: Facts) -> set[str]:
    values = pc.drop_null(facts.values).unique()
    return set(map(str, values.to_pylist()))
