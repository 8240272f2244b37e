"""Similar items, of a server and in this process, against brute force."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from twotower.serving.client import AsyncRetrievalClient, RetrievalClient
from twotower.serving.files import write_atomically
from twotower.serving.local import LocalVersion
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import SIMILAR_ITEMS
from twotower.serving.triton.server import TritonServer

BASKETS = [[1], [4, 7], [10, 10, 13], [2, 16], [2, 5], [-(2**62)], [*range(1, 901, 3)]]
"""Items of the world, some asked for twice, 2 and 5 which are none, and all items."""


def brute_force(world, baskets, k, allowed=None):
    """Item ids [n, k] and cosines [n, k]."""
    units = world.vectors / np.linalg.norm(world.vectors, axis=1, keepdims=True)
    items, top = np.full((len(baskets), k), -1), np.full((len(baskets), k), -np.inf)
    for row, basket in enumerate(baskets):
        own = np.isin(world.item_ids, basket)
        if not own.any():
            continue
        query = units[own].sum(axis=0)
        scores = units @ query / np.linalg.norm(query)
        keep = ~own if allowed is None else ~own & allowed
        best = np.argsort(-scores[keep])[:k]
        items[row, : len(best)] = world.item_ids[keep][best]
        top[row, : len(best)] = scores[keep][best]
    return items, top


def columns(answer):
    return answer.item_ids, answer.scores


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_finds_similar_items(protocol, world, server, assert_same):
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        answer = client.similar(BASKETS, 10)
        assert_same(columns(answer), brute_force(world, BASKETS, 10))
        assert answer.version == 1
        late = np.array([(item["year"] or 0) >= 1990 for item in world.items.to_pylist()])
        for allowed, filters in (
            (late, {"where": {"year": {"$gte": 1990}}}),
            (world.item_ids > 600, {"allow_item_ids": [range(601, 901)] * len(BASKETS)}),
            (world.item_ids > 600, {"exclude_item_ids": [range(601)] * len(BASKETS)}),
        ):
            got = client.similar(BASKETS, 400, **filters)
            assert_same(columns(got), brute_force(world, BASKETS, 400, allowed))
        empty = client.similar([], 3)
        assert empty.item_ids.shape == (0, 3) and empty.item_ids.dtype == np.int64


def test_users_and_items_may_be_asked_for_at_once(world, servers, assert_same):
    users = world.users["user_id"].tolist()[:4]
    address = servers("compiled").grpc

    def ask(number):
        with RetrievalClient(address, "grpc") as client:
            for _ in range(30):
                if number % 2:
                    assert_same(columns(client.recommend(users, 10)), expected)
                else:
                    assert_same(columns(client.similar(BASKETS, 10)), near)

    expected, near = world.brute_force(users, 10), brute_force(world, BASKETS, 10)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_the_asyncio_client_finds_the_same(world, servers, assert_same):
    async def ask():
        async with AsyncRetrievalClient(servers("compiled").grpc, "grpc") as client:
            return await client.similar(BASKETS, 10)

    assert_same(columns(asyncio.run(ask())), brute_force(world, BASKETS, 10))


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_a_local_version_finds_the_same(runtime, world, repositories, assert_same):
    version = LocalVersion(repositories[runtime] / "retrieval" / "1")
    assert_same(version.similar(BASKETS, 10), brute_force(world, BASKETS, 10))
    near = version.similar([[1]], 2)[0][0]
    version.deny(near[:1].tolist())
    assert version.similar([[1]], 1)[0].tolist() == [[near[1]]]


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"items": [1, 4]}, "'similar_to' holds 1; expected a list per user"),
        ({"items": [["a"]]}, "'similar_to' holds 'a'; the model takes an integer"),
        ({"items": 5}, "'similar_to' is 5; expected a list"),
        ({"items": [[1]], "k": 0}, "parameter 'k' is 0; expected an integer from 1 to 400"),
        ({"items": [[1]], "where": {"yaer": 1}}, "column 'yaer' is unknown"),
        ({"items": [[1]], "allow_item_ids": [[1], [2]]}, "has 2 values, there are 1 rows"),
        ({"items": [[1] * 5000]}, r"has shape \[1, 5000\]; expected \[n, w\], 1 <= w <= 4096"),
    ],
)
def test_a_wrong_request_is_named(asked, message, servers):
    with (
        RetrievalClient(servers("compiled").http) as client,
        pytest.raises(ServingError, match=message),
    ):
        client.similar(**asked)


def test_an_item_without_a_vector_is_similar_to_nothing(engine):
    scale = engine.top_k.scale
    assert scale.shape == (300,) and np.isfinite(scale).all()


@pytest.mark.slow
def test_both_models_change_to_the_published_version(copy, other_world, export, tmp_path):
    repository = ModelRepository(copy)
    with TritonServer(copy, log=tmp_path / "log") as server, RetrievalClient(server.http) as client:
        from twotower.serving.triton.control import ModelControl

        control = ModelControl(server.http, server.key, 60.0)
        before = client.similar(BASKETS, 10)
        export(other_world, copy)
        failed, stopped = [], []

        def ask():
            with RetrievalClient(server.grpc, "grpc", retries=0) as asking:
                while not stopped:
                    try:
                        asking.similar(BASKETS, 10)
                        asking.recommend([1], 10)
                    except ServingError as error:
                        failed.append(str(error))

        with ThreadPoolExecutor(3) as pool:
            for _ in range(3):
                pool.submit(ask)
            try:
                for number in (2, 1, 2):
                    repository.publish(number, control)
                    time.sleep(0.3)
            finally:
                stopped.append(True)
        assert failed == []
        answer = client.similar(BASKETS, 10)
        assert answer.version == client.version() == 2
        assert not np.array_equal(answer.item_ids, before.item_ids)
        assert repository.rollback(control) == 1
        np.testing.assert_array_equal(client.similar(BASKETS, 10).item_ids, before.item_ids)


def test_a_version_of_an_earlier_release_has_no_such_model(copy, vouch, tmp_path):
    repository, version = ModelRepository(copy), copy / "retrieval" / "1"
    with TritonServer(copy, log=tmp_path / "log") as server, RetrievalClient(server.http) as client:
        from twotower.serving.triton.control import ModelControl

        control = ModelControl(server.http, server.key, 60.0)
        assert client.similar([[1]], 1).item_ids.shape == (1, 1)
        (version / f"{SIMILAR_ITEMS}.pbtxt").unlink()
        vouch(version)
        repository.publish(1, control)
        assert not (copy / SIMILAR_ITEMS).exists()
        with pytest.raises(ServingError, match="similar_items"):
            client.similar([[1]], 1)
        assert client.recommend([1], 1).item_ids.shape == (1, 1)


def test_the_model_is_made_again_at_the_start(copy, tmp_path):
    config = copy / SIMILAR_ITEMS / "config.pbtxt"
    expected = config.read_text()
    assert "versions: 1" in expected.replace("[", "").replace("]", "")
    for spoil in (
        lambda: write_atomically(config, json.dumps("damaged")),
        lambda: (copy / SIMILAR_ITEMS / "1").rmdir(),  # a copy may lose empty folders
        lambda: shutil.rmtree(copy / SIMILAR_ITEMS),
    ):
        spoil()
        ModelRepository(copy).mend()
        assert config.read_text() == expected and (copy / SIMILAR_ITEMS / "1").is_dir()
