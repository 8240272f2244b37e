"""A real Redis, and the two kinds of stores."""

from __future__ import annotations

import pytest

from benchmarks.redis_server import RedisServer
from twotower.serving.runtime.live.opening import open_store


@pytest.fixture(scope="module")
def redis_server(has_redis, tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def open_one(request, tmp_path):
    """A function that opens a store, the same one at each call."""
    settings = {"store": request.param, "stream": f"events of {tmp_path}"}
    if request.param == "redis":
        settings["redis"] = request.getfixturevalue("redis_server").address
    opened = []

    def open_it():
        opened.append(open_store(settings, tmp_path / "events.sqlite"))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()
