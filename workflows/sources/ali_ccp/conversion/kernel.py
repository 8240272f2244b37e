"""The compiled parser of lines. It finds that a line is wrong; `problems` says what is wrong."""

from __future__ import annotations

import numpy as np

from twotower.workflows.sources.ali_ccp.compiled import compiled
from twotower.workflows.sources.ali_ccp.fields import SUFFIXED

MAX_INDEX = 32
"""Longest index of common features, in characters."""
_COMMA, _ZERO, _NEW_LINE = 44, 48, 10
_FIELD_END, _NAME_END, _FEATURE_END = 1, 2, 3
_TENTHS = 10.0 ** -np.arange(330, dtype=np.float64)
_TENS = 10.0 ** np.arange(309, dtype=np.float64)
_LARGEST = float(np.finfo(np.float32).max)


@compiled
def _digit(byte):
    return _ZERO <= byte <= 57


@compiled
def _whole(data, at):
    """Read a number that is 0 or more: its value, -1 if there is none, and where it ends."""
    value, first = np.int64(0), at
    while _digit(data[at]):
        digit = np.int64(data[at]) - _ZERO
        if at - first >= 18 and (at - first >= 19 or value > (np.int64(2**63 - 1) - digit) // 10):
            return np.int64(-1), at
        value = value * 10 + digit
        at += 1
    return (np.int64(-1) if at == first else value), at


@compiled
def _scaled(mantissa, exponent):
    """Compute mantissa * 10 ** exponent with at most two roundings for usual numbers."""
    if exponent >= 0:
        return mantissa * _TENS[min(exponent, 308)]
    if exponent >= -22:  # the power is exact
        return mantissa / _TENS[-exponent]
    return mantissa * _TENTHS[min(-exponent, 329)]


@compiled
def _decimal(data, at):
    """Read a decimal number: its value, NaN if there is none, and where it ends."""
    negative = data[at] == 45
    if negative or data[at] == 43:
        at += 1
    mantissa, digits, exponent = np.int64(0), 0, 0
    after_point = False
    while _digit(data[at]) or (data[at] == 46 and not after_point):
        if data[at] == 46:
            after_point = True
        else:
            if mantissa < 10**17:
                mantissa = mantissa * 10 + (np.int64(data[at]) - _ZERO)
                exponent -= after_point
            else:
                exponent += not after_point
            digits += 1
        at += 1
    if digits and (data[at] == 101 or data[at] == 69):
        at += 1
        minus = data[at] == 45
        if minus or data[at] == 43:
            at += 1
        power, end = _whole(data, at)
        if power < 0 or end - at > 3:
            return np.nan, at
        at = end
        exponent += -power if minus else power
    value = _scaled(np.float64(mantissa), exponent)
    if not digits or value > _LARGEST:
        return np.nan, at
    return (-value if negative else value), at


@compiled
def _field(data, at):
    """Read the code of a field: its key, -1 if there is none, and where it ends."""
    if not (_digit(data[at]) and _digit(data[at + 1]) and _digit(data[at + 2])):
        return -1, at
    key = 100 * np.int64(data[at]) + 10 * np.int64(data[at + 1]) + np.int64(data[at + 2])
    key -= 111 * _ZERO
    at += 3
    if data[at] == 95:
        if data[at + 1] != 49 or data[at + 2] != 52:
            return -1, at
        return key + SUFFIXED, at + 3
    return key, at


@compiled
def _mixed(a, b):
    """Mix two numbers to one with the steps of MurmurHash3's finaliser."""
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(b)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@compiled
def _head(data, at, row, is_skeleton, clicks, conversions, indices):
    """Read what is before the features: how many there are, -1 if it is wrong, and its end."""
    if is_skeleton:
        number, at = _whole(data, at)
        if number < 0 or data[at] != _COMMA:
            return np.int64(-1), at
        for flags in (clicks, conversions):
            flag = np.int64(data[at + 1]) - _ZERO
            # The line may end here: what follows the line feed is not its own.
            if flag < 0 or flag > 1 or data[at + 2] != _COMMA:
                return np.int64(-1), at
            flags[row] = flag
            at += 2
        at += 1
    length = 0
    while _digit(data[at]) or 65 <= data[at] <= 90 or 97 <= data[at] <= 122:
        if length < MAX_INDEX:
            indices[row, length] = data[at]
        length += 1
        at += 1
    if length == 0 or length > MAX_INDEX or data[at] != _COMMA:
        return np.int64(-1), at
    count, at = _whole(data, at + 1)
    if count <= 0 or data[at] != _COMMA:
        return np.int64(-1), at
    return count, at + 1


@compiled
def parse(data, starts, is_skeleton, slots, single, values, counts, out):
    """Parse lines.

    Parameters
    ----------
    data : ndarray of uint8
        Lines, each with its line feed, and 8 more bytes.
    starts : ndarray of int64, shape (n,)
        Where the lines begin.
    is_skeleton : bool
        Whether the lines are impressions.
    slots : ndarray of int8, shape (KEYS,)
        See `Layout.slots`.
    single : ndarray of int64, shape (s, n)
        Is filled with the features of the fields with one value; -1 if there is none.
    values : ndarray of float32, shape (s, n)
        Is filled with their values.
    counts : ndarray of int32, shape (m, n)
        Is filled with the number of features of the fields with lists.
    out : tuple of ndarray
        Are filled: right (bool, n), clicks (int8, n), conversions (int8, n), indices (uint8,
        (n, MAX_INDEX)), hashes (uint64, n; of the features in any order); and of the features of
        the fields with lists, in the order of the lines: slot (int8), feature (int64), value
        (float32), as long as there may be features.

    Returns
    -------
    int
        The number of features of the fields with lists.
    """
    right, clicks, conversions, indices, hashes, tokens, features, weights = out
    size = 0
    for row in range(len(starts)):
        first = size
        count, at = _head(data, starts[row], row, is_skeleton, clicks, conversions, indices)
        left, good = count, count > 0
        while good and left > 0:
            good = False
            key, at = _field(data, at)
            slot = -1 if key < 0 else slots[key]
            if slot < 0 or data[at] != _NAME_END:
                break
            feature, at = _whole(data, at + 1)
            if feature < 0 or data[at] != _FEATURE_END:
                break
            value, at = _decimal(data, at + 1)
            left -= 1
            if np.isnan(value) or data[at] != (_NEW_LINE if left == 0 else _FIELD_END):
                break
            at += 1
            value = np.float32(value)
            if slot < len(single):
                if single[slot, row] >= 0:
                    break
                single[slot, row], values[slot, row] = feature, value
            else:
                counts[slot - len(single), row] += 1
                tokens[size], features[size], weights[size] = slot, feature, value
                size += 1
            hashes[row] += _mixed(feature * 64 + slot, value.view(np.int32))
            good = True
        if not good or single[0, row] < 0:
            right[row], size = False, first
            counts[:, row] = 0
            single[:, row] = -1
    return size
