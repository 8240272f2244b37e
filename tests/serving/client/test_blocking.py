"""The blocking client: requests, errors, time limits and retries."""

from __future__ import annotations

import socket
import time

import numpy as np
import pandas as pd
import pytest
from tritonclient.utils import InferenceServerException

from twotower.serving.client import RetrievalClient
from twotower.serving.client.errors import ConnectionFailedError, RefusedError
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import NoAnswerError
from twotower.serving.triton.server import _answers


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_never_answers_is_given_up(protocol):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with RetrievalClient(address, protocol, timeout=0.5) as client:
            start = time.monotonic()
            with pytest.raises(ServingError, match=address):
                client.recommend([1])
            assert 0.4 < time.monotonic() - start < 5
            assert not client.ready()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_there(protocol):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with RetrievalClient(address, protocol, timeout=2.0) as client:
        assert not client.ready()
        with pytest.raises(ServingError, match=address):
            client.recommend([1])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_servers_message_reaches_the_caller(protocol, servers):
    server = servers("compiled")
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        assert client.ready()
        for asked, message in [
            ({"k": 0}, "'k' is 0; expected an integer from 1 to 400"),
            ({"k": 10**30}, "'k' is 10{30}; expected an integer of 64 bits"),
            ({"k": 0, "user_ids": []}, "'k' is 0; expected 1 or more"),
            ({"features": {"zip": []}, "user_ids": []}, "'zip' is unknown; this model takes user"),
            ({"features": {"user_id": [2]}}, "'user_id' is among the features; give"),
            ({"features": ["age"]}, "features is of type list; expected a dict"),
            ({"features": {1: [2]}}, "the name of a feature is 1; expected text"),
            ({"k": "10"}, "'k' is '10'"),
            ({"filter_seen": "yes"}, "'filter_seen' is 'yes'"),
            ({"features": {"zip": [1]}}, "'zip'"),
            ({"features": {"age": [1, 2]}}, "'age' has 2 values, there are 1 users"),
            ({"features": {"tags": []}}, "'tags' has 0 values, there are 1 users"),
            ({"features": {"age": [1]}, "user_ids": []}, "'age' has 1 values, there are 0 users"),
            ({"user_ids": np.ma.array([5], mask=[1])}, "'user_id' holds masked; the model takes"),
            (
                {"features": {"liked": np.ma.array([[5, 6]], mask=[[0, 1]])}},
                "'liked' holds None; the model takes an integer",
            ),
            ({"features": {"age": [1.5]}}, "'age' holds 1.5; the model takes an integer"),
            ({"features": {"income": ["much"]}}, "'income' holds 'much'; the model takes a number"),
            ({"features": {"tags": ["Jazz"]}}, "'tags' holds 'Jazz'; expected a list"),
            (
                {"features": {"visits": [["often"]]}},
                "'visits' holds 'often'; the model takes a",
            ),
            (
                {"features": {"visits": [[1.0, None]]}},
                "'visits' holds None; the model",
            ),
            (
                {"features": {"visits": [[1.0, np.nan]]}},
                "'visits' holds nan; the model",
            ),
            ({"features": {"tags": [["Jazz", None]]}}, "'tags' holds None; the model takes text"),
            ({"features": {"tags": [["Jazz", "\uffff"]]}}, r"'tags' holds '\\uffff' in a list"),
            ({"features": {"liked": [[5, -(2**63)]]}}, "'liked' holds -9223372036854775808 in a"),
            ({"features": {"liked": [[4, "7"]]}}, "'liked' holds '7'; the model takes an integer"),
            (
                {"features": {"city": "Oslo"}},
                "'city' is 'Oslo'; expected a list, one",
            ),
            (
                {"features": {"city": [1.0]}},
                r"'city' holds 1.0; .* text \(BYTES\) or null",
            ),
            ({"features": {"city": [True]}}, "'city' holds True; the model takes text"),
            ({"features": {"city": ["\ud800"]}}, "'city' holds '.ud800'; the model takes text"),
            ({"features": {"city": [b"\xff"]}}, "'city', row 0: not UTF-8"),
            ({"features": {"age": [2**63]}}, "'age' holds 9223372036854775808; the model takes"),
            ({"features": {"age": [np.inf]}}, "'age' holds inf; the model takes an integer"),
            ({"features": {"tags": [["a"] * 4097]}}, "1 <= w <= 4096"),
            ({"user_ids": [2**63]}, r"'user_id' holds 9223372036854775808; .* integer \(INT64\)$"),
            ({"user_ids": ["u42"]}, "'user_id' holds 'u42'; the model takes an integer"),
            ({"user_ids": np.array([np.nan])}, "'user_id' holds nan; the model takes an integer"),
            ({"user_ids": [None]}, "'user_id' holds None; the model takes an integer"),
            ({"user_ids": np.ones((2, 2), int)}, r"'user_id' holds array\(\[1, 1\]\); the model"),
            ({"user_ids": 5}, "'user_id' is 5; expected a list, one value per user"),
            ({"user_ids": range(257)}, "256"),
        ]:
            with pytest.raises(ServingError, match=message):
                client.recommend(**{"user_ids": [5], **asked})
        assert client.recommend([5]).item_ids.shape == (1, 10)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_error_of_the_client_asks_the_server_nothing(protocol, servers, monkeypatch):
    with RetrievalClient(getattr(servers("compiled"), protocol), protocol) as client:
        client.recommend([5])

        def unavailable(model):
            raise InferenceServerException("no metadata now")

        monkeypatch.setattr(client._service, "metadata", unavailable)
        with pytest.raises(ServingError, match="1 <= w <= 4096"):  # which the server says
            client.recommend([5], features={"tags": [["a"] * 4097]})
        monkeypatch.undo()
        client.recommend([5])
        monkeypatch.setattr(client._service, "metadata", lambda: pytest.fail("asked"))
        with pytest.raises(ServingError, match=r"'age' holds 1\.5"):
            client.recommend([5], features={"age": [1.5]})
        monkeypatch.undo()
        assert client.recommend([5]).item_ids.shape == (1, 10)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_values_come_in_whatever_python_holds_them(protocol, servers, world):
    server, ids = servers("compiled"), world.users["user_id"].iloc[20:23].tolist()
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        expected = client.recommend(ids, k=3)
        for users in (
            *(tuple(ids), iter(ids), (user for user in ids), pd.Series(ids), [*map(float, ids)]),
            *(np.array(ids, dtype) for dtype in (np.uint64, np.int32, float, object)),
            *(pd.Series(ids, dtype="Int64"), np.array(ids)[:, None], dict.fromkeys(ids).keys()),
        ):
            answer = client.recommend(users, k=np.int64(3), filter_seen=np.bool_(True))
            np.testing.assert_array_equal(answer.item_ids, expected.item_ids)
        for same in (
            {"city": ["Oslo", "", "東京"]},
            {"age": [30, 1, 0]},
            {"income": [12.5, 50.0, 25.0]},
            {"liked": [[1, 4], [], [7]]},
        ):
            ((name, values),) = same.items()
            plain = client.recommend(ids, features=same)
            ways = [tuple(values), pd.Series(values), np.array(values, object)]
            if name == "city":
                ways.append([value.encode() for value in values])
                ways.append(np.array(values))
            if name == "age":
                ways += [[30.0, True, False], np.array(values, np.uint8)]
            if name == "liked":
                ways.append([np.array(row, np.int64) for row in values])
                ways.append([(1, 4), None, pd.Series([7])])
            for given in ways:
                answer = client.recommend(ids, features={name: given})
                np.testing.assert_array_equal(answer.scores, plain.scores, err_msg=f"{given!r}")
        expected = client.recommend(ids, features={"liked": [[1], [4], [7]]})
        answer = client.recommend(ids, features={"liked": np.array([[1], [4], [7]])})
        np.testing.assert_array_equal(answer.scores, expected.scores)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_null_is_null_in_every_type(protocol, servers, world):
    """Every null of Python is null to the model, and differs from a value."""
    server, user = servers("compiled"), world.users.dropna()["user_id"].iloc[:1].tolist()
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        for name, no_value in (("city", "\uffff"), ("age", -(2**63)), ("income", np.nan)):
            null, plain = (client.recommend(user, features={name: [v]}) for v in (no_value, 77))
            assert not np.array_equal(null.scores, plain.scores)
            for value in (None, np.nan, pd.NA, float("nan"), np.float32("nan")):
                answer = client.recommend(user, features={name: [value]})
                np.testing.assert_array_equal(answer.scores, null.scores, err_msg=f"{value!r}")
            for shape in ((2,), (2, 1)):
                masked = np.ma.array([77, 77], mask=[True, False]).reshape(shape)
                masked = masked.astype(str) if name == "city" else masked
                answer = client.recommend(user * 2, features={name: masked})
                np.testing.assert_array_equal(answer.scores[:1], null.scores)
                np.testing.assert_array_equal(answer.scores[1:], plain.scores)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_gets_an_answer_without_rows(protocol, servers):
    server = servers("compiled")
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        for nobody in ([], np.array([], np.int64), pd.Series([], dtype=float), iter(())):
            answer = client.recommend(nobody, k=7)
            assert (answer.item_ids.shape, answer.scores.shape) == ((0, 7), (0, 7))
            assert (answer.item_ids.dtype, answer.scores.dtype) == (np.int64, np.float32)
            assert answer.version == 1


def test_an_unknown_protocol():
    with pytest.raises(ServingError, match="protocol is 'ftp'"):
        RetrievalClient("127.0.0.1:1", "ftp")


def test_a_web_proxy_in_the_environment_is_not_asked(servers, monkeypatch):
    """Many companies set http_proxy everywhere; nothing answers at this one."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    compiled = servers("compiled")
    for protocol in ("http", "grpc"):
        address = getattr(compiled, protocol)
        with RetrievalClient(address, protocol=protocol) as client:
            assert client.ready() and client.recommend([1], k=1).item_ids.shape == (1, 1)
    assert _answers(f"http://{compiled.http}/v2/health/ready")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_lost_connection_is_retried(protocol, servers, flaky_proxy):
    target = getattr(servers("compiled"), protocol)
    with RetrievalClient(target, protocol) as client:
        expected = client.recommend([5])
    with RetrievalClient(flaky_proxy(target, 9).address, protocol, retries=0) as client:
        with pytest.raises(ConnectionFailedError, match=client.address):
            client.recommend([5])
        assert not client.ready()
    with RetrievalClient(flaky_proxy(target, 1).address, protocol) as client:
        np.testing.assert_array_equal(client.recommend([5]).item_ids, expected.item_ids)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (InferenceServerException("no", "400"), RefusedError),
        (InferenceServerException("'x' is not ready", "StatusCode.UNAVAILABLE"), NoAnswerError),
        (InferenceServerException("late", "StatusCode.DEADLINE_EXCEEDED"), NoAnswerError),
        (TimeoutError(), NoAnswerError),
    ],
)
def test_an_answer_and_a_time_out_are_not_retried(failure, error, servers, monkeypatch):
    calls = []

    def infer(*arguments):
        calls.append(arguments)
        raise failure

    with RetrievalClient(servers("compiled").http) as client:
        monkeypatch.setattr(client._service, "infer", infer)
        with pytest.raises(error) as raised:
            client.recommend([5])
    assert not isinstance(raised.value, ConnectionFailedError)
    assert len(calls) == 1


def test_a_lost_connection_is_retried_as_often_as_set_with_growing_pauses(monkeypatch):
    calls, pauses = [], []

    def metadata(model):
        calls.append(1)
        raise ConnectionResetError("lost")

    monkeypatch.setattr("time.sleep", pauses.append)
    with RetrievalClient("127.0.0.1:1", retries=3) as client:
        monkeypatch.setattr(client._service, "metadata", metadata)
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1: no connection \(lost\)"):
            client.version()
    assert len(calls) == 4
    assert pauses == [0.2, 0.4, 0.8]
