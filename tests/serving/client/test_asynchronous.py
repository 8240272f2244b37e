"""The asyncio client answers like the blocking one."""

from __future__ import annotations

import asyncio
import socket
import time

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from twotower.serving.client import AsyncRetrievalClient, RetrievalClient
from twotower.serving.client.errors import ConnectionFailedError
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import NoAnswerError

PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])


def assert_equal(answer, expected):
    np.testing.assert_array_equal(answer.item_ids, expected.item_ids)
    np.testing.assert_array_equal(answer.scores, expected.scores)
    assert answer.version == expected.version


@PROTOCOLS
def test_it_answers_like_the_blocking_client(protocol, servers, world):
    address = getattr(servers("compiled"), protocol)
    ids = world.users["user_id"].iloc[20:23].tolist()
    requests = [
        {"user_ids": ids},
        {"user_ids": iter(ids), "k": 3, "filter_seen": False},
        {"user_ids": [world.unknown_user], "features": {"city": ["東京"], "liked": [[1, 4]]}},
        {"user_ids": ids, "features": {"age": [None, 3, np.nan], "tags": [["Jazz"], None, []]}},
        {"user_ids": [], "k": 7},
    ]
    with RetrievalClient(address, protocol) as client:
        copies = [{**each, "user_ids": list(each["user_ids"])} for each in requests]
        expected = [client.recommend(**each) for each in copies]

    async def ask():
        async with AsyncRetrievalClient(address, protocol) as client:
            assert await client.ready()
            assert await client.version() == 1
            return [await client.recommend(**each) for each in copies]

    for answer, wanted in zip(asyncio.run(ask()), expected, strict=True):
        assert_equal(answer, wanted)


@PROTOCOLS
def test_tasks_may_share_a_client(protocol, servers, world):
    address = getattr(servers("compiled"), protocol)
    ids = world.users["user_id"].iloc[:30].tolist()
    with RetrievalClient(address, protocol) as client:
        expected = [client.recommend([user]) for user in ids]

    async def ask():
        async with AsyncRetrievalClient(address, protocol) as client:
            return await asyncio.gather(*(client.recommend([user]) for user in ids))

    for answer, wanted in zip(asyncio.run(ask()), expected, strict=True):
        np.testing.assert_array_equal(answer.item_ids, wanted.item_ids)
        np.testing.assert_allclose(answer.scores, wanted.scores, atol=1e-6)


@PROTOCOLS
def test_errors_are_those_of_the_blocking_client(protocol, servers):
    address = getattr(servers("compiled"), protocol)
    wrong = [
        {"k": 0},
        {"k": "10"},
        {"features": {"zip": [1]}},
        {"features": {"age": [1.5]}},
        {"features": {"tags": [["a"] * 4097]}},
        {"user_ids": 5},
    ]
    messages = []
    with RetrievalClient(address, protocol) as client:
        for each in wrong:
            with pytest.raises(ServingError) as raised:
                client.recommend(**{"user_ids": [5], **each})
            messages.append(str(raised.value))

    async def ask():
        async with AsyncRetrievalClient(address, protocol) as client:
            for each, message in zip(wrong, messages, strict=True):
                with pytest.raises(ServingError) as raised:
                    await client.recommend(**{"user_ids": [5], **each})
                assert str(raised.value) == message
            assert (await client.recommend([5])).item_ids.shape == (1, 10)

    asyncio.run(ask())
    with pytest.raises(ServingError, match="protocol is 'ftp'"):
        AsyncRetrievalClient(address, "ftp")


@PROTOCOLS
def test_a_server_that_never_answers_is_given_up(protocol):
    async def ask(address):
        async with AsyncRetrievalClient(address, protocol, timeout=0.5) as client:
            start = time.monotonic()
            with pytest.raises(NoAnswerError, match=address) as raised:
                await client.recommend([1])
            assert not isinstance(raised.value, ConnectionFailedError)
            assert 0.4 < time.monotonic() - start < 5
            assert not await client.ready()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        asyncio.run(ask(f"127.0.0.1:{silent.getsockname()[1]}"))


@PROTOCOLS
def test_nobody_there(protocol):
    async def ask(address):
        async with AsyncRetrievalClient(address, protocol, timeout=2.0) as client:
            assert not await client.ready()
            with pytest.raises(ConnectionFailedError, match=address):
                await client.recommend([1])

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    asyncio.run(ask(address))


@PROTOCOLS
def test_a_lost_connection_is_retried(protocol, servers, flaky_proxy):
    target = getattr(servers("compiled"), protocol)
    with RetrievalClient(target, protocol) as client:
        expected = client.recommend([5])

    async def ask(failures, retries):
        address = flaky_proxy(target, failures).address
        async with AsyncRetrievalClient(address, protocol, retries=retries) as client:
            return await client.recommend([5])

    assert_equal(asyncio.run(ask(failures=1, retries=2)), expected)
    with pytest.raises(ConnectionFailedError):
        asyncio.run(ask(failures=9, retries=0))


def test_an_answer_is_not_retried(servers, monkeypatch):
    calls = []

    async def infer(*arguments):
        calls.append(arguments)
        raise InferenceServerException("no", "400")

    async def ask():
        async with AsyncRetrievalClient(servers("compiled").http) as client:
            monkeypatch.setattr(client._service, "infer", infer)
            with pytest.raises(ServingError, match="no"):
                await client.recommend([5])

    asyncio.run(ask())
    assert len(calls) == 1
