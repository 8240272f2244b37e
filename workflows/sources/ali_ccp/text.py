"""Write drawn lines in the format of Ali-CCP's files."""

from __future__ import annotations

import math

import numpy as np

from twotower.workflows.sources.ali_ccp.compiled import compiled
from twotower.workflows.sources.ali_ccp.draw import FIELDS, MAX_COUNT, Features, Impressions

_LONGEST_TOKEN, _LONGEST_HEAD = 40, 80  # bytes


def value_of(count: int) -> float:
    """The value that a count stands for: 1 without one, otherwise log(1 + count)."""
    return 1.0 if count == 0 else round(math.log1p(count), 5)


def _texts(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pack texts: uint8, shape (n, longest), and int64 lengths."""
    lengths = np.array([len(text) for text in texts])
    packed = np.zeros((len(texts), int(lengths.max())), dtype=np.uint8)
    for row, text in enumerate(texts):
        packed[row, : len(text)] = np.frombuffer(text.encode("ascii"), np.uint8)
    return packed, lengths


CODES = _texts([field.code for field in FIELDS])
VALUES = _texts([str(value_of(count)) for count in range(MAX_COUNT + 1)])


@compiled
def _number(out, at, value):
    end = at + 1
    rest = value // 10
    while rest:
        end += 1
        rest //= 10
    for place in range(end - 1, at - 1, -1):
        out[place] = 48 + value % 10
        value //= 10
    return end


@compiled
def _copy(out, at, texts, row):
    packed, lengths = texts
    for place in range(lengths[row]):
        out[at + place] = packed[row, place]
    return at + lengths[row]


@compiled
def _index(out, at, key):
    for place in range(16):
        digit = (key >> np.uint64(60 - 4 * place)) & np.uint64(15)
        out[at + place] = (48 if digit < 10 else 87) + digit
    return at + 16


@compiled
def _write(out, start, keys, flags, features, codes, values):
    """Write lines: `flags` are clicks and conversions, or empty for common features."""
    ends, field, feature, count = features
    clicks, conversions = flags
    at, first = 0, 0
    for row in range(len(ends)):
        if len(clicks):
            at = _number(out, at, start + row + 1)
            out[at], out[at + 1] = 44, 48 + clicks[row]
            out[at + 2], out[at + 3], out[at + 4] = 44, 48 + conversions[row], 44
            at += 5
        at = _index(out, at, keys[row])
        out[at] = 44
        at = _number(out, at + 1, ends[row] - first)
        out[at] = 44
        at += 1
        for token in range(first, ends[row]):
            at = _copy(out, at, codes, field[token])
            out[at] = 2
            at = _number(out, at + 1, feature[token])
            out[at] = 3
            at = _copy(out, at + 1, values, count[token])
            out[at] = 1
            at += 1
        out[at - 1] = 10
        first = ends[row]
    return at


def lines_of(
    start: int, keys: np.ndarray, features: Features, drawn: Impressions | None = None
) -> np.ndarray:
    """Write lines.

    Parameters
    ----------
    start : int
        The number of the first line in the file, from 0.
    keys : ndarray of uint64, shape (n,)
        The index of the common features of each line.
    features : Features
        Of n lines, each with one or more.
    drawn : Impressions, optional
        For lines of impressions.

    Returns
    -------
    ndarray of uint8
    """
    none = np.zeros(0, dtype=np.int8)
    flags = (none, none) if drawn is None else (drawn.click, drawn.conversion)
    size = _LONGEST_TOKEN * len(features.field) + _LONGEST_HEAD * len(keys)
    out = np.empty(size, dtype=np.uint8)
    return out[: _write(out, start, keys, flags, tuple(features), CODES, VALUES)]
