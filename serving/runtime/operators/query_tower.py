"""Runs the query tower with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..arrays import expand, ranges
from ..contract import Table, count_of

PADDING = 0
"""Categorify's index of padding; it marks the end of a list for the towers."""
VALUES_AT_ONCE = 1 << 16
"""Number of list values that are embedded at a time: 32 MB at 128 dimensions."""


class QueryTower:
    """The query tower: from the columns that `EncodeFeatures` returns to vectors float32 [n, D]."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        # 1,000 rows take less time than waking another thread, which would then wait by spinning.
        self.session = single_threaded(folder / entry["model"])
        # A dimension of any size has a name instead of a number.
        self.widths = {
            each.name: length if isinstance(length, int) else None
            for each in self.session.get_inputs()
            for length in [each.shape[1] if len(each.shape) > 1 else 1]
        }
        self.vector = entry["vector"]

    def run(self, columns: Table) -> Table:
        vectors = in_blocks(columns, self.widths, lambda block: self.session.run(None, block)[0])
        return {self.vector: vectors}


def single_threaded(path: Path) -> onnxruntime.InferenceSession:
    """Load an ONNX graph that runs in the thread of its caller, and keeps no memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Otherwise it keeps a plan for each batch shape, and the memory of the largest batch.
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def in_blocks(
    columns: Mapping[str, np.ndarray],
    widths: Mapping[str, int | None],
    compute: Callable[[Table], np.ndarray],
) -> np.ndarray:
    """Compute a tower's vectors from its columns, in blocks of rows with lists padded to [n, w].

    Rows with lists of similar lengths are in the same block, so that little of it is padding.

    Parameters
    ----------
    columns : dict of str to ndarray
        The tower's columns, lists as their values and their counts.
    widths : mapping of str to int or None
        Column of the tower -> width w of its lists; None pads them to the longest list in the
        block. The width of other columns has no effect.
    compute : callable
        Returns the vectors [m, D] of a block.

    Returns
    -------
    ndarray of float32, shape (n, D)
    """
    counts = {name: columns[count_of(name)] for name in widths if count_of(name) in columns}
    starts = {name: np.cumsum(each) - each for name, each in counts.items()}
    rows = min(len(counts[name] if name in counts else columns[name]) for name in widths)
    longest = np.ones(rows, np.int64)
    for name, each in counts.items():
        np.maximum(longest, widths[name] or each, out=longest)
    order, first, answers = np.argsort(-longest, kind="stable"), 0, []
    while first < rows:
        size = max(1, VALUES_AT_ONCE // int(longest[order[first]]))
        block, own = {}, order[first : first + size]
        for name, width in widths.items():
            if name not in counts:
                block[name] = columns[name][own]
                continue
            count = counts[name][own]
            values = columns[name][ranges(starts[name][own], count)]
            block[name] = expand(values, count, width or max(1, int(count.max())), PADDING)
        answers.append(compute(block))
        first += size
    if rows == 1:
        return answers[0]
    vectors = np.empty((rows, answers[0].shape[1]), answers[0].dtype)
    vectors[order] = np.concatenate(answers)
    return vectors
