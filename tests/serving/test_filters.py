"""Filters of requests, in both runtimes and on a real server, against brute force."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest

from benchmarks.two_stage.predicates import random_predicate
from tests.serving.conftest import answer, request_table
from twotower.serving.client import AsyncRetrievalClient, RetrievalClient
from twotower.serving.client.values import Filters
from twotower.serving.files import write_atomically
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.server import TritonServer


@pytest.fixture(scope="module")
def predicates(world):
    """Twenty random predicates, and for each which items of the world satisfy it."""
    draw, items = random.Random(20), world.items.to_pylist()
    drawn = [random_predicate(draw, items) for _ in range(20)]
    return [(tree, np.array([holds(item) for item in items])) for tree, holds in drawn]


def columns(answer):
    return answer.item_ids, answer.scores


def test_random_predicates_are_of_all_sorts(predicates):
    shares = [found.mean() for _, found in predicates]
    assert min(shares) < 0.1 and max(shares) > 0.9
    assert sum(0.2 < share < 0.8 for share in shares) >= 5


def test_each_predicate_in_a_batch_of_rows_equals_brute_force(
    world, engine, predicates, assert_same
):
    users = world.users["user_id"].tolist()
    tables = []
    for tree, found in predicates:
        table = request_table(world.ensemble, users, k=10, where=json.dumps(tree))
        got = engine.run(table)
        expected = world.brute_force(users, 10, allowed=[found] * len(users))
        assert_same(tuple(got.values()), expected)
        assert_same(tuple(answer(world.ensemble, table).values()), expected)
        tables.append(table)
    mixed = {name: np.concatenate([table[name][:3] for table in tables]) for name in tables[0]}
    got = engine.run(mixed)["item_id"]
    for row, (table, (_, found)) in enumerate(zip(tables, predicates, strict=True)):
        rows = slice(3 * row, 3 * row + 3)
        assert_same(
            (got[rows], engine.run(mixed)["score"][rows]),
            world.brute_force(users[:3], 10, allowed=[found] * 3),
        )
        assert table["where"][0] == mixed["where"][3 * row]


def test_lists_of_items_and_a_predicate_hold_together(world, engine, predicates, assert_same):
    users, draw = world.users["user_id"].tolist(), np.random.default_rng(3)
    ids = [*world.item_ids.tolist(), 2, 5, -1]  # 2, 5 and -1 are no items
    lists = [draw.choice(ids, size, False).tolist() for size in draw.integers(0, 200, 240)]
    allow, exclude = lists[:120], lists[120:]
    tree, found = next(each for each in predicates if 0.3 < each[1].mean() < 0.7)
    features = {"allow_item_ids": allow, "exclude_item_ids": exclude}
    table = request_table(world.ensemble, users, 10, features=features, where=json.dumps(tree))
    allowed = [
        found & np.isin(world.item_ids, mine) & ~np.isin(world.item_ids, not_mine)
        for mine, not_mine in zip(allow, exclude, strict=True)
    ]
    expected = world.brute_force(users, 10, allowed=allowed)
    assert_same(tuple(engine.run(table).values()), expected)
    assert_same(tuple(answer(world.ensemble, table).values()), expected)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_filters(protocol, world, server, predicates, assert_same):
    users = world.users["user_id"].tolist()
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        for tree, found in predicates[:6]:
            got = client.recommend(users, 10, where=tree)
            expected = world.brute_force(users, 10, allowed=[found] * len(users))
            assert_same(columns(got), expected)
            np.testing.assert_array_equal(
                client.recommend(users, 10, where=json.dumps(tree)).item_ids, got.item_ids
            )
        best = client.recommend(users[:2], 3).item_ids
        got = client.recommend(users[:2], 3, allow_item_ids=best[:, ::-1]).item_ids
        np.testing.assert_array_equal(got, best)
        others = client.recommend(users[:2], 3, exclude_item_ids=best[:, :1].tolist()).item_ids
        np.testing.assert_array_equal(others[:, :2], best[:, 1:])
        nothing = client.recommend(users[:1], 3, allow_item_ids=[[]])
        assert np.isneginf(nothing.scores).all()
        for wrong, message in (
            ({"where": {"yaer": 1}}, "column 'yaer' is unknown; this model filters by year, ki"),
            ({"where": "{"}, "parameter 'where': it is not JSON"),
            ({"where": {"year": float("nan")}}, "NaN is no number of JSON"),
            ({"where": 3}, "'where' is 3; expected a dict, or its JSON"),
            ({"where": {"year": object()}}, "cannot be written as JSON"),
            ({"allow_item_ids": [1]}, "'allow_item_ids' holds 1; expected a list per user"),
            ({"exclude_item_ids": [["a"]]}, "'exclude_item_ids' holds 'a'; the model takes an i"),
            ({"exclude_item_ids": []}, "'exclude_item_ids' has 0 values, there are 1 users"),
        ):
            with pytest.raises(ServingError, match=message):
                client.recommend(users[:1], 3, **wrong)


async def ask(address, users, **filters):
    async with AsyncRetrievalClient(address) as client:
        return await client.recommend(users, 5, **filters)


def test_the_asyncio_client_and_a_local_version_filter_as_the_server(world, servers, repositories):
    import asyncio

    users = world.users["user_id"].tolist()[:20]
    filters = {
        "where": {"year": {"$in": np.arange(1985, 1999)}, "in_stock": True},
        "exclude_item_ids": [world.item_ids[:50]] * 20,
    }
    with RetrievalClient(servers("compiled").http) as client:
        expected = client.recommend(users, 5, **filters)
    got = asyncio.run(ask(servers("compiled").http, users, **filters))
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    for runtime in ("compiled", "merlin"):
        version = LocalVersion(repositories[runtime] / "retrieval" / "1")
        items, scores = version.answer(users, 5, True, filters=Filters(**filters))
        np.testing.assert_array_equal(items, expected.item_ids)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_a_denied_item_is_in_no_answer_within_a_second(copy, world, assert_same, tmp_path):
    users = world.users["user_id"].tolist()
    best = world.brute_force(users, 2)[0]
    denied = np.unique(best[:, 0])
    kept = ~np.isin(world.item_ids, denied)
    tree = {"year": {"$gte": 1990}}
    items = world.items.to_pylist()
    late = np.array([item["year"] is not None and item["year"] >= 1990 for item in items])
    path = copy / "denied.json"
    asked = [
        ({}, kept),
        ({"where": tree}, kept & late),
        ({"allow_item_ids": [world.item_ids[:99]] * len(users)}, kept & (np.arange(300) < 99)),
    ]
    with TritonServer(copy, log=tmp_path / "log") as server, RetrievalClient(server.http) as client:
        before = [client.recommend(users, 5, **filters).item_ids for filters, _ in asked]
        write_atomically(path, json.dumps({"items": [*denied.tolist(), 2, "no id", 2**80]}))
        time.sleep(1.0)
        for filters, allowed in asked:
            expected = world.brute_force(users, 5, allowed=[allowed] * len(users))
            assert_same(columns(client.recommend(users, 5, **filters)), expected)
        assert client.ready()
        write_atomically(path, json.dumps({"items": []}))
        time.sleep(1.0)
        for (filters, _), items in zip(asked, before, strict=True):
            np.testing.assert_array_equal(client.recommend(users, 5, **filters).item_ids, items)
        write_atomically(path, json.dumps({"items": denied.tolist()}))
    with TritonServer(copy, log=tmp_path / "log") as server, RetrievalClient(server.http) as client:
        got = client.recommend(users, 300, filter_seen=False)
        assert not np.isin(got.item_ids[np.isfinite(got.scores)], denied).any()


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_a_local_version_denies_items(runtime, world, repositories):
    version = LocalVersion(repositories[runtime] / "retrieval" / "1")
    users = world.users["user_id"].tolist()[:9]
    expected = version.answer(users, 6)[0]
    version.deny([*np.unique(expected[:, 0]).tolist(), "no id"])
    items, _ = version.answer(users, 5)
    assert not np.isin(items, expected[:, 0]).any()
    assert version.denied.sum() == len(np.unique(expected[:, 0]))
    version.deny([])
    np.testing.assert_array_equal(version.answer(users, 6)[0], expected)


def test_a_server_does_not_start_with_a_damaged_list_of_denied_items(copy, tmp_path):
    (copy / "denied.json").write_text('{"items": ')
    with pytest.raises(ServingError, match=r"denied\.json: cannot be read"):
        TritonServer(copy, log=tmp_path / "log").start()
