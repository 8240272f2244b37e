"""Events, recorded by a real server, change its next answers as a computation without it says."""

from __future__ import annotations

import asyncio
import shutil
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.redis_server import RedisServer
from tests.serving import ranked
from twotower.serving.client import AsyncRetrievalClient, RetrievalClient
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.live.opening import events_path, open_store
from twotower.serving.triton.server import TritonServer

SQLITE = {"store": "sqlite"}
LIKED = {"rating": [5.0]}


@pytest.fixture
def serve(tmp_path):
    """A function that starts a server; all are stopped at the end."""
    running = []

    def start(repository, events=SQLITE):
        log = tmp_path / f"log{len(running)}"
        running.append(TritonServer(repository, log=log, events=events).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def shared(repositories, tmp_path_factory):
    """A server for tests of different users."""
    folder = tmp_path_factory.mktemp("shared")
    repository = shutil.copytree(repositories["compiled"], folder / "repository")
    with TritonServer(repository, log=folder / "log", events=SQLITE) as server:
        yield server


class Expected:
    """What a server must answer after events, by brute force."""

    def __init__(self, world) -> None:
        self.world = world
        self.new: dict[int, list[int]] = {}  # new items of each history, the latest first
        self.seen: dict[int, set[int]] = {}

    def record(self, client, key, user, item, rating=5.0) -> None:
        """Record an event, and expect what it changes."""
        client.record([user], [item], key, {"rating": [rating]})
        self.seen.setdefault(user, set()).add(item)
        if rating >= 3:
            rest = [each for each in self.new.get(user, []) if each != item]
            self.new[user] = [item, *rest]

    def _asked(self, users, filter_seen) -> dict:
        world = self.world
        known = world.users.set_index("user_id")[world.history]
        histories = []
        for user in users:
            stored = known[user] if user in known.index else []
            new = self.new.get(user, [])
            histories.append([*new, *(item for item in stored if item not in new)])
        seen = [
            {
                *self.seen.get(user, ()),
                *world.seen_pairs["item_id"][world.seen_pairs["user_id"] == user],
            }
            for user in users
        ]
        hidden = [list(each) if filter_seen else [] for each in seen]
        allowed = [~np.isin(world.item_ids, each) for each in hidden]
        return {"features": {world.history: histories}, "allowed": allowed}

    def answer(self, users, k=10, filter_seen=True):
        asked = self._asked(users, filter_seen)
        return self.world.brute_force(users, k, filter_seen=False, **asked)

    def ranked(self, users, k=10):
        asked = self._asked(users, True)
        return ranked.brute_force(self.world, users, k, **asked, histories=self.new)[:2]


def columns(found):
    return found.item_ids, found.scores


def metric(server, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_event_changes_the_next_answer(protocol, world, shared, assert_same):
    known = world.users["user_id"].tolist()
    users = {
        "http": [*known[:6], world.unknown_user, world.sated_user],
        "grpc": [*known[6:12], world.unknown_user + 1, world.exhausted_user],
    }[protocol]
    server, expected = shared, Expected(world)
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        assert_same(columns(client.recommend(users)), world.brute_force(users, 10))
        draw = np.random.default_rng(3)
        for step in range(12):
            user = users[step % 7]
            best = client.recommend([user], 5).item_ids[0]
            # What is best now, what is none of the best, and what the user does not like.
            item = int(best[step % 5] if step % 2 else draw.choice(world.item_ids))
            expected.record(client, server.events_key, user, item, rating=5.0 if step % 3 else 1.0)
            assert item not in client.recommend([user], 300).item_ids
            assert_same(columns(client.recommend([user])), expected.answer([user]))
        assert_same(columns(client.recommend(users)), expected.answer(users))
        assert_same(columns(client.recommend(users)), expected.answer(users))  # from the cache
        kept = client.recommend(users, 300, filter_seen=False)
        assert_same(columns(kept), expected.answer(users, 300, filter_seen=False))
        assert_same(columns(client.recommend(users, rank=True)), expected.ranked(users))
        told = {world.history: [[1, 4, 7]]}  # what a request tells replaces the history
        got = client.recommend(users[:1], 300, features=told)
        hidden = [~np.isin(world.item_ids, list(expected.seen[users[0]]))]
        assert_same(columns(got), world.brute_force(users[:1], 300, True, told, hidden))


def test_an_event_of_another_process_changes_the_next_answer(world, shared):
    user = int(world.users["user_id"][20])
    with RetrievalClient(shared.grpc, "grpc") as client:
        best = client.recommend([user], 1).item_ids[0, 0]
        store = open_store(SQLITE, events_path(shared.repository / "retrieval" / "1"))
        event = {"user_id": user, "item_id": int(best), "timestamp": 5, "rating": 1.0}
        store.append([event])
        store.close()
        assert best not in client.recommend([user], 300).item_ids


def test_events_outlive_the_server(world, serve, copy):
    first, user = serve(copy), world.unknown_user
    with RetrievalClient(first.http) as client:
        best = client.recommend([user], 3).item_ids[0]
        times = client.record([user, user], best[:2], first.events_key, {"rating": [5.0, 4.0]})
        assert np.abs(times - time.time()).max() < 60
        after = client.recommend([user], 300).item_ids
    first.stop()
    second = serve(copy)
    with RetrievalClient(second.http) as client:
        assert client.recommend([user], 300).item_ids.tolist() == after.tolist()
    assert not np.isin(best[:2], after).any() and best[2] in after


def test_only_who_has_the_key_may_record(shared, servers):
    server, before = shared, metric(shared, "twotower_events_total")
    with RetrievalClient(server.http) as client:
        # Nor does who may load models have the key, which applications get.
        for key in ("", "wrong", f"{server.events_key}x", server.key):
            with pytest.raises(ServingError, match="needs the server's key in the header"):
                client.record([1], [1], key, LIKED)
        with pytest.raises(ServingError, match="row 1: rating is missing"):
            client.record([1, 2], [1, 4], server.events_key, {"rating": [5.0, None]})
        assert metric(server, "twotower_events_total") == before
    off = servers("merlin")  # which has no store
    with RetrievalClient(off.http) as client, pytest.raises(ServingError) as error:
        client.record([1], [1], str(off.events_key), LIKED)
    assert "this server records no events: set serving.events.store" in str(error.value)


def test_many_clients_record_and_ask_at_once(world, shared, assert_same):
    server, expected = shared, Expected(world)
    users = world.users["user_id"].tolist()[40:48]

    def work(user):
        with RetrievalClient(server.grpc, "grpc") as client:
            for item in (1, 4, 7, 10, 13):
                expected.record(client, server.events_key, user, item)
                assert item not in client.recommend([user], 300).item_ids

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, users))
    with RetrievalClient(server.http) as client:
        assert_same(columns(client.recommend(users)), expected.answer(users))


def test_the_asyncio_client_records_too(world, shared):
    user = world.unknown_user + 2

    async def ask():
        async with AsyncRetrievalClient(shared.http) as client:
            best = (await client.recommend([user], 1)).item_ids[0]
            assert len(await client.record([user], best, shared.events_key, LIKED)) == 1
            assert len(await client.record([], [], shared.events_key, {"rating": []})) == 0
            return best[0], (await client.recommend([user], 300)).item_ids

    best, after = asyncio.run(ask())
    assert best not in after


def test_servers_that_share_a_redis_agree(has_redis, world, serve, copy, tmp_path, assert_same):
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis:
        settings = {"store": "redis", "redis": redis.address, "stream": "events"}
        servers = [serve(copy, settings), serve(copy, settings)]
        expected, users = Expected(world), world.users["user_id"].tolist()[:4]
        clients = [RetrievalClient(server.http) for server in servers]
        for number in range(8):
            one, other = number % 2, 1 - number % 2
            item = int(clients[one].recommend([users[number % 4]], 1).item_ids[0, 0])
            expected.record(clients[one], servers[one].events_key, users[number % 4], item)
            for client in (clients[other], clients[one]):
                assert_same(columns(client.recommend(users)), expected.answer(users))
        redis.stop()
        for client in clients:  # from the last known state
            assert_same(columns(client.recommend(users)), expected.answer(users))
        with pytest.raises(ServingError, match="nothing was recorded, send it again later: Redis"):
            clients[0].record([users[0]], [1], servers[0].events_key, LIKED)
        _until(lambda: metric(servers[0], "twotower_events_store_up") == 0)
        redis.start()
        time.sleep(1.2)  # after which the servers try again
        expected.record(clients[0], servers[0].events_key, users[0], 1)
        for client in clients:
            assert_same(columns(client.recommend(users)), expected.answer(users))
        _until(lambda: metric(servers[0], "twotower_events_store_up") == 1)
        for client in clients:
            client.close()


def _until(condition) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)
