"""Blocks of a file: the lines that begin in a range of bytes, and what they contain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twotower.workflows.sources.ali_ccp.fields import Layout

BLOCK = 64 << 20
"""Bytes of a block."""
MAX_LINE = 4 << 20
"""Longest line in bytes. In Ali-CCP the longest has less than a tenth of that."""
_NEW_LINE = 10
_PADDING = 8  # bytes that `kernel.parse` may look at behind the last line


@dataclass(frozen=True)
class Lines:
    """Some lines of a file.

    Attributes
    ----------
    data : ndarray of uint8
        Their bytes; each line ends with a line feed. Some zeros follow.
    starts, ends : ndarray of int64
        Where the lines begin, and where their line feeds are.
    complete : bool
        Whether the last line has a line feed in the file.
    """

    data: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    complete: bool

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.starts)

    def text(self, row: int) -> bytes:
        """Return a line without its line feed."""
        return self.data[self.starts[row] : self.ends[row]].tobytes()


def read_lines(path: Path, block: int, size: int = BLOCK) -> Lines:
    """Read the lines that begin in a block.

    Parameters
    ----------
    path : Path
    block : int
        The number of the block, from 0.
    size : int
        Bytes of a block.

    Returns
    -------
    Lines
        A line that is longer than `MAX_LINE` is cut off behind it.
    """
    first = max(block * size - 1, 0)
    end = (block + 1) * size
    with path.open("rb", buffering=0) as file:
        file.seek(first)
        data = _read(file, end - first)
        start = 0
        if block:  # the line that the block before has begun
            before = data.find(b"\n")
            start = len(data) if before < 0 else before + 1
        complete = True
        if start < len(data) and data[-1] != _NEW_LINE:  # the rest of the last line
            rest = bytearray()
            while b"\n" not in rest and len(rest) <= MAX_LINE:
                more = _read(file, 1 << 18)
                if not more:
                    complete = False
                    break
                rest += more
            rest = rest[: rest.find(b"\n")] if b"\n" in rest else rest
            data += rest + b"\n"
        data += bytes(_PADDING)
    array = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(array[start : len(array) - _PADDING] == _NEW_LINE) + start
    starts = np.concatenate([[start], ends[:-1] + 1]) if len(ends) else ends
    return Lines(array, starts, ends, complete)


def _read(file, size: int) -> bytearray:
    """Read `size` bytes, or up to the end of the file."""
    data = bytearray(size)
    done = 0
    while done < size and (count := file.readinto(memoryview(data)[done:])):
        done += count
    del data[done:]
    return data


@dataclass(frozen=True)
class Parsed:
    """What lines contain.

    Attributes
    ----------
    right : ndarray of bool, shape (n,)
        Whether a line has the format. Nothing else is known about a line that has not.
    clicks, conversions : ndarray of int8, shape (n,)
    indices : ndarray of bytes, shape (n,)
        The index of the common features.
    hashes : ndarray of uint64, shape (n,)
        Equal for lines with the same features and values, in any order.
    single, values : dict of str to ndarray, shape (n,)
        The feature (int64, -1 if there is none) and its value (float32), by the column.
    counts : dict of str to ndarray of int32, shape (n,)
        The number of features of a column with lists.
    features, weights : dict of str to ndarray
        Those of all lines of a column with lists: int64 and float32.
    """

    right: np.ndarray
    clicks: np.ndarray
    conversions: np.ndarray
    indices: np.ndarray
    hashes: np.ndarray
    single: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


def parse(lines: Lines, layout: Layout) -> Parsed:
    """Parse lines with the compiled parser."""
    from twotower.workflows.sources.ali_ccp.conversion import kernel

    count, names = len(lines), layout.multiple
    data = lines.data
    tokens = int(np.count_nonzero(data == 3))  # one in each feature
    single = np.full((len(layout.singles), count), -1, dtype=np.int64)
    values = np.zeros(single.shape, dtype=np.float32)
    counts = np.zeros((len(names), count), dtype=np.int32)
    indices = np.zeros((count, kernel.MAX_INDEX), dtype=np.uint8)
    out = (
        (lines.ends - lines.starts) <= MAX_LINE,
        np.zeros(count, dtype=np.int8),
        np.zeros(count, dtype=np.int8),
        indices,
        np.zeros(count, dtype=np.uint64),
        np.empty(tokens, dtype=np.int8),
        np.empty(tokens, dtype=np.int64),
        np.empty(tokens, dtype=np.float32),
    )
    size = kernel.parse(
        data, lines.starts, layout.head == 5, layout.slots, single, values, counts, out
    )
    right, clicks, conversions, _, hashes, slots, features, weights = out
    places = {
        name: np.flatnonzero(slots[:size] == len(single) + place)
        for place, name in enumerate(names)
    }
    return Parsed(
        right=right,
        clicks=clicks,
        conversions=conversions,
        indices=indices.view(f"S{kernel.MAX_INDEX}")[:, 0],
        hashes=hashes,
        single=dict(zip(layout.singles, single, strict=True)),
        values=dict(zip(layout.singles, values, strict=True)),
        counts=dict(zip(names, counts, strict=True)),
        features={name: features[places[name]] for name in names},
        weights={name: weights[places[name]] for name in names},
    )
