"""The k items of the highest inner product among those a user has not seen, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .arrays import find
from .contract import FILTER_SEEN, K, Table, count_of
from .index import ItemIndex, load_index

MAX_SCORES, MIN_ROWS = 1 << 18, 16
"""A thread computes up to MAX_SCORES scores (1 MB) at a time, but at least MIN_ROWS rows: fewer
rows would read the catalogue too often."""
MIN_SHARE = 32
"""Rows per thread; waking another thread takes longer than answering fewer."""
VECTORS, ITEMS, SIZE = "vectors", "items", "k"
POSITIONS, SCORES = "positions", "scores"
"""Names in the ONNX graph. HIDDEN_SCORES are positions in the flattened scores of all rows."""
HIDDEN_SCORES = "hidden"


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


@lru_cache(maxsize=64)
def _array(size: int) -> np.ndarray:
    return np.array([size])


class FaissTopK:
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
        self.seen = np.load(folder / "seen.npy")
        # Of a memoryview, a single number is read several times faster than of an array.
        self.starts = memoryview(np.load(folder / "starts.npy"))
        self.history, self.item_id = entry["history"], entry["item_id"]
        self.items_hidden = 0

    def best(
        self, vectors: np.ndarray, rows: np.ndarray, table: Table
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item ids int64 [n, max k] and scores float32; short rows end in -1 and -inf.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, D)
            Query vectors.
        rows : ndarray of int64, shape (n,)
            Of the user table.
        table : Table
            What the request asks: `k`, `filter_seen`, and the history if it gives one.
        """
        k, hidden = table[K].tolist(), self._hidden(rows, table)
        self.items_hidden += sum(map(len, hidden))
        largest = max(k)
        if min(k) == largest:
            positions, scores = self._select(vectors, largest, hidden)
        else:  # by k, so that a small k is not as slow as a large one
            positions = np.full((len(k), largest), -1, np.int64)
            scores = np.full(positions.shape, -np.inf, np.float32)
            for size in set(k):
                own = np.flatnonzero(table[K] == size)
                some = self._select(vectors[own], size, [hidden[row] for row in own])
                positions[own, :size], scores[own, :size] = some
        items = self.index.item_ids.take(positions)
        if -np.inf in scores[:, -1].tolist():
            items[np.isneginf(scores)] = -1
        return items, scores

    def _hidden(self, rows: np.ndarray, table: Table) -> list[np.ndarray]:
        """The positions int32 of the items to hide, for each of the rows [n].

        They are the stored ones plus the request's history.
        """
        filtered, starts, seen = table[FILTER_SEEN].tolist(), self.starts, self.seen
        hidden = [
            seen[starts[row] : starts[row + hides]]
            for row, hides in zip(rows.tolist(), filtered, strict=True)
        ]
        if self.history not in table:
            return hidden
        position, known = find(self.index.item_ids, table[self.history])
        last = 0
        for row, count in enumerate(table[count_of(self.history)].tolist()):
            first, last = last, last + count
            if count and filtered[row]:
                told = position[first:last][known[first:last]].astype(seen.dtype)
                hidden[row] = np.union1d(hidden[row], told)
        return hidden

    def _select(
        self, vectors: np.ndarray, k: int, hidden: Sequence[np.ndarray]
    ) -> Sequence[np.ndarray]:
        """Positions int64 [n, k] and scores float32 of the best unseen items, ties by position."""
        size = min(k, len(self.index.item_ids))
        shares = max(1, min(self.threads, len(vectors) // MIN_SHARE))
        if k == size and len(vectors) <= self.at_once and shares == 1:
            return self._block(vectors, size, hidden)
        positions = np.full((len(vectors), k), -1, np.int64)
        scores = np.full(positions.shape, -np.inf, np.float32)

        def fill(first: int, last: int) -> None:
            # Block by block: ONNX Runtime keeps as much memory as all its answers take together.
            for begin in range(first, last, self.at_once):
                rows = slice(begin, min(begin + self.at_once, last))
                best = self._block(vectors[rows], size, hidden[rows])
                positions[rows, :size], scores[rows, :size] = best

        ends = [len(vectors) * part // shares for part in range(shares + 1)]
        (mine, *others) = pairwise(ends)
        waiting = [self.pool.submit(fill, first, last) for first, last in others]
        fill(mine[0], mine[1])
        for other in waiting:
            other.result()
        return positions, scores

    def _block(
        self, vectors: np.ndarray, size: int, hidden: Sequence[np.ndarray]
    ) -> Sequence[np.ndarray]:
        """What `_select` answers of so few rows that their scores are in memory together."""
        flat = hidden[0]
        if len(hidden) > 1:
            count, counts = len(self.index.item_ids), [len(row) for row in hidden]
            offsets = np.arange(0, len(hidden) * count, count, dtype=flat.dtype)
            flat = np.repeat(offsets, counts) + np.concatenate(hidden)
        asked = {VECTORS: vectors, HIDDEN_SCORES: flat, SIZE: _array(size)}
        return self.session.run((POSITIONS, SCORES), asked)
