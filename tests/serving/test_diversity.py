"""Diversity and caps of answers, in both runtimes and on a real server."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.serving.conftest import answer, request_table
from twotower.serving.client import RetrievalClient
from twotower.serving.client.values import Filters
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError

CASES = [
    {"diversity": 0.3},
    {"diversity": 1},
    {"diversity": 0.4, "diversity_by": "kinds"},
    {"diversity": 0.6, "diversity_by": "year", "max_per": '{"kinds": 2}'},
    {"max_per": '{"kinds": 1}'},
    {"max_per": '{"kinds": 2, "year": 1}', "diversity": 0.5},
    {"max_per": '{"in_stock": 3}'},
    {"max_per": '{"year": 2}', "where": '{"year": {"$lt": 1985}}', "diversity": 0.2},
]


@pytest.fixture
def kinds(world):
    """The kinds and the year of each item."""
    items = zip(world.item_ids.tolist(), world.items.to_pylist(), strict=True)
    return {number: item for number, item in items}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiled_engine_equals_the_stock_executor(case, world, engine, assert_same):
    users = [*world.users["user_id"], world.unknown_user]
    for k in (1, 10, 60):
        table = request_table(world.ensemble, users, k, **case)
        expected, got = answer(world.ensemble, table), engine.run(table)
        np.testing.assert_array_equal(got["item_id"], expected["item_id"])
        np.testing.assert_allclose(got["score"], expected["score"], atol=1e-5)


def test_rows_of_one_table_may_ask_for_different_things(world, engine):
    users = world.users["user_id"].tolist()[: len(CASES)]
    alone = [
        request_table(world.ensemble, [user], 10, **case)
        for user, case in zip(users, CASES, strict=True)
    ]
    together = {name: np.concatenate([each[name] for each in alone]) for name in alone[0]}
    items = engine.run(together)["item_id"]
    for row, table in enumerate(alone):
        np.testing.assert_array_equal(items[row], engine.run(table)["item_id"][0])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_keeps_to_the_caps(protocol, world, server, kinds):
    users = world.users["user_id"].tolist()[:40]
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        best = client.recommend(users, 10)
        for diversity in (0, 0.0, None):
            same = client.recommend(users, 10, diversity=diversity)
            np.testing.assert_array_equal(same.item_ids, best.item_ids)
        capped = client.recommend(users, 10, max_per={"kinds": 2, "year": 1})
        for row in capped.item_ids.tolist():
            found = [kinds[item] for item in row if item != -1]
            assert (
                max(Counter(kind for item in found for kind in set(item["kinds"] or [])).values())
                <= 2
            )
            years = Counter(item["year"] for item in found if item["year"] is not None)
            assert max(years.values(), default=0) <= 1
        spread = client.recommend(users, 10, diversity=0.5)
        vectors = dict(zip(world.item_ids.tolist(), world.vectors, strict=True))
        assert _similarity(spread.item_ids, vectors) < _similarity(best.item_ids, vectors) - 0.05
        assert spread.item_ids[:, 0].tolist() == best.item_ids[:, 0].tolist()
        near = client.similar([[1], [4, 7]], 10, max_per={"year": 1})
        for row in near.item_ids.tolist():
            years = [kinds[item]["year"] for item in row if kinds[item]["year"] is not None]
            assert len(set(years)) == len(years)
        for wrong, message in (
            ({"diversity": 1.5}, r"parameter 'diversity' is 1\.5; expected a number from 0 to 1"),
            ({"diversity": "high"}, "parameter 'diversity' is 'high'; expected a number"),
            ({"max_per": {"kind": 1}}, "column 'kind' is unknown; this model has year, kinds, in_"),
            ({"max_per": {"kinds": 0}}, "column 'kinds': 0; expected an integer of 1 or more"),
            (
                {"diversity_by": "kind"},
                "'diversity_by' is 'kind'; expected a column: this",
            ),
            ({"diversity_by": 3}, "'diversity_by' is 3; expected a column"),
            ({"max_per": 3}, "'max_per' is 3; expected a dict, or its JSON"),
            ({"diversity": 0.1, "k": 200}, r"'k' is 200, for 40 rows; .* at most 1,000,000: ask"),
        ):
            with pytest.raises(ServingError, match=message):
                client.recommend(users, **{"k": 10, **wrong})


def _similarity(items, vectors):
    """The mean cosine between two items of an answer."""
    found = []
    for row in items.tolist():
        units = np.stack([vectors[item] / np.linalg.norm(vectors[item]) for item in row])
        cosines = units @ units.T
        found.append(cosines[np.triu_indices(len(row), 1)].mean())
    return np.mean(found)


def test_a_local_version_gives_the_servers_answer(world, servers, repositories):
    users = world.users["user_id"].tolist()[:20]
    filters = {"diversity": 0.4, "max_per": {"kinds": 3}}
    with RetrievalClient(servers("compiled").http) as client:
        expected = client.recommend(users, 8, **filters)
    version = LocalVersion(repositories["compiled"] / "retrieval" / "1")
    items, scores = version.answer(users, 8, True, filters=Filters(**filters))
    np.testing.assert_array_equal(items, expected.item_ids)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)


def test_caps_reach_beyond_the_pool_of_the_best(world, engine):
    """With one item in or out of stock each, only two are left, wherever they are in the list."""
    users = world.users["user_id"].tolist()[:5]
    table = request_table(world.ensemble, users, 10, max_per='{"in_stock": 1}')
    items = engine.run(table)["item_id"]
    assert (items[:, 2:] == -1).all() and (items[:, :2] != -1).all()
