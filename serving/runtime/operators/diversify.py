"""Chooses items of a ranked list that are relevant and differ from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..filters.columns import ItemColumn

POOL, MIN_POOL = 5, 100
"""Items are chosen among the POOL * k best, at least MIN_POOL."""


def pool_size(k: int, count: int) -> int:
    """Return among how many of `count` items the k of an answer are chosen."""
    return min(count, max(POOL * k, MIN_POOL))


def choose(
    scores: np.ndarray,
    units: np.ndarray,
    k: int,
    diversity: float = 0.0,
    caps: Sequence[tuple[Sequence[Sequence[int]], int]] = (),
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
    caps : sequence of pairs
        For each column with a cap, the values of each of the n items, and how many chosen items may
        share one.

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
    members = [_members(values) for values, _ in caps]
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
        for (values, largest), count, having in zip(caps, counts, members, strict=True):
            count.update(values[best])
            for each in values[best]:
                if count[each] >= largest:
                    open_[having[each]] = False
    return chosen


def values_of(column: ItemColumn, positions: np.ndarray) -> list[list[int]]:
    """Return the different values of a column, as codes, of the items at some positions."""
    missing = len(column.values)
    if column.starts is None:
        return [[code] if code != missing else [] for code in column.codes[positions].tolist()]
    bounds = zip(column.starts[positions], column.starts[positions + 1], strict=True)
    return [
        [code for code in dict.fromkeys(column.codes[first:last].tolist()) if code != missing]
        for first, last in bounds
    ]


def _members(values: Sequence[Sequence[int]]) -> Mapping[int, list[int]]:
    """Return for each value the places of the items that have it."""
    found: dict[int, list[int]] = {}
    for place, own in enumerate(values):
        for each in own:
            found.setdefault(each, []).append(place)
    return found
