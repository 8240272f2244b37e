"""Chooses items of a ranked list that are relevant and differ from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..filters.columns import ItemColumn

POOL, MIN_POOL = 5, 100
"""Items are chosen among the POOL * k best, at least MIN_POOL."""


def pool_size(k: int, count: int) -> int:
    """Return among how many of `count` items the k of an answer are chosen."""
    return min(count, max(POOL * k, MIN_POOL))


class Cap:
    """How many items of a list may share a value of a column.

    Parameters
    ----------
    column : ItemColumn
    positions : ndarray of int64, shape (n,)
        Positions of the items of the list in the column.
    largest : int
    """

    def __init__(self, column: ItemColumn, positions: np.ndarray, largest: int) -> None:
        self.column, self.positions, self.largest = column, positions, largest

    def values(self, place: int) -> list[int]:
        """Return the different values, as codes, of an item of the list."""
        position = self.positions[place]
        first, last = position, position + 1
        if self.column.starts is not None:
            first, last = self.column.starts[position], self.column.starts[position + 1]
        codes = dict.fromkeys(self.column.codes[first:last].tolist())
        return [code for code in codes if code != len(self.column.values)]

    def having(self, code: int) -> np.ndarray:
        """Return which items of the list have a value, as bool [n]."""
        return self.column.between(code, code + 1)[self.positions]


def choose(
    scores: np.ndarray,
    units: np.ndarray,
    k: int,
    diversity: float = 0.0,
    caps: Sequence[Cap] = (),
) -> list[int]:
    """Choose up to k of the items of a list, one after the other.

    Each is the one with the largest (1 - diversity) * relevance - diversity * similarity, where
    relevance is the score, scaled to 0..1 within the list, and similarity the largest cosine to an
    item that has been chosen (maximal marginal relevance: Carbonell and Goldstein, 1998).

    Parameters
    ----------
    scores : ndarray of float32, shape (n,)
        Descending; -inf for a place without an item.
    units : ndarray of float32, shape (n, D)
        Vectors of length 1.
    k : int
    diversity : float
        From 0, the order of the scores, to 1.
    caps : sequence of Cap

    Returns
    -------
    list of int
        Places in the list; fewer than k if no other item is allowed.
    """
    open_ = np.isfinite(scores)
    given = scores[open_]
    if not len(given):
        return []
    spread = given[0] - given[-1]
    relevance = np.zeros(len(scores), np.float32)
    relevance[open_] = (given - given[-1]) / (spread if spread > 0 else 1)
    nearest = np.full(len(scores), -np.inf, np.float32)
    counts: list[Counter[int]] = [Counter() for _ in caps]
    chosen: list[int] = []
    while len(chosen) < k and open_.any():
        value = relevance
        if chosen and diversity > 0:
            value = (1 - diversity) * relevance - diversity * nearest
        best = int(np.where(open_, value, -np.inf).argmax())  # the first of equal ones
        chosen.append(best)
        open_[best] = False
        if diversity > 0:
            np.maximum(nearest, units @ units[best], out=nearest)
        for cap, count in zip(caps, counts, strict=True):
            for code in cap.values(best):
                count[code] += 1
                if count[code] == cap.largest:
                    open_ &= ~cap.having(code)
    return chosen
