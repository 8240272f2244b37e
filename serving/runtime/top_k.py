"""The k items of the highest inner product among those a user has not seen, exactly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime

from ..index import ItemIndex, load_index
from .contract import FILTER_SEEN, SCORE, K, Table
from .seen import SeenItems
from .step import Step

MOST_SCORES, LEAST_ROWS = 1 << 20, 16
"""Scores a thread holds at a time, 4 MB; but fewer rows would read the catalogue too often."""
MOST_BINDINGS = 64
LEAST_SHARE = 32
"""Rows of a thread: fewer are answered before another thread has woken up."""
VECTORS, ITEMS, SCORES = "vectors", "items", "scores"
"""Names in the ONNX graph of the matrix product."""
HIDDEN = ("twotower_items_hidden_total", "", "")


def _scoring_session(path: Path, index: ItemIndex) -> onnxruntime.InferenceSession:
    """The matrix product of query vectors with the index's vectors, where FAISS keeps them.

    By ONNX Runtime because it lays the items out for the product once; BLAS does at every call,
    which is most of what eight users cost.
    """
    options = onnxruntime.SessionOptions()
    # Threads take rows each instead, with which the selection too runs on all of them.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    items = onnxruntime.OrtValue.ortvalue_from_numpy(index.vectors)
    options.add_external_initializers([ITEMS], [items])
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Selector:
    """What one thread needs: it scores into memory of its own and selects from there."""

    def __init__(self, session: onnxruntime.InferenceSession, count: int) -> None:
        self.session, self.bound = session, lru_cache(MOST_BINDINGS)(self._bound)
        # Used again and again: giving 4 MB back to the system after each batch costs a tenth of it.
        self.scores = np.empty((max(LEAST_ROWS, MOST_SCORES // count), count), np.float32)

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Inner products float32 [n, items] of vectors float32 [n, D] with all items.

        Gone at the next call. n is at most the rows of `scores`.
        """
        queries, binding = self.bound(*vectors.shape)
        queries[:] = vectors
        self.session.run_with_iobinding(binding)
        return self.scores[: len(vectors)]

    def _bound(self, rows: int, size: int) -> tuple[np.ndarray, onnxruntime.IOBinding]:
        """Where to put query vectors float32 [rows, size], and the product's in and output.

        Made once: for one user binding takes as long as the product.
        """
        queries = np.empty((rows, size), np.float32)
        binding = self.session.io_binding()
        binding.bind_cpu_input(VECTORS, queries)
        shape, pointer = (rows, self.scores.shape[1]), self.scores.ctypes.data
        binding.bind_output(SCORES, "cpu", 0, np.float32, shape, pointer)
        return queries, binding

    def best(self, vectors, k, hidden, positions, scores) -> None:
        """Write positions [n, k] and scores [n, k] of the best items, ties in any order.

        `hidden(rows)` says where in the scores of those rows, laid flat, the hidden ones lie.
        """
        count = self.scores.shape[1]
        for first in range(0, len(vectors), len(self.scores)):
            rows = slice(first, first + len(self.scores))
            every = self.score(vectors[rows])
            every.reshape(-1)[hidden(rows)] = -np.inf
            heap = faiss.float_minheap_array_t()
            heap.nh, heap.k = len(every), k
            heap.ids, heap.val = faiss.swig_ptr(positions[rows]), faiss.swig_ptr(scores[rows])
            heap.heapify()
            heap.addn(count, faiss.swig_ptr(every))
            heap.reorder()


class FaissTopK(Step):
    """Scores all items of the Flat index, hides the seen ones, selects with FAISS's heaps.

    Hiding before selecting costs one pass over what is seen; over-fetching k and as many as the
    user has seen, then filtering, answers the same at eight times the price for 256 users of
    MovieLens-1M, since the selection grows with the longest history.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        # OpenMP's threads wait for each other by spinning: beside a busy server a batch then takes
        # 40 ms now and again.
        faiss.omp_set_num_threads(1)
        self.index = load_index(folder, entry["towers_sha256"])
        session = _scoring_session(folder / entry["scoring"], self.index)
        self.selectors = [_Selector(session, len(self.index.item_ids)) for _ in range(threads)]
        self.pool = ThreadPoolExecutor(threads)
        self.seen = SeenItems.load(folder)
        self.user_id, self.vector = entry["user_id"], entry["vector"]
        self.item_id = entry["item_id"]
        self.counts = {HIDDEN: 0}

    def run(self, columns: Table) -> Table:
        """Item ids int64 [n, max k] and scores float32; short rows end in -1 and -inf."""
        vectors, k = columns[self.vector], columns[K]
        start, stop = self.seen.rows(columns[self.user_id])
        stop = np.where(columns[FILTER_SEEN], stop, start)
        sizes = set(k.tolist())
        largest = max(sizes)
        if len(sizes) == 1:
            positions, scores = self._best(vectors, largest, start, stop)
        else:  # who asks for few shall not pay for who asks for many
            positions = np.full((len(k), largest), -1, np.int64)
            scores = np.full(positions.shape, -np.inf, np.float32)
            for size in sizes:
                rows = np.flatnonzero(k == size)
                best = self._best(vectors[rows], size, start[rows], stop[rows])
                positions[rows, :size], scores[rows, :size] = best
        items = self.index.item_ids[positions]
        if (positions[:, -1] < 0).any():
            missing = positions < 0
            items[missing], scores[missing] = -1, -np.inf
        return {self.item_id: items, SCORE: scores}

    def _best(self, vectors, k, start, stop) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 [n, k] and scores float32 of the best unseen items, ties by position."""
        # One more than asked for shows whether equal scores lie on both sides of the cut.
        shape = (len(vectors), k + 1)
        positions, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
        self.counts[HIDDEN] += int((stop - start).sum())

        def share(selector: _Selector, rows: slice) -> None:
            first, last = start[rows], stop[rows]
            selector.best(
                vectors[rows],
                k + 1,
                lambda some: self._seen(first[some], last[some]),
                positions[rows],
                scores[rows],
            )

        shares = max(1, min(len(self.selectors), len(vectors) // LEAST_SHARE))
        ends = [len(vectors) * part // shares for part in range(shares + 1)]
        mine, *others = zip(self.selectors, map(slice, ends, ends[1:]), strict=False)
        started = [self.pool.submit(share, *other) for other in others]
        try:
            share(*mine)
        finally:
            wait(started)
        for other in started:
            other.result()
        tied = scores[:, 1:] == scores[:, :-1]
        if tied.any():  # FAISS leaves equal scores in any order
            tied &= positions[:, 1:] >= 0
            for row in np.flatnonzero(tied.any(axis=1)):
                hidden = self.seen.item_ids[start[row] : stop[row]]
                positions[row], scores[row] = self._sorted(vectors[row], k + 1, hidden)
        return positions[:, :k], scores[:, :k]

    def _sorted(self, vector, k, hidden) -> tuple[np.ndarray, np.ndarray]:
        """What `_best` answers for a vector [D], from a full sort."""
        every = self.selectors[0].score(vector[None])[0]
        every[hidden] = -np.inf
        best = np.argsort(-every, kind="stable")[:k]
        best = best[np.isfinite(every[best])]
        positions, scores = np.full(k, -1), np.full(k, -np.inf, np.float32)
        positions[: len(best)], scores[: len(best)] = best, every[best]
        return positions, scores

    def _seen(self, start, stop) -> np.ndarray:
        """Where in scores [n, items], laid flat, the items lie that the rows have seen."""
        rows = [self.seen.item_ids[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        if len(rows) == 1:
            return rows[0]
        offsets = np.arange(len(rows)) * len(self.index.item_ids)
        return np.repeat(offsets, stop - start) + np.concatenate(rows)
