"""The operators of the served graph as they run in production: NumPy and ONNX Runtime.

Each step is made from its folder of arrays and its entry in plan.json, and maps columns to
columns. `serving.operators` holds the reference of each and writes what is read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .arrays import expand, load_column, ranges
from .contract import ABSENT, FILLER, Table, count_of, row_of, state_of
from .step import Step

PADDING = 0
"""Categorify's index of padding; it marks the end of a list for the towers."""
VALUES_AT_ONCE = 1 << 16
"""List values that are embedded at a time: 32 MB at 128 dimensions."""


class UserRows:
    """Looks users up in the table of known users: once, for all that is stored by its rows."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.user_id = entry["user_id"]
        self.user_ids = np.load(folder / "user_ids.npy")
        # The last row is that of unknown users. Any id may stand there: its row is the right one.
        self.id_of_row = np.append(self.user_ids, 0)
        self.known = self.unknown = 0

    def rows(self, user_ids: np.ndarray) -> np.ndarray:
        """Rows int64 [n] of the user table; its number of rows for a user who is not in it."""
        rows = self.user_ids.searchsorted(user_ids)
        found = self.id_of_row.take(rows)
        if found.tolist() != user_ids.tolist():
            rows[found != user_ids] = len(self.user_ids)
            unknown = np.count_nonzero(rows == len(self.user_ids))
            self.unknown += unknown
            self.known -= unknown
        self.known += len(rows)
        return rows


class UserFeatures(Step):
    """Completes the features a request leaves out from the table of known users.

    The last row stands for unknown users. A list feature is stored as the concatenated values of
    all users.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.user_id = entry["user_id"]
        self.stored, self.lists = {}, {}
        for name, stem in entry["features"].items():
            values, dtype = load_column(folder / stem), entry["dtypes"][name]
            state = np.load(folder / f"{stem}.state.npy")
            self.stored[state_of(name)] = np.append(state, np.int8(ABSENT))
            if name in entry["lists"]:
                counts = np.append(np.load(folder / f"{stem}.count.npy"), 0)
                self.lists[name] = _narrowed(values), np.cumsum(counts) - counts, counts
            else:
                self.stored[name] = np.append(values, np.array(FILLER[dtype], values.dtype))
        self.features = list(entry["features"])

    def run(self, columns: Table) -> Table:
        row = columns[row_of(self.user_id)]
        completed = {self.user_id: columns[self.user_id]}
        for name in self.features:
            if state_of(name) not in columns:
                completed.update(self._of_rows(name, row))
                continue
            absent = columns[state_of(name)] == ABSENT
            if name in self.lists:
                completed[name], completed[count_of(name)] = self._lists(name, row, absent, columns)
            else:
                completed[name] = np.where(absent, self.stored[name][row], columns[name])
            state = self.stored[state_of(name)][row]
            completed[state_of(name)] = np.where(absent, state, columns[state_of(name)])
        return completed

    def _of_rows(self, name: str, row: np.ndarray) -> Table:
        """The stored columns of a feature that no request gives."""
        columns = {state_of(name): self.stored[state_of(name)][row]}
        if name not in self.lists:
            return {**columns, name: self.stored[name][row]}
        stored, starts, stored_counts = self.lists[name]
        counts = stored_counts[row]
        return {**columns, name: stored[ranges(starts[row], counts)], count_of(name): counts}

    def _lists(
        self, name: str, row: np.ndarray, absent: np.ndarray, columns: Table
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and counts: the request's, in rows where it gives none the stored ones."""
        stored, starts, stored_counts = self.lists[name]
        counts = np.where(absent, stored_counts[row], columns[count_of(name)])
        ours = np.repeat(absent, counts)
        values = np.empty(len(ours), columns[name].dtype)
        values[ours] = stored[ranges(starts[row[absent]], counts[absent])]
        values[~ours] = columns[name]
        return values, counts


def _narrowed(values: np.ndarray) -> np.ndarray:
    """Integers as int32 where all of them fit, for half the memory."""
    limits = np.iinfo(np.int32)
    if values.dtype != np.int64 or not len(values):
        return values
    fits = limits.min <= values.min() and values.max() <= limits.max
    return values.astype(np.int32) if fits else values


class QueryTower(Step):
    """The query tower as ONNX: what `EncodeFeatures` answers in, vectors float32 [n, D] out."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        # 1,000 rows take less time than waking another thread, which would then wait by spinning.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Otherwise it keeps a plan for each batch shape, and the memory of the largest batch.
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        self.session = onnxruntime.InferenceSession(
            str(folder / entry["model"]), options, providers=["CPUExecutionProvider"]
        )
        # A dimension of any size has a name instead of a number.
        self.widths = {
            each.name: length if isinstance(length, int) else None
            for each in self.session.get_inputs()
            for length in [each.shape[1] if len(each.shape) > 1 else 1]
        }
        self.vector = entry["vector"]

    def run(self, columns: Table) -> Table:
        blocks = padded_blocks(columns, self.widths)
        answers = [self.session.run(None, feed)[0] for feed in blocks]
        return {self.vector: answers[0] if len(answers) == 1 else np.concatenate(answers)}


def padded_blocks(columns: Table, widths: Mapping[str, int | None]) -> Iterator[Table]:
    """A tower's columns in blocks of rows: lists padded to [n, w], other columns unchanged.

    Parameters
    ----------
    widths : column of the tower -> the width w of its lists; None pads them to the longest list in
        the block
    """
    counts = {name: columns[count_of(name)] for name in widths if count_of(name) in columns}
    ends = {name: np.cumsum(each) for name, each in counts.items()}
    longest = max((widths[name] or int(each.max()) for name, each in counts.items()), default=1)
    step = max(1, VALUES_AT_ONCE // max(1, longest))
    rows = min(len(counts[name] if name in counts else columns[name]) for name in widths)
    for first in range(0, rows, step):
        block = {}
        for name, width in widths.items():
            if name not in counts:
                block[name] = columns[name][first : first + step]
                continue
            count, end = (each[name][first : first + step] for each in (counts, ends))
            values = columns[name][end[0] - count[0] : end[-1]]
            block[name] = expand(values, count, width or max(1, int(count.max())), PADDING)
        yield block
