"""The model `recommend`: candidates of the towers in the order of a ranking model."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.serving.conftest import answer, request_table
from tests.serving.ranked import CANDIDATES, MAX_ROWS, brute_force
from twotower.serving.client import AsyncRetrievalClient, RetrievalClient
from twotower.serving.client.values import Filters, Ranking
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError

RANKED = Ranking(rank=True)


@pytest.fixture(scope="module")
def users(world):
    """Known, unknown, and with few or no items left."""
    some = world.users["user_id"].tolist()[:9]
    return [*some, world.exhausted_user, world.sated_user, world.unknown_user, world.cold_user]


def columns(found):
    return found.item_ids, found.scores


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_ranks_as_brute_force_does(protocol, world, users, server, assert_same):
    items, judged, retrieved = brute_force(world, users, 10)
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        found = client.recommend(users, 10, rank=True)
        assert_same(columns(found), (items, judged))
        np.testing.assert_allclose(found.retrieval_scores, retrieved, atol=1e-5)
        plain = client.recommend(users, 10)
        assert plain.retrieval_scores is None
        assert_same(columns(plain), world.brute_force(users, 10))
    # The order is another one, of other items.
    assert (items[:9] != plain.item_ids[:9]).any(axis=1).all()
    assert (np.diff(found.scores[:9]) <= 0).all()


@pytest.mark.parametrize("runtime", ["compiled", pytest.param("merlin", marks=pytest.mark.slow)])
def test_a_local_version_ranks_the_same(runtime, world, users, repositories, assert_same):
    version = LocalVersion(repositories[runtime] / "retrieval" / "1")
    assert version.candidates == CANDIDATES
    found = version.answer(users, 10, filter_seen=True, ranking=RANKED)
    assert_same(found, brute_force(world, users, 10)[:2])
    # More rows than a server would answer at once.
    many = (users * 20)[: MAX_ROWS // CANDIDATES + 50]
    found = version.answer(many, 5, filter_seen=True, ranking=RANKED)
    assert_same(found, brute_force(world, many, 5)[:2])


def test_the_compiled_graph_answers_as_the_executor_of_merlin(world, users, engine):
    history = {world.history: [[1, 4], [], [7] * 3, [2, 5]] + [[]] * (len(users) - 4)}
    for features in (None, history):
        table = request_table(world.ensemble, users, 7, features=features)
        table["candidates"] = np.full(len(users), CANDIDATES)
        expected, found = answer(world.ensemble, table), engine.recommend(table)
        assert set(found) == set(expected)
        for name, column in expected.items():
            np.testing.assert_allclose(found[name], column, atol=1e-6)


def test_the_history_of_a_request_replaces_the_stored_one(world, users, servers, assert_same):
    liked = [[1, 4, 7, 4], [], [2, 5], [899 - 899 % 3 + 1], *[[10, 13]] * (len(users) - 4)]
    features = {world.history: liked}
    with RetrievalClient(servers("compiled").grpc, "grpc") as client:
        found = client.recommend(users, 10, features=features, rank=True)
    assert_same(columns(found), brute_force(world, users, 10, features)[:2])


def test_filters_choose_the_candidates(world, users, servers, assert_same):
    late = np.array([(item["year"] or 0) >= 1990 for item in world.items.to_pylist()])
    with RetrievalClient(servers("compiled").http) as client:
        found = client.recommend(users, 10, rank=True, where={"year": {"$gte": 1990}})
        expected = brute_force(world, users, 10, allowed=[late] * len(users))
        assert_same(columns(found), expected[:2])
        few = client.recommend(users[:2], 10, rank=True, allow_item_ids=[[1, 4, 7], []])
    assert np.isfinite(few.scores).sum(axis=1).tolist()[1] == 0


def test_fewer_candidates_are_the_first_ones(world, users, servers, assert_same):
    with RetrievalClient(servers("compiled").http) as client:
        found = client.recommend(users, 5, rank=True, candidates=5)
        plain = client.recommend(users, 5)
        assert_same(columns(found), brute_force(world, users, 5, candidates=5)[:2])
    assert np.array_equal(np.sort(found.item_ids[:9]), np.sort(plain.item_ids[:9]))


def test_requests_with_different_candidates_are_answered_together(world, users, engine):
    whole = request_table(world.ensemble, users[:4], 5)
    counts = np.array([5, 40, 12, 40])
    together = engine.recommend({**whole, "candidates": counts})
    for row, count in enumerate(counts):
        own = request_table(world.ensemble, users[row : row + 1], 5)
        alone = engine.recommend({**own, "candidates": np.array([count])})
        for name, column in alone.items():
            np.testing.assert_allclose(together[name][row], column[0], atol=1e-6)


def test_answers_may_be_diverse(world, users, servers, repositories):
    kinds = dict(zip(world.item_ids.tolist(), world.items["kinds"].to_pylist(), strict=True))
    with RetrievalClient(servers("compiled").http) as client:
        capped = client.recommend(users[:9], 6, rank=True, max_per={"kinds": 2})
        diverse = client.recommend(users[:9], 6, rank=True, diversity=1.0)
        plain = client.recommend(users[:9], 6, rank=True)
    for row in capped.item_ids.tolist():
        values = [value for item in row for value in set(kinds[item] or [])]
        assert max(map(values.count, values)) <= 2
    assert np.array_equal(diverse.item_ids[:, 0], plain.item_ids[:, 0])
    assert (diverse.item_ids != plain.item_ids).any(axis=1).all()
    same = LocalVersion(repositories["merlin"] / "retrieval" / "1").answer(
        users[:9], 6, True, filters=Filters(diversity=1.0), ranking=RANKED
    )
    assert np.array_equal(same[0], diverse.item_ids)


def test_all_models_may_be_asked_at_once(world, users, servers, assert_same):
    address = servers("compiled").grpc

    def ask(number):
        with RetrievalClient(address, "grpc") as client:
            for _ in range(20):
                ranked = bool(number % 2)
                found = client.recommend(users[:4], 10, rank=ranked)
                assert_same(columns(found), expected[ranked])

    expected = [world.brute_force(users[:4], 10), brute_force(world, users[:4], 10)[:2]]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_the_asyncio_client_gets_the_same(world, users, servers, assert_same):
    async def ask():
        async with AsyncRetrievalClient(servers("compiled").grpc, "grpc") as client:
            return await client.recommend(users, 10, rank=True)

    assert_same(columns(asyncio.run(ask())), brute_force(world, users, 10)[:2])


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"candidates": 41}, "parameter 'candidates' is 41; expected an integer from 1 to 40"),
        ({"candidates": 0}, "parameter 'candidates' is 0; expected an integer from 1 to 40"),
        ({"candidates": 2.0}, "parameter 'candidates' is 2.0; expected an integer"),
        ({"candidates": 3}, "'k' is 5, but the ranking model orders 3 candidates"),
        ({"k": 41}, "'k' is 41, but the ranking model orders 40 candidates"),
        ({"k": 401}, "'k' is 401; expected an integer from 1 to 400"),
        ({"k": 0}, "'k' is 0; expected an integer from 1 to 400"),
        ({"where": {"yaer": 1}}, "column 'yaer' is unknown"),
        ({"user_ids": list(range(101))}, "101 users with 40 candidates each are 4,040 rows"),
        ({"rank": False, "candidates": 3}, "'candidates' is for the ranking model"),
    ],
)
def test_a_wrong_request_is_named(asked, message, servers):
    given = {"user_ids": [1], "k": 5, "rank": True, **asked}
    with (
        RetrievalClient(servers("compiled").http) as client,
        pytest.raises(ServingError, match=message),
    ):
        client.recommend(**given)


@pytest.mark.slow
def test_a_version_without_a_ranking_model_says_so(world, tmp_path, assert_same):
    from dataclasses import replace

    from tests.serving.conftest import _export, index_and_build

    bare = replace(world, index=tmp_path / "index")
    bare = replace(bare, ensemble=index_and_build(bare, ranked=False))
    _export(bare, tmp_path / "repository").publish()
    version = LocalVersion(tmp_path / "repository" / "retrieval" / "1")
    assert version.candidates == 0
    with pytest.raises(ServingError, match=r"has no ranking model; set ranking\.model"):
        version.answer([1], 3, ranking=RANKED)
    assert_same(version.answer([17], 3, True), world.brute_force([17], 3))
    assert not (tmp_path / "repository" / "recommend").exists()
