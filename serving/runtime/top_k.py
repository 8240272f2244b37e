"""The k items of the highest inner product among those a user has not seen, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..index import ItemIndex, load_index
from .arrays import find, ranges
from .contract import FILTER_SEEN, SCORE, K, Table, count_of
from .step import Step

MAX_SCORES, MIN_ROWS = 1 << 18, 16
"""A thread computes up to MAX_SCORES scores (1 MB) at a time, but at least MIN_ROWS rows: fewer
rows would read the catalogue too often."""
MIN_SHARE = 32
"""Rows per thread; waking another thread takes longer than answering fewer."""
VECTORS, ITEMS, SIZE = "vectors", "items", "k"
POSITIONS, SCORES = "positions", "scores"
"""Names in the ONNX graph. HIDDEN_SCORES are positions in the flattened scores of all rows."""
HIDDEN_SCORES = "hidden"
HIDDEN = ("twotower_items_hidden_total", "", "")


def _session(path: Path, index: ItemIndex) -> onnxruntime.InferenceSession:
    """The ONNX graph that scores query vectors against the index's vectors and selects the best.

    ONNX Runtime prepares the item matrix for the product once. BLAS prepares it at every call,
    which takes most of the time of a request for eight users.
    """
    options = onnxruntime.SessionOptions()
    # `_best` divides the rows among threads instead, so that the selection is parallel, too.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # else it keeps a plan for each batch shape
    items = onnxruntime.OrtValue.ortvalue_from_numpy(index.vectors)
    options.add_external_initializers([ITEMS], [items])
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class FaissTopK(Step):
    """Scores all items of the Flat index, hides the seen ones, selects the best, ties by item id.

    Hiding takes one pass over the seen items. Selecting k plus the number of seen items, then
    filtering, gives the same answer, but takes eight times as long for 256 users of MovieLens-1M:
    the selection grows with the longest history.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.index = load_index(folder, entry["towers_sha256"])
        self.session = _session(folder / entry["scoring"], self.index)
        self.threads, self.pool = threads, ThreadPoolExecutor(threads)
        self.at_once = max(MIN_ROWS, MAX_SCORES // len(self.index.item_ids))
        self.seen, self.starts = np.load(folder / "seen.npy"), np.load(folder / "starts.npy")
        self.row, self.vector, self.history = entry["row"], entry["vector"], entry["history"]
        self.item_id = entry["item_id"]
        self.counts = {HIDDEN: 0}

    def run(self, columns: Table) -> Table:
        """Item ids int64 [n, max k] and scores float32; short rows end in -1 and -inf."""
        vectors, k = columns[self.vector], columns[K]
        hidden, start, stop = self._hidden(columns)
        self.counts[HIDDEN] += int((stop - start).sum())
        sizes = set(k.tolist())
        largest = max(sizes)
        if len(sizes) == 1:
            positions, scores = self._best(vectors, largest, hidden, start, stop)
        else:  # by k, so that a small k is not as slow as a large one
            positions = np.full((len(k), largest), -1, np.int64)
            scores = np.full(positions.shape, -np.inf, np.float32)
            for size in sizes:
                rows = np.flatnonzero(k == size)
                best = self._best(vectors[rows], size, hidden, start[rows], stop[rows])
                positions[rows, :size], scores[rows, :size] = best
        items = self.index.item_ids[positions]
        if -np.inf in scores[:, -1].tolist():
            items[np.isneginf(scores)] = -1
        return {self.item_id: items, SCORE: scores}

    def _hidden(self, columns: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of seen items, and where those of each row [n] begin and end.

        Seen items are the stored ones plus the request's history.
        """
        row, filtered = columns[self.row], columns[FILTER_SEEN]
        start = self.starts[row]
        stop = np.where(filtered, self.starts[row + 1], start)
        if self.history is None or not columns[count_of(self.history)].any():
            return self.seen, start, stop
        count = len(self.index.item_ids)
        told, known = find(self.index.item_ids, columns[self.history])
        offsets = np.arange(len(row)) * count
        of_told = np.repeat(offsets, columns[count_of(self.history)])
        known &= np.repeat(filtered, columns[count_of(self.history)])
        stored = np.repeat(offsets, stop - start) + self.seen[ranges(start, stop - start)]
        both = np.unique(np.concatenate([stored, (of_told + told)[known]]))
        ends = np.searchsorted(both, np.append(offsets, len(row) * count))
        return (both % count).astype(self.seen.dtype), ends[:-1], ends[1:]

    def _best(self, vectors, k, hidden, start, stop) -> Sequence[np.ndarray]:
        """Positions int64 [n, k] and scores float32 of the best unseen items, ties by position."""
        size, shares = (
            min(k, len(self.index.item_ids)),
            min(self.threads, len(vectors) // MIN_SHARE),
        )
        if k == size and len(vectors) <= self.at_once and shares < 2:
            return self._block(vectors, size, hidden, start, stop)
        positions = np.full((len(vectors), k), -1, np.int64)
        scores = np.full(positions.shape, -np.inf, np.float32)

        def fill(first: int, last: int) -> None:
            # Block by block: ONNX Runtime keeps as much memory as all its answers take together.
            for begin in range(first, last, self.at_once):
                rows = slice(begin, min(begin + self.at_once, last))
                best = self._block(vectors[rows], size, hidden, start[rows], stop[rows])
                positions[rows, :size], scores[rows, :size] = best

        ends = [len(vectors) * part // max(1, shares) for part in range(max(1, shares) + 1)]
        (mine, *others) = pairwise(ends)
        waiting = [self.pool.submit(fill, first, last) for first, last in others]
        fill(mine[0], mine[1])
        for other in waiting:
            other.result()
        return positions, scores

    def _block(self, vectors, size, hidden, start, stop) -> Sequence[np.ndarray]:
        """What `_best` answers of so few rows that their scores are in memory together."""
        flat = self._flat(hidden, start, stop)
        asked = {VECTORS: vectors, HIDDEN_SCORES: flat, SIZE: np.array([size])}
        return self.session.run((POSITIONS, SCORES), asked)

    def _flat(self, hidden, start, stop) -> np.ndarray:
        """The positions of the hidden items in the flattened scores [n, items]."""
        rows = [hidden[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        if len(rows) == 1:
            return rows[0]
        offsets = np.arange(len(rows), dtype=hidden.dtype) * len(self.index.item_ids)
        return np.repeat(offsets, stop - start) + np.concatenate(rows)
