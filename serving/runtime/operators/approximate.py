"""Selects the k best items by an approximate index; what is excluded is never in an answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from ..filters.masks import Allowed
from ..index import ApproximateIndex
from ..index.approximate import BLOCK
from .base import share

FEW, FEW_OF = 1 << 14, 100
"""A row that allows up to FEW items, or one of FEW_OF items, is answered exactly."""
MIN_FETCHED, MAX_FETCHED = 16, 1 << 13
"""Smallest and largest number of items that the index is asked for."""
GROWTH = 4
"""How many times as many items are fetched if too few of them are allowed."""
MIN_SHARE = 16
"""Smallest number of rows per thread."""
MAX_KEPT = 16
"""Number of masks whose items are kept counted."""


class Limit(NamedTuple):
    """What a row allows.

    Attributes
    ----------
    size : int
        Number of allowed items.
    mask : ndarray of float32, shape (n_items,), or None
        0 for an allowed item, -inf for others; None if all are allowed.
    positions : ndarray of int64 or None
        The allowed items, if they are few.
    """

    size: int
    mask: np.ndarray | None
    positions: np.ndarray | None


class ApproximateSelection:
    """Selects items by an approximate index.

    The index is asked for more items than a row wants, by how many the row hides and by the share
    of the items that it allows. Hidden items and those that are not allowed are dropped. If too few
    are left, more are fetched, and at last all allowed items are scored. A row that allows few
    items has these scored at once. A row gets the same answer in a batch as alone.

    Parameters
    ----------
    index : ApproximateIndex
    threads : int
    pool : Executor
        Runs the other threads' shares.
    """

    def __init__(self, index: ApproximateIndex, threads: int, pool: Executor) -> None:
        self.index, self.threads, self.pool = index, threads, pool
        self.count = len(index.item_ids)
        self.all = Limit(self.count, None, None)
        self.few = max(FEW, self.count // FEW_OF)
        self.limits: OrderedDict[int, tuple[np.ndarray, Limit]] = OrderedDict()

    def select(
        self,
        vectors: np.ndarray,
        hidden: Sequence[np.ndarray],
        allowed: Sequence[Allowed] | None,
        scale: np.ndarray | None,
        k: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions int64 [n, k] and scores float32 [n, k] of the best items.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, D)
        hidden : sequence of ndarray of int
            For each row, positions of items that are not in its answer.
        allowed : sequence of Allowed, or None
            What each row allows; None for all items.
        scale : ndarray of float32, shape (n_items,), or None
            Factors of the scores.
        k : int

        Returns
        -------
        positions, scores : ndarray
            Equal scores are ordered by position. A row with fewer items ends in -1 and -inf.
        """
        positions = np.full((len(vectors), k), -1, np.int64)
        scores = np.full(positions.shape, -np.inf, np.float32)
        limits = [self.all] * len(vectors)
        if allowed is not None:
            limits = [self._limit(each) for each in allowed]
        uses_index = scale is None or self.index.vectors.have_equal_lengths
        fetched = [
            self._fetched(k, len(own), limit) if uses_index else 0
            for own, limit in zip(hidden, limits, strict=True)
        ]

        def fill(first: int, last: int) -> None:
            left = {row: fetched[row] for row in range(first, last)}
            while left:
                size = max(left.values())  # those who need the same number together
                if not size:
                    break
                rows = [row for row, each in left.items() if each == size]
                found = self.index.search(vectors[rows], size)
                for row, score, position in zip(rows, *found, strict=True):
                    kept = self._kept(position, hidden[row], limits[row].mask)
                    if len(kept) < k:
                        left[row] = self._more(size)
                        continue
                    positions[row], scores[row] = position[kept[:k]], score[kept[:k]]
                    del left[row]
            for row in left:
                best = self._scan(vectors[row], hidden[row], limits[row], scale, k)
                positions[row, : len(best[0])], scores[row, : len(best[0])] = best

        share(fill, len(vectors), max(1, min(self.threads, len(vectors) // MIN_SHARE)), self.pool)
        if scale is not None and uses_index:
            scores *= scale[0]
        return positions, scores

    def _limit(self, allowed: Allowed) -> Limit:
        """Return what a row allows, counted once per mask."""
        mask, listed = allowed
        if listed is not None:
            kept = np.unique(listed if mask is None else listed[mask[listed] == 0])
            return Limit(len(kept), None, kept)
        if mask is None:
            return self.all
        kept_limit = self.limits.get(id(mask))
        if kept_limit is not None and kept_limit[0] is mask:
            return kept_limit[1]
        items = np.flatnonzero(mask == 0)
        limit = Limit(len(items), mask, items if len(items) <= self.few else None)
        self.limits[id(mask)] = (mask, limit)
        if len(self.limits) > MAX_KEPT:
            self.limits.popitem(last=False)
        return limit

    def _fetched(self, k: int, hidden: int, limit: Limit) -> int:
        """Return how many items to ask the index for; 0 if all allowed ones are to be scored."""
        if limit.positions is not None or not limit.size:
            return 0
        wanted = (k + min(hidden, k)) * self.count / limit.size
        size = MIN_FETCHED
        while size < wanted:  # few different sizes, so that rows are searched together
            size *= 2
        return size if size <= min(MAX_FETCHED, self.count // GROWTH) else 0

    def _more(self, size: int) -> int:
        more = size * GROWTH
        return more if more <= min(MAX_FETCHED, self.count // GROWTH) else 0

    @staticmethod
    def _kept(positions: np.ndarray, hidden: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Return the places of found items that may be in the answer."""
        keep = positions >= 0
        if len(hidden):
            keep &= ~np.isin(positions, hidden)
        if mask is not None:
            keep &= mask[positions] == 0  # -1 is any item here, and left out above
        return np.flatnonzero(keep)

    def _scan(
        self,
        vector: np.ndarray,
        hidden: np.ndarray,
        limit: Limit,
        scale: np.ndarray | None,
        k: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and scores [m], m <= k, of the best of all allowed items."""
        best: np.ndarray = np.zeros(0, np.int64)
        top: np.ndarray = np.zeros(0, np.float32)
        items = limit.positions
        for first in range(0, self.count if items is None else len(items), BLOCK):
            if items is None:
                part = np.arange(first, min(first + BLOCK, self.count))
            else:
                part = items[first : first + BLOCK]
            part = part[self._kept(part, hidden, limit.mask)]
            found = self.index.vectors.take(part) @ vector
            if scale is not None:
                found *= scale[part]
            best, top = np.append(best, part), np.append(top, found)
            if len(top) > k:
                least = np.partition(top, len(top) - k)[len(top) - k]
                best, top = best[top >= least], top[top >= least]
        order = np.lexsort((best, -top))[:k]
        return best[order], top[order]
