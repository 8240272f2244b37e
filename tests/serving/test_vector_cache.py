"""Vectors are kept for known users as the user table has them, and for nobody else."""

from __future__ import annotations

import numpy as np
import pytest

from serving.runtime import vector_cache
from serving.runtime.contract import ABSENT, VALUE
from serving.runtime.vector_cache import VectorCache

KNOWN = np.array([-(2**63), -5, 0, 3, 2**62 + 1])


def table(*ids: int, states: int | list[int] = ABSENT) -> dict[str, np.ndarray]:
    return {"id": np.array(ids), "age__state": np.full(len(ids), states, np.int8)}


def vectors(*ids: int) -> np.ndarray:
    return np.array([[id % 97, id % 89] for id in ids], np.float32)


@pytest.fixture
def cache():
    return VectorCache("id", ["age"], KNOWN)


def test_known_users_are_kept(cache):
    ids = KNOWN.tolist()
    assert cache.get(table(*ids)) is None
    cache.put(table(*ids), vectors(*ids))
    for asked in (ids, ids[::-1], ids[2:3] * 2):
        np.testing.assert_array_equal(cache.get(table(*asked)), vectors(*asked))


def test_a_batch_with_one_user_who_is_not_there_is_not_answered(cache):
    cache.put(table(0, 3), vectors(0, 3))
    assert cache.get(table(0, -5)) is None


def test_strangers_are_not_kept(cache):
    cache.put(table(0, 404), vectors(0, 404))
    assert cache.get(table(0)) is not None
    assert cache.get(table(404)) is None


def test_users_with_features_of_the_request_are_neither_kept_nor_answered(cache):
    cache.put(table(0, 3, states=[VALUE, ABSENT]), vectors(0, 3))
    assert cache.get(table(0)) is None
    assert cache.get(table(3)) is not None
    assert cache.get(table(3, states=VALUE)) is None


def test_the_user_kept_longest_makes_room(monkeypatch):
    monkeypatch.setattr(vector_cache, "MOST", 3)
    cache = VectorCache("id", ["age"], np.arange(50))
    for user in (7, 8, 9, 8, 10):
        cache.put(table(user), vectors(user))
    assert cache.get(table(7)) is None
    np.testing.assert_array_equal(cache.get(table(10, 8, 9)), vectors(10, 8, 9))


def test_every_answer_is_the_users_own_however_many_come_and_go(monkeypatch):
    monkeypatch.setattr(vector_cache, "MOST", 20)
    known = np.arange(50)
    cache, draw = VectorCache("id", ["age"], known), np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        ids = draw.choice(known, 2).tolist()
        found = cache.get(table(*ids))
        if found is not None:
            hits += 1
            np.testing.assert_array_equal(found, vectors(*ids))
        cache.put(table(*ids), vectors(*ids))
    assert hits > 40, "of 500, of which a sixth has both users among the 20 of 50 that are kept"
    assert len(cache.rows) == 20
