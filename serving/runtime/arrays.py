"""Writes and reads arrays without pickle, and looks values up in them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np


def find(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look values up in ascending keys.

    Parameters
    ----------
    keys : ndarray, shape (v,)
        Ascending.
    values : ndarray, shape (n,)

    Returns
    -------
    position : ndarray of int64, shape (n,)
        Position of each value in `keys`; arbitrary if it is not there.
    known : ndarray of bool, shape (n,)
        Whether each value is in `keys`.
    """
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    position = keys.searchsorted(values)
    np.minimum(position, len(keys) - 1, out=position)
    return position, keys[position] == values


def expand(values: np.ndarray, counts: np.ndarray, length: int, filler: Any) -> np.ndarray:
    """Pad rows of `counts` values each to [n, length]; `filler` is added at the end of each row."""
    rows = np.full((len(counts), length), filler, values.dtype)
    rows[np.arange(length) < counts[:, None]] = values
    return rows


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return for each start the next `count` integers, concatenated.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum())


def first_values(
    values: np.ndarray, counts: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows of `counts` values each to their first `length` values; return values and counts."""
    if counts.max() <= length:
        return values, counts
    kept = np.minimum(counts, length)
    return values[ranges(np.cumsum(counts) - counts, kept)], kept


def save_strings(path: Path, strings: Sequence[str]) -> None:
    """Write strings as `<path>.utf8.npy` (uint8) and `<path>.offsets.npy` (int64 [n + 1]).

    A fixed-width array of NumPy would lose NUL characters at the end, and give every string the
    size of the longest one.
    """
    encoded = [text.encode() for text in strings]
    offsets = np.append(0, np.cumsum([len(text) for text in encoded])).astype(np.int64)
    blob, bounds = _string_files(path)
    np.save(blob, np.frombuffer(b"".join(encoded), np.uint8))
    np.save(bounds, offsets)


def load_strings(path: Path) -> np.ndarray:
    """Read what `save_strings` wrote as an object array of str; equal strings share an object."""
    blob, bounds = (np.load(file) for file in _string_files(path))
    data = blob.tobytes()
    unique: dict[str, str] = {}
    strings = np.empty(len(bounds) - 1, object)
    for position, (start, stop) in enumerate(pairwise(bounds.tolist())):
        text = data[start:stop].decode()
        strings[position] = unique.setdefault(text, text)
    return strings


def save_column(path: Path, values: np.ndarray) -> None:
    """Write a column of numbers as `<path>.npy`, or a column of strings by `save_strings`."""
    if values.dtype == object:
        save_strings(path, values.tolist())
    else:
        np.save(path.with_name(f"{path.name}.npy"), values)


def load_column(path: Path) -> np.ndarray:
    """Read what `save_column` wrote."""
    file = path.with_name(f"{path.name}.npy")
    return np.load(file) if file.exists() else load_strings(path)


def _string_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.utf8.npy"), path.with_name(f"{path.name}.offsets.npy")
