"""Vectors are kept for known users as the user table has them, and for nobody else."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.serving.runtime.contract import ABSENT, VALUE
from twotower.serving.runtime.operators import vector_cache
from twotower.serving.runtime.operators.vector_cache import VectorCache

USERS = 50
STRANGER = USERS  # the row behind the last


def table(*rows: int, states: int | list[int] = ABSENT) -> dict[str, np.ndarray]:
    """With the feature's column only where a row gives it, as requests are read."""
    given = np.full(len(rows), states, np.int8)
    return {"age__state": given} if (given != ABSENT).any() else {}


def vectors(*rows: int) -> np.ndarray:
    return np.array([[row + 0.5, -row] for row in rows], np.float32)


def put(cache: VectorCache, *rows: int, **states) -> None:
    cache.put(table(*rows, **states), np.array(rows), vectors(*rows))


def get(cache: VectorCache, *rows: int, **states) -> np.ndarray | None:
    return cache.get(table(*rows, **states), np.array(rows))


@pytest.fixture
def cache():
    return VectorCache(["age"], USERS)


def test_known_users_are_kept(cache):
    rows = [4, 0, 2, 49]
    assert get(cache, *rows) is None
    put(cache, *rows)
    for asked in (rows, rows[::-1], rows[2:3] * 2):
        np.testing.assert_array_equal(get(cache, *asked), vectors(*asked))


def test_a_batch_with_one_user_who_is_not_there_is_not_answered(cache):
    put(cache, 0, 3)
    assert get(cache, 0, 1) is None


def test_strangers_are_not_kept(cache):
    put(cache, 0, STRANGER)
    assert get(cache, 0) is not None
    assert get(cache, STRANGER) is None


def test_users_with_features_of_the_request_are_neither_kept_nor_answered(cache):
    put(cache, 0, 3, states=[VALUE, ABSENT])
    assert get(cache, 0) is None
    assert get(cache, 3) is not None
    assert get(cache, 3, states=VALUE) is None


def test_the_user_kept_longest_makes_room(monkeypatch):
    monkeypatch.setattr(vector_cache, "MAX_USERS", 3)
    cache = VectorCache(["age"], USERS)
    for row in (7, 8, 9, 8, 10):
        put(cache, row)
    assert get(cache, 7) is None
    np.testing.assert_array_equal(get(cache, 10, 8, 9), vectors(10, 8, 9))
    put(cache, 1, 1, 2, 3, 4)  # more than there is room for
    assert get(cache, 10) is None
    np.testing.assert_array_equal(get(cache, 1, 2, 3), vectors(1, 2, 3))


def test_every_answer_is_the_users_own_however_many_come_and_go(monkeypatch):
    monkeypatch.setattr(vector_cache, "MAX_USERS", 20)
    cache, draw = VectorCache(["age"], USERS), np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        rows = draw.choice(USERS, 2).tolist()
        found = get(cache, *rows)
        if found is not None:
            hits += 1
            np.testing.assert_array_equal(found, vectors(*rows))
        put(cache, *rows)
    assert hits > 40, "of 500, of which a sixth has both users among the 20 of 50 that are kept"
    assert np.count_nonzero(cache.slots >= 0) == 20


def test_its_memory_is_taken_at_once(cache):
    put(cache, 1)
    kept = cache.vectors
    put(cache, *range(USERS))
    assert cache.vectors is kept
    assert kept.shape == (USERS, 2)
