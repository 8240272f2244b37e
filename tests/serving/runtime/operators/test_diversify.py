"""Maximal marginal relevance and caps, against a plain implementation and worked examples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from twotower.serving.item_columns import item_columns
from twotower.serving.runtime.operators.diversify import Shared, choose, pool_size


def made(values, largest):
    """The cap of lists of numbers; the items are in another order than in the column."""
    order = np.random.default_rng(1).permutation(len(values))
    columns = item_columns(pa.table({"x": [values[place] for place in order]}), ["x"]).columns
    return Shared(columns["x"], np.argsort(order)), largest


def cosine(units):
    return lambda place: units @ units[place]


def plain(scores, units, k, diversity, caps):
    """The definition, item by item."""
    low, high = scores.min(), scores.max()
    relevance = (scores - low) / ((high - low) or 1)
    chosen = []
    while len(chosen) < k:
        best, found = -np.inf, None
        for place in range(len(scores)):
            full = any(
                sum(value in values[other] for other in chosen) >= largest
                for values, largest in caps
                for value in values[place]
            )
            if place in chosen or full:
                continue
            nearest = max((units[place] @ units[other] for other in chosen), default=0)
            value = (1 - diversity) * relevance[place] - diversity * nearest if chosen else 0
            value = relevance[place] if not chosen else value
            if value > best + 1e-9:
                best, found = value, place
        if found is None:
            break
        chosen.append(found)
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("capped", [False, True])
def test_equals_the_definition(diversity, capped):
    draw = np.random.default_rng(2)
    for _ in range(20):
        units = draw.normal(size=(30, 4)).astype(np.float32)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        scores = -np.sort(-draw.normal(size=30).astype(np.float32))
        caps = []
        if capped:
            lists = [draw.choice(5, draw.integers(0, 3), False).tolist() for _ in range(30)]
            caps = [(lists, 2), ([[each] for each in draw.integers(0, 9, 30).tolist()], 3)]
        found = choose(scores, cosine(units), 12, diversity, [made(*cap) for cap in caps])
        assert found == plain(scores, units, 12, diversity, caps)


def test_a_worked_example():
    """Two equal items, and one apart: with diversity the second of the equal ones comes last."""
    units = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    scores = np.array([0.9, 0.8, 0.1], np.float32)
    assert choose(scores, cosine(units), 3) == [0, 1, 2]
    # The relevances are 1, .875 and 0: .6 * .875 - .4 * 1 = .125 against .6 * 0 - .4 * 0 = 0.
    assert choose(scores, cosine(units), 3, 0.4) == [0, 1, 2]
    # .5 * .875 - .5 * 1 = -.0625 against 0.
    assert choose(scores, cosine(units), 3, 0.5) == [0, 2, 1]


def test_places_without_an_item_are_not_chosen():
    units, scores = np.eye(4, dtype=np.float32), np.array([2, 1, -np.inf, -np.inf], np.float32)
    assert choose(scores, cosine(units), 4, 0.9) == [0, 1]
    assert choose(scores, cosine(units), 4, 0.0, [made([[1], [1], [2], [3]], 1)]) == [0]
    assert choose(np.full(2, -np.inf, np.float32), cosine(units[:2]), 4, 0.5) == []
    assert choose(np.ones(3, np.float32), cosine(units[:3]), 2, 0.5) == [0, 1]


def test_values_of_columns():
    items = pa.table({"year": [1990, None, 2000], "genres": [["b", "a", "b"], None, ["a", None]]})
    columns = item_columns(items, ["year", "genres"]).columns
    year, genres = (Shared(each, np.array([2, 1, 0, 0])) for each in columns.values())
    assert [year.values(place) for place in range(4)] == [[1], [], [0], [0]]
    assert [genres.values(place) for place in range(4)] == [[0], [], [0, 1], [0, 1]]
    assert year.having(1).tolist() == [True, False, False, False]
    assert genres.having(0).tolist() == [True, False, True, True]
    # The genres are {a}, {}, {a, b} and {a, b}.
    assert genres.similarity(2).tolist() == [0.5, 0, 1, 1]
    assert genres.similarity(1).tolist() == [0, 0, 0, 0]
    assert year.similarity(3).tolist() == [0, 0, 1, 1]


def test_the_size_of_the_pool():
    assert [pool_size(k, 10_000) for k in (1, 20, 21, 5_000)] == [100, 100, 105, 10_000]
