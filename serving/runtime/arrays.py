"""Arrays on disk without pickle, and lookups in them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np


def find(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value is in the ascending `keys`, and whether it is: if not, position is any."""
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    position = keys.searchsorted(values)
    np.minimum(position, len(keys) - 1, out=position)
    return position, keys[position] == values


def expand(values: np.ndarray, counts: np.ndarray, length: int, filler: Any) -> np.ndarray:
    """Rows of `counts` values each, [sum of counts] in all, as [n, length], `filler` at the end."""
    rows = np.full((len(counts), length), filler, values.dtype)
    rows[np.arange(length) < counts[:, None]] = values
    return rows


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenated ranges: `counts` integers from each of the `starts`."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum())


def first_values(
    values: np.ndarray, counts: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `counts` values each, cut to their first `length`: values and counts."""
    if counts.max() <= length:
        return values, counts
    kept = np.minimum(counts, length)
    return values[ranges(np.cumsum(counts) - counts, kept)], kept


def save_strings(path: Path, strings: Sequence[str]) -> list[Path]:
    """Write strings as `<path>.utf8.npy` (uint8) and `<path>.offsets.npy` (int64 [n + 1]).

    Not as a fixed-width array, which loses trailing NULs and is as wide as the longest.
    """
    encoded = [text.encode() for text in strings]
    offsets = np.append(0, np.cumsum([len(text) for text in encoded])).astype(np.int64)
    blob, bounds = _string_files(path)
    np.save(blob, np.frombuffer(b"".join(encoded), np.uint8))
    np.save(bounds, offsets)
    return [blob, bounds]


def load_strings(path: Path) -> np.ndarray:
    """What `save_strings` wrote, as an object array of str; equal ones are one object."""
    blob, bounds = (np.load(file) for file in _string_files(path))
    data, different = blob.tobytes(), {}
    strings = np.empty(len(bounds) - 1, object)
    for position, (start, stop) in enumerate(pairwise(bounds.tolist())):
        text = data[start:stop].decode()
        strings[position] = different.setdefault(text, text)
    return strings


def save_column(path: Path, values: np.ndarray) -> list[Path]:
    """Write a column of numbers (`<path>.npy`) or of strings (`save_strings`)."""
    if values.dtype == object:
        return save_strings(path, values)
    file = path.with_name(f"{path.name}.npy")
    np.save(file, values)
    return [file]


def load_column(path: Path) -> np.ndarray:
    """What `save_column` wrote."""
    file = path.with_name(f"{path.name}.npy")
    return np.load(file) if file.exists() else load_strings(path)


def _string_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.utf8.npy"), path.with_name(f"{path.name}.offsets.npy")
