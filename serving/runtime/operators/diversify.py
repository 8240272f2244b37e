"""Chooses items of a ranked list that are relevant and differ from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..contract import Table
from ..filters.caps import MAX_PER, parse_caps
from ..filters.columns import ItemColumn, ItemColumns
from ..filters.parameters import DIVERSITY, DIVERSITY_BY, K

POOL, MIN_POOL = 5, 100
"""Items are chosen among the POOL * k best, at least MIN_POOL."""


def pool_size(k: int, count: int) -> int:
    """Return among how many of `count` items the k of an answer are chosen."""
    return min(count, max(POOL * k, MIN_POOL))


class Shared:
    """The values of a column that the items of a list share.

    Parameters
    ----------
    column : ItemColumn
    positions : ndarray of int64, shape (n,)
        Positions of the items of the list in the column.
    """

    def __init__(self, column: ItemColumn, positions: np.ndarray) -> None:
        self.column, self.positions = column, positions

    def values(self, place: int) -> list[int]:
        """Return the different values, as codes, of an item of the list."""
        position = self.positions[place]
        first, last = position, position + 1
        if self.column.starts is not None:
            first, last = self.column.starts[position], self.column.starts[position + 1]
        codes = self.column.codes[first:last].tolist()
        return [code for code in codes if code != len(self.column.values)]

    def having(self, code: int) -> np.ndarray:
        """Return which items of the list have a value, as bool [n]."""
        return self.column.between(code, code + 1)[self.positions]

    @cached_property
    def sizes(self) -> np.ndarray:
        """How many values each item of the list has, int64 [n]."""
        if self.column.starts is None:
            return (self.column.codes[self.positions] < len(self.column.values)).astype(np.int64)
        return np.diff(self.column.starts)[self.positions]

    def similarity(self, place: int) -> np.ndarray:
        """Return the Jaccard index of the values of an item and of each item, float32 [n]."""
        both = np.zeros(len(self.positions), np.float32)
        for code in self.values(place):
            both += self.having(code)
        return both / np.maximum(self.sizes[place] + self.sizes - both, 1)


Similarity = Callable[[int], np.ndarray]
"""Returns how similar an item of a list, given by its place, is to each of them: float32 [n]."""


def choose(
    scores: np.ndarray,
    similarity: Similarity,
    k: int,
    diversity: float = 0.0,
    caps: Sequence[tuple[Shared, int]] = (),
) -> list[int]:
    """Choose up to k of the items of a list, one after the other.

    Each is the one with the largest (1 - diversity) * relevance - diversity * similarity, where
    relevance is the score, scaled to 0..1 within the list, and similarity the largest one to an
    item that has been chosen (maximal marginal relevance: Carbonell and Goldstein, 1998).

    Parameters
    ----------
    scores : ndarray of float32, shape (n,)
        Descending; -inf for a place without an item.
    similarity : callable
    k : int
    diversity : float
        From 0, the order of the scores, to 1.
    caps : sequence of (Shared, int)
        Columns, and how many chosen items may share a value of each.

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
            np.maximum(nearest, similarity(best), out=nearest)
        for (shared, largest), count in zip(caps, counts, strict=True):
            for code in shared.values(best):
                count[code] += 1
                if count[code] == largest:
                    open_ &= ~shared.having(code)
    return chosen


class Wishes(NamedTuple):
    """What a row asks of the items of its answer, as in the parameters of a request.

    Attributes
    ----------
    k : int
    diversity : float
    by : str
        The column by which items are similar; "" for their vectors.
    max_per : str
        JSON; "" for no caps.
    """

    k: int
    diversity: float
    by: str
    max_per: str

    def choose(
        self,
        positions: np.ndarray,
        scores: np.ndarray,
        units: np.ndarray | None,
        columns: ItemColumns,
    ) -> list[int]:
        """Choose among the items at some positions [n], with their scores and unit vectors [n, D].

        Returns
        -------
        list of int
            Places in the list.
        """
        limits = parse_caps(self.max_per, columns.kinds) if self.max_per else {}
        caps = [
            (Shared(columns.columns[name], positions), largest) for name, largest in limits.items()
        ]

        def cosine(place: int) -> np.ndarray:
            assert units is not None  # they are given with a diversity
            return units @ units[place]

        similarity = Shared(columns.columns[self.by], positions).similarity if self.by else cosine
        return choose(scores, similarity, self.k, self.diversity, caps)


def wishes_of(table: Table) -> list[Wishes]:
    """Return what each row of a table of requests asks of its answer."""
    k = table[K].tolist()
    nothing = [""] * len(k)
    return [
        Wishes(k=size, diversity=diversity, by=by, max_per=max_per)
        for size, diversity, by, max_per in zip(
            k,
            table[DIVERSITY].tolist() if DIVERSITY in table else [0.0] * len(k),
            table[DIVERSITY_BY].tolist() if DIVERSITY_BY in table else nothing,
            table[MAX_PER].tolist() if MAX_PER in table else nothing,
            strict=True,
        )
    ]
