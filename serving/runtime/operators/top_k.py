"""Selects the k best items that a user has not seen: exactly with ONNX Runtime, or by an index."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from ..arrays import find
from ..contract import EXCLUDE, SIMILAR_TO, Table, count_of
from ..filters.caps import MAX_PER
from ..filters.columns import ItemColumns
from ..filters.masks import Allowed, Masks
from ..filters.parameters import DIVERSITY, FILTER_SEEN, K
from ..index import ApproximateIndex, ItemIndex, inverse_lengths, load_index
from ..live.users import LIVE, NO_SLOT, LiveUsers
from .approximate import ApproximateSelection
from .base import share
from .diversify import Wishes, pool_size, wishes_of

MAX_SCORES, MIN_ROWS = 1 << 18, 16
"""A thread computes up to MAX_SCORES scores (1 MB) at a time, but at least MIN_ROWS rows, because
each block of rows reads all item vectors."""
MIN_SHARE = 32
"""Smallest number of rows per thread: waking a thread takes longer than answering fewer rows."""
VECTORS, ITEMS, SIZE = "vectors", "items", "k"
POSITIONS, SCORES = "positions", "scores"
SCALE, BIAS = "scale", "bias"
"""Names in the ONNX graphs. HIDDEN_SCORES are positions in the flattened scores of all rows. Scores
are multiplied by SCALE, float32 [n_items] or [1], and then BIAS is added, float32 [n_items],
[n, n_items] or [1]."""
HIDDEN_SCORES = "hidden"
SCORING, MASKED_SCORING = "scoring.onnx", "masked_scoring.onnx"
"""The graphs. The first has neither SCALE nor BIAS, which saves two passes over the scores."""
ONE, ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)
FILTERS = "filters"
"""The folder of the columns of the items."""


def _session(path: Path, index: ItemIndex) -> onnxruntime.InferenceSession:
    """The ONNX graph that scores query vectors against the index's vectors and selects the best.

    ONNX Runtime prepares the item matrix for the product once. BLAS prepares it at every call,
    which takes most of the time of a request for eight users.
    """
    options = onnxruntime.SessionOptions()
    # `_select` divides the rows among threads instead, which makes the selection parallel, too.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # otherwise it keeps a plan for each batch shape
    items = onnxruntime.OrtValue.ortvalue_from_numpy(index.vectors)
    options.add_external_initializers([ITEMS], [items])
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=64)
def _array(size: int) -> np.ndarray:
    return np.array([size])


class _Rows(NamedTuple):
    """What is selected for n rows.

    Attributes
    ----------
    vectors : ndarray of float32, shape (n, D)
    hidden : sequence of ndarray of int32
        For each row, positions of items that are not in its answer.
    allowed : sequence of Allowed, or None
        Made by `masks`; None if all rows allow all items.
    masks : Masks
    scale : ndarray of float32, shape (n_items,), or None
        Factors of the scores.
    """

    vectors: np.ndarray
    hidden: Sequence[np.ndarray]
    allowed: Sequence[Allowed] | None
    masks: Masks
    scale: np.ndarray | None = None

    def part(self, rows: slice) -> _Rows:
        """Return some of the rows."""
        allowed = self.allowed and self.allowed[rows]
        return self._replace(vectors=self.vectors[rows], hidden=self.hidden[rows], allowed=allowed)

    def take(self, rows: np.ndarray) -> _Rows:
        """Return the rows of these numbers."""
        return self._replace(
            vectors=self.vectors[rows],
            hidden=[self.hidden[row] for row in rows],
            allowed=self.allowed and [self.allowed[row] for row in rows],
        )


class FaissTopK:
    """Scores all items of the index, hides the seen ones and selects the best.

    An approximate index is searched by `ApproximateSelection` instead.

    Equal scores are ordered by item id. Hiding takes one pass over the seen items. Selecting k plus
    the number of seen items and then filtering gives the same answer, but takes eight times as long
    for 256 users of MovieLens-1M, because the selection grows with the longest history.

    Attributes
    ----------
    items_hidden : int
        Number of items hidden so far.
    live : LiveUsers or None
        The users with events, once there is a store of events.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.index, self.folder = load_index(folder, entry["towers_sha256"]), folder
        self.threads, self.pool = threads, ThreadPoolExecutor(threads)
        self.approximate: ApproximateSelection | None = None
        if isinstance(self.index, ApproximateIndex):
            self.approximate = ApproximateSelection(self.index, threads, self.pool)
        else:
            self.session = _session(folder / SCORING, self.index)
        items = self.index.item_ids
        self.columns = ItemColumns.load(folder / FILTERS, entry[FILTERS], len(items))
        self.masks = Masks(self.columns, items)
        self.at_once = max(MIN_ROWS, MAX_SCORES // len(self.index.item_ids))
        self.seen = np.load(folder / "seen.npy")
        # Reading a single number from a memoryview is several times faster than from an array.
        self.starts = memoryview(np.load(folder / "starts.npy"))
        self.history, self.item_id = entry["history"], entry["item_id"]
        self.items_hidden = 0
        self.live: LiveUsers | None = None

    def best(
        self, vectors: np.ndarray, rows: np.ndarray, table: Table
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best items of each user and their scores.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, D)
            Query vectors.
        rows : ndarray of int64, shape (n,)
            Rows of the users in the user table.
        table : dict of str to ndarray
            The request's columns `k` and `filter_seen`, and those of the history and of the filters
            if it gives some.

        Returns
        -------
        item_ids : ndarray of int64, shape (n, max k)
            Codes, best first. A row with fewer items ends in -1.
        scores : ndarray of float32, shape (n, max k)
            Descending. A row with fewer items ends in -inf.
        """
        hidden, masks = self._hidden(rows, table), self.masks
        self.items_hidden += sum(map(len, hidden))
        return self._answer(table, _Rows(vectors, hidden, masks.of(table), masks))

    def candidates(
        self, vectors: np.ndarray, rows: np.ndarray, table: Table, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and scores of what the ranking model orders, both [n, count].

        `table` is as in `best`, of which `k` and diversity have no effect. A row with fewer items
        ends in -inf.
        """
        hidden, masks = self._hidden(rows, table), self.masks
        self.items_hidden += sum(map(len, hidden))
        positions, scores = self._select(_Rows(vectors, hidden, masks.of(table), masks), count)
        return np.maximum(positions, 0), scores

    def ordered(
        self, positions: np.ndarray, relevance: np.ndarray, table: Table
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of an answer, of candidates that a ranking model has judged.

        Parameters
        ----------
        positions : ndarray of int64, shape (n, c)
        relevance : ndarray of float32, shape (n, c)
            -inf for padding. Equal ones keep their order.
        table : dict of str to ndarray
            The request's `k`, and those of diversity and caps if it gives some.

        Returns
        -------
        items : ndarray of int64, shape (n, max k)
            Codes. A row with fewer items ends in -1.
        places : ndarray of int64, of this shape
            Which candidate each item is; -1 where there is none.
        """
        order = np.argsort(-relevance, axis=1, kind="stable")
        sizes = table[K].tolist()
        places = np.full((len(sizes), max(sizes)), -1, np.int64)
        wishes = wishes_of(table) if DIVERSITY in table or MAX_PER in table else None
        for row, size in enumerate(sizes):
            chosen = order[row]
            own = relevance[row, chosen]
            if wishes is not None:
                chosen = chosen[self._choose(positions[row, chosen], own, wishes[row])]
            else:
                chosen = chosen[own > -np.inf]
            places[row, : len(chosen[:size])] = chosen[:size]
        best = np.take_along_axis(positions, np.maximum(places, 0), axis=1)
        return np.where(places < 0, -1, self.index.item_ids.take(best)), places

    def similar(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the items whose vectors have the highest cosine to the sum of some items' vectors.

        Each of the asked items' vectors has the length 1 in the sum. Asked items are in no answer.
        A row without a known item has no answer.

        Parameters
        ----------
        table : dict of str to ndarray
            The request's columns `k` and `similar_to`, and those of the filters if it gives some.

        Returns
        -------
        item_ids, scores : ndarray
            As `best` returns them.
        """
        count, masks = len(table[K]), self.masks
        hidden = [np.zeros(0, self.seen.dtype)] * count
        self._hide(hidden, SIMILAR_TO, table, [True] * count)
        vectors = np.zeros((count, self.index.vectors.shape[1]), np.float32)
        allowed = list(masks.of(table) or [masks.all] * count)
        for row, own in enumerate(hidden):
            vectors[row] = self.scale[own] @ self.index.vectors[own]
            if not len(own):
                allowed[row] = Allowed(None, np.zeros(0, np.int64))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
        if EXCLUDE in table:
            self._hide(hidden, EXCLUDE, table, [True] * count)
        return self._answer(table, _Rows(vectors, hidden, allowed, masks, self.scale))

    @cached_property
    def scale(self) -> np.ndarray:
        """The inverse of the length of each item's vector; 0 for one of length 0."""
        return inverse_lengths(self.index.vectors)

    def _answer(self, table: Table, asked: _Rows) -> tuple[np.ndarray, np.ndarray]:
        """Return codes and scores as `best` does."""
        k = table[K].tolist()
        largest = max(k)
        if DIVERSITY in table or MAX_PER in table:
            positions, scores = self._select_diverse(table, asked)
        elif min(k) == largest:
            positions, scores = self._select(asked, largest)
        else:  # one selection per k, because a large k is slower than a small one
            positions = np.full((len(k), largest), -1, np.int64)
            scores = np.full(positions.shape, -np.inf, np.float32)
            for size in set(k):
                own = np.flatnonzero(table[K] == size)
                some = self._select(asked.take(own), size)
                positions[own, :size], scores[own, :size] = some
        items = self.index.item_ids.take(positions)
        if -np.inf in scores[:, -1].tolist():
            items[np.isneginf(scores)] = -1
        return items, scores

    def _hidden(self, rows: np.ndarray, table: Table) -> list[np.ndarray]:
        """Return for each of the rows [n] the positions int32 of the items to hide.

        These are the stored seen items and those of events, the request's history, and what it
        excludes.
        """
        filtered, starts, seen = table[FILTER_SEEN].tolist(), self.starts, self.seen
        hidden = [
            seen[starts[row] : starts[row + hides]]
            for row, hides in zip(rows.tolist(), filtered, strict=True)
        ]
        if LIVE in table and self.live:
            for place, slot in enumerate(table[LIVE].tolist()):
                if slot != NO_SLOT and filtered[place]:
                    hidden[place] = self.live.hidden(slot, hidden[place])
        if self.history in table:
            self._hide(hidden, self.history, table, filtered)
        if EXCLUDE in table:
            self._hide(hidden, EXCLUDE, table, [True] * len(hidden))
        return hidden

    def _hide(
        self, hidden: list[np.ndarray], name: str, table: Table, hides: Sequence[bool]
    ) -> None:
        """Add the items that a list column names to those that are hidden."""
        position, known = find(self.index.item_ids, table[name])
        last = 0
        for row, count in enumerate(table[count_of(name)].tolist()):
            first, last = last, last + count
            if count and hides[row]:
                given = position[first:last][known[first:last]].astype(self.seen.dtype)
                hidden[row] = np.union1d(hidden[row], given)

    def _select_diverse(self, table: Table, asked: _Rows) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of items that are chosen by `diversify.choose`."""
        k, total = table[K].tolist(), len(self.index.item_ids)
        positions = np.full((len(k), max(k)), -1, np.int64)
        scores = np.full(positions.shape, -np.inf, np.float32)
        wishes = wishes_of(table)
        sizes = [pool_size(size, total) for size in k]
        for size in set(sizes):
            own = [row for row, each in enumerate(sizes) if each == size]
            pools = self._select(asked.take(np.array(own)), size)
            for row, pool, score in zip(own, *pools, strict=True):
                chosen = self._choose(pool, score, wishes[row])
                if len(chosen) < k[row] and size < total and np.isfinite(score[-1]):
                    # The caps leave too few of the best ones: choose among all.
                    (pool,), (score,) = self._select(asked.take(np.array([row])), total)
                    chosen = self._choose(pool, score, wishes[row])
                positions[row, : len(chosen)] = pool[chosen]
                scores[row, : len(chosen)] = score[chosen]
        return positions, scores

    def _choose(self, pool: np.ndarray, scores: np.ndarray, wishes: Wishes) -> list[int]:
        """Return the places of the chosen items in a pool, given as positions [n]."""
        units = self.index.vectors[pool] * self.scale[pool, None] if wishes.diversity else None
        return wishes.choose(pool, scores, units, self.columns)

    def _select(self, asked: _Rows, k: int) -> Sequence[np.ndarray]:
        """Return positions int64 [n, k] and scores float32 [n, k] of the best items not hidden.

        Equal scores are ordered by position.
        """
        size, rows = min(k, len(self.index.item_ids)), len(asked.vectors)
        if self.approximate is not None:
            vectors, hidden, allowed, _, scale = asked
            return self.approximate.select(vectors, hidden, allowed, scale, k)
        shares = max(1, min(self.threads, rows // MIN_SHARE))
        if k == size and rows <= self.at_once and shares == 1:
            return self._block(asked, size)
        positions = np.full((rows, k), -1, np.int64)
        scores = np.full(positions.shape, -np.inf, np.float32)

        def fill(first: int, last: int) -> None:
            # Block by block, because ONNX Runtime keeps as much memory as its answers take.
            for begin in range(first, last, self.at_once):
                part = slice(begin, min(begin + self.at_once, last))
                best = self._block(asked.part(part), size)
                positions[part, :size], scores[part, :size] = best

        share(fill, rows, shares, self.pool)
        return positions, scores

    def deny(self, codes: np.ndarray) -> None:
        """Leave items, given by their codes, out of all answers from now on."""
        masks = Masks(self.columns, self.index.item_ids, codes)
        if masks.denied.any() and self.approximate is None:
            _ = self.masked_session  # made before a request waits for it
        self.masks = masks

    @cached_property
    def masked_session(self) -> onnxruntime.InferenceSession:
        """The session with a mask, made at its first use: it prepares the item matrix again."""
        assert isinstance(self.index, ItemIndex)  # an approximate one has no session
        return _session(self.folder / MASKED_SCORING, self.index)

    def _block(self, asked: _Rows, size: int) -> Sequence[np.ndarray]:
        """Do what `_select` does for few enough rows that all their scores fit in memory."""
        hidden = asked.hidden
        flat = hidden[0]
        if len(hidden) > 1:
            count, counts = len(self.index.item_ids), [len(row) for row in hidden]
            offsets = np.arange(0, len(hidden) * count, count, dtype=flat.dtype)
            flat = np.repeat(offsets, counts) + np.concatenate(hidden)
        inputs = {VECTORS: asked.vectors, HIDDEN_SCORES: flat, SIZE: _array(size)}
        if asked.allowed is None and asked.scale is None:
            return self.session.run((POSITIONS, SCORES), inputs)
        inputs[SCALE] = ONE if asked.scale is None else asked.scale
        inputs[BIAS] = ZERO if asked.allowed is None else asked.masks.bias(asked.allowed)
        return self.masked_session.run((POSITIONS, SCORES), inputs)
