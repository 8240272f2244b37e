"""The served model, asked over HTTP and gRPC, against brute force; and what it refuses."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from twotower.serving.client import RetrievalClient


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    with RetrievalClient(getattr(server, request.param), request.param) as client:
        yield client


def columns(answer):
    return answer.item_ids, answer.scores


def test_answers_equal_brute_force(world, client, assert_same):
    users = [*world.users["user_id"], world.unknown_user]
    answer = client.recommend(users, k=10)
    assert_same(columns(answer), world.brute_force(users, 10))
    assert (answer.item_ids.dtype, answer.scores.dtype) == (np.int64, np.float32)


def test_a_batch_answers_like_its_rows(world, client, assert_same):
    users = world.users["user_id"].iloc[:64].tolist()
    alone = [client.recommend([user], k=20) for user in users]
    items, scores = (np.concatenate(part) for part in zip(*map(columns, alone), strict=True))
    assert_same(columns(client.recommend(users, k=20)), (items, scores))


def test_seen_items_are_kept_on_request(world, client, assert_same):
    users = world.users["user_id"].iloc[:9].tolist()
    answer = client.recommend(users, k=300, filter_seen=False)
    assert_same(columns(answer), world.brute_force(users, 300, filter_seen=False))
    assert (np.sort(answer.item_ids) == np.sort(world.item_ids)).all()


def test_an_exhausted_catalogue_ends_in_fillers(world, client, assert_same):
    users = [world.exhausted_user, world.sated_user, int(world.users["user_id"][0])]
    answer = client.recommend(users, k=400)
    assert (answer.item_ids >= 0).sum(axis=1)[:2].tolist() == [3, 0]
    assert (np.isneginf(answer.scores) == (answer.item_ids == -1)).all()
    assert_same(columns(answer), world.brute_force(users, 400))


def test_features_of_the_request_override_the_known_ones(world, client, assert_same):
    users = world.users["user_id"].iloc[20:26].tolist()
    features = {
        "city": ["東京", "Oslo", "", "nowhere", "Oslo\0", "Zürich"],
        "age": [18, 59, -(2**62), 30, 2**63 - 1, 31],
        "income": [12.5, np.nan, 50.0, -1.0, 1e300, 25.0],
        "tags": [["Jazz"], [], ["電子", "nope"], None, ["Jazz", ""] * 4, ["a\0", "a\0"]],
        "visits": [[1.0, 2.0, -7.0], [2.0**53], [], [0.5], [-7.0, -7.0], None],
        "spend": [0.0, np.nan, -1e9, 1e9, 20.0, 1e-300],
        "liked": [[1, 4, 7], [], [2], [*range(1, 901, 3)], [7, 7], None],
    }
    plain = columns(client.recommend(users))
    for asked in (features, *({name: values} for name, values in features.items())):
        answer = columns(client.recommend(users, features=asked))
        assert_same(answer, world.brute_force(users, 10, features=asked))
        assert not np.array_equal(answer[0], plain[0])


def test_unknown_users_go_through_the_out_of_vocabulary_embedding(world, client, assert_same):
    strangers = [world.unknown_user, -(2**63), 2**63 - 1, world.huge_user + 1]
    answer = columns(client.recommend(strangers))
    assert_same(answer, world.brute_force(strangers, 10))
    assert (answer[0] == answer[0][0]).all()
    features = {"city": ["東京"], "age": [30], "income": [25.0], "tags": [["Jazz"]], "spend": [9.0]}
    known_tastes = columns(client.recommend([world.unknown_user], features=features))
    assert_same(known_tastes, world.brute_force([world.unknown_user], 10, features=features))
    # In the user table, but never in the training data: features known, the id is not.
    cold = columns(client.recommend([world.cold_user]))
    assert_same(cold, world.brute_force([world.cold_user], 10))


def test_lists_of_different_widths_may_be_asked_at_once(world, server, assert_same):
    users = world.users["user_id"].iloc[:32].tolist()
    tags = [["Jazz", "電子", "new", ""][: n % 5] * (1 + n) for n in range(32)]

    def ask(row):
        with RetrievalClient(server.http) as client:
            return columns(client.recommend(users[row : row + 1], features={"tags": [tags[row]]}))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(32)))
    together = tuple(np.concatenate(part) for part in zip(*answers, strict=True))
    assert_same(together, world.brute_force(users, 10, features={"tags": tags}))


def test_lists_in_json_are_filled_up_at_the_end(world, server, post, assert_same):
    known = world.users["user_id"].iloc[20:23].tolist()
    values = ["Jazz", "", "\uffff", "\uffff", "電子", "\uffff"]
    tags = feature("tags", "BYTES", *values, shape=[3, 2])
    status, text = post(server.http, {"inputs": [ids(*known), tags], "parameters": {"k": 5}})
    assert status == 200, text
    answer = (np.reshape(output["data"], (3, 5)) for output in json.loads(text)["outputs"])
    asked = {"tags": [["Jazz", ""], [], ["電子"]]}
    assert_same(tuple(answer), world.brute_force(known, 5, features=asked))


@pytest.mark.parametrize("stored", [False, True])
def test_items_that_a_request_tells_are_not_recommended_back(stored, world, client, assert_same):
    """Nor those beyond what the tower reads of a history; what was seen before stays hidden."""
    user = int(world.users["user_id"][0]) if stored else world.unknown_user
    tastes = {"city": ["Oslo"], "age": [30], "income": [25.0], "spend": [9.0], "visits": [[1.0]]}
    features = {**tastes, "liked": [[*world.cold_history, 2]]}  # 2 is no item
    answer = columns(client.recommend([user], k=400, features=features))
    assert not np.isin(world.cold_history, answer[0]).any()
    assert_same(answer, world.brute_force([user], 400, features=features))
    kept = columns(client.recommend([user], k=400, filter_seen=False, features=features))
    assert np.isin(world.cold_history, kept[0]).all()


def test_a_guest_gets_what_a_user_with_this_history_gets(world, client):
    """The cold user, unknown to the towers as well, has seen and liked what the guest tells."""
    tastes = {"city": ["Oslo"], "age": [30], "income": [25.0], "spend": [9.0]}
    tastes |= {"tags": [["Jazz"]], "visits": [[1.0]]}
    given = {**tastes, "liked": [world.cold_history]}
    guest = client.recommend([world.unknown_user], k=300, features=given)
    user = client.recommend([world.cold_user], k=300, features=tastes)
    assert guest.item_ids.tolist() == user.item_ids.tolist()
    assert guest.scores.tolist() == user.scores.tolist()
    assert not np.isin(guest.item_ids, world.cold_history).any()
    assert (guest.item_ids >= 0).sum() == 290


@pytest.mark.parametrize("name", ["city", "age", "income", "spend", "tags", "visits", "liked"])
def test_a_null_is_answered_as_one_in_every_type(name, world, client, assert_same):
    user = world.users.dropna()["user_id"].iloc[:1].tolist()
    asked = {name: [None]}
    expected = world.brute_force(user, 10, features=asked)
    assert_same(columns(client.recommend(user, features=asked)), expected)


def test_a_null_in_json(world, server, post, assert_same):
    """By the values that stand for it: Triton's JSON takes NaN, but no null."""
    user = world.users.dropna()["user_id"].iloc[:1].tolist()
    given = [feature("age", "INT64", -(2**63)), feature("city", "BYTES", "\uffff")]
    given.append(feature("income", "FP64", np.nan))
    status, text = post(server.http, {"inputs": [ids(*user), *given], "parameters": {"k": 5}})
    assert status == 200, text
    answer = tuple(np.array([output["data"]]) for output in json.loads(text)["outputs"])
    asked = {"age": [None], "city": [None], "income": [None]}
    assert_same(answer, world.brute_force(user, 5, features=asked))


def test_k_has_a_default(server, post):
    status, text = post(server.http, {"inputs": [ids(5)]})
    assert status == 200
    assert [output["shape"] for output in json.loads(text)["outputs"]] == [[1, 10], [1, 10]]


def ids(*values, **changes):
    tensor = {"name": "user_id", "datatype": "INT64", "shape": [len(values), 1], "data": values}
    return {**tensor, **changes}


def feature(name, datatype, *values, **changes):
    return ids(*values, name=name, datatype=datatype, **changes)


def binary(name, datatype, content):
    tensor = ids(name=name, datatype=datatype, shape=[1, 1])
    del tensor["data"]
    return {**tensor, "parameters": {"binary_data_size": len(content)}}


NOT_UTF8 = struct.pack("<I", 1) + b"\xff"
INFINITE = struct.pack("<d", np.inf)
WIDE = {"shape": [1, 4097]}

# name: (body, what the message must name, bytes after the JSON)
BAD_REQUESTS = {
    "dtype": ({"inputs": [ids(5, datatype="INT32")]}, "user_id"),
    "dtype of a feature": ({"inputs": [ids(5), feature("age", "FP64", 1.0)]}, "age"),
    "rank": ({"inputs": [ids(5, shape=[1])]}, "user_id"),
    "width": ({"inputs": [ids(5, 6, shape=[1, 2])]}, "user_id"),
    "missing input": ({"inputs": [feature("age", "INT64", 30)]}, "user_id"),
    "no input": ({"inputs": []}, "request has 0 inputs"),
    "unknown input": ({"inputs": [ids(5), feature("zip", "INT64", 1)]}, "zip"),
    "rows differ": ({"inputs": [ids(5), feature("age", "INT64", 1, 2)]}, "batch size"),
    "empty batch": ({"inputs": [ids()]}, "user_id"),
    "batch over the limit": ({"inputs": [ids(*range(257))]}, "256"),
    "too few bytes": ({"inputs": [binary("user_id", "INT64", b"1234")]}, "user_id", b"1234"),
    "k = 0": ({"inputs": [ids(5)], "parameters": {"k": 0}}, "'k' is 0;"),
    "k negative": ({"inputs": [ids(5)], "parameters": {"k": -3}}, "'k' is -3;"),
    "k too large": ({"inputs": [ids(5)], "parameters": {"k": 401}}, "from 1 to 400"),
    "k string": ({"inputs": [ids(5)], "parameters": {"k": "10"}}, "'k' is '10';"),
    "k float": ({"inputs": [ids(5)], "parameters": {"k": 2.5}}, "'k' is 2.5;"),
    "k boolean": ({"inputs": [ids(5)], "parameters": {"k": True}}, "'k' is True;"),
    "k list": ({"inputs": [ids(5)], "parameters": {"k": [10]}}, "'k'"),
    "filter_seen": ({"inputs": [ids(5)], "parameters": {"filter_seen": "yes"}}, "'filter_seen'"),
    "unknown parameter": ({"inputs": [ids(5)], "parameters": {"top": 3}}, "'top'"),
    "infinite": (
        {"inputs": [ids(5), binary("income", "FP64", INFINITE)]},
        "input 'income', row 0: infinite",
        INFINITE,
    ),
    "not UTF-8": (
        {"inputs": [ids(5), binary("city", "BYTES", NOT_UTF8)]},
        "input 'city', row 0: not UTF-8",
        NOT_UTF8,
    ),
    "infinite in a list": (
        {"inputs": [ids(5), binary("visits", "FP64", INFINITE)]},
        "input 'visits', row 0: infinite",
        INFINITE,
    ),
    "number out of range": (
        {"inputs": [ids(5), feature("spend", "FP64", -1e300)]},
        "input 'spend', row 0: -1e+300; expected",
    ),
    "rank of a list": ({"inputs": [ids(5), feature("tags", "BYTES", "a", shape=[1])]}, "tags"),
    "depth of a list": (
        {"inputs": [ids(5), feature("tags", "BYTES", "a", shape=[1, 1, 1])]},
        "tags",
    ),
    "empty list": ({"inputs": [ids(5), feature("tags", "BYTES", shape=[1, 0])]}, "tags"),
    "list over the limit": (
        {"inputs": [ids(5), feature("tags", "BYTES", *["a"] * 4097, **WIDE)]},
        "'tags' has shape [1, 4097]; expected [n, w], 1 <= w <= 4096",
    ),
    "dtype of a list": ({"inputs": [ids(5), feature("visits", "INT64", 1)]}, "visits"),
    "rows of a list": (
        {"inputs": [ids(5), feature("tags", "BYTES", "a", "b", shape=[2, 1])]},
        "batch size",
    ),
    "padding first": (
        {"inputs": [ids(5), feature("tags", "BYTES", "\uffff", "a", shape=[1, 2])]},
        "input 'tags', row 0: a value after the padding",
    ),
    "list not UTF-8": (
        {"inputs": [ids(5), binary("tags", "BYTES", NOT_UTF8)]},
        "input 'tags', row 0: not UTF-8",
        NOT_UTF8,
    ),
    "unknown output": ({"inputs": [ids(5)], "outputs": [{"name": "title"}]}, "title"),
}
# What Triton's HTTP front end cannot read as an inference request it answers itself, with 500.
FRONT_END = {
    "too few values": ({"inputs": [ids(5, shape=[2, 1])]}, "data"),
    "malformed JSON": (b'{"inputs": [', "JSON"),
    "no inputs": ({}, "inputs"),
    "text for a number": ({"inputs": [ids("five")]}, "data"),
    "negative shape": ({"inputs": [ids(5, shape=[-1, 1])]}, "shape"),
    "null": ({"inputs": [ids(5), feature("age", "INT64", None)]}, "data"),
    "id too large": ({"inputs": [ids(10**30)]}, "data"),
}


@pytest.mark.parametrize("name", [*BAD_REQUESTS, *FRONT_END])
def test_a_bad_request_is_answered_by_its_culprit(name, world, server, post, assert_same):
    body, culprit, *content = {**BAD_REQUESTS, **FRONT_END}[name]
    status, text = post(server.http, body, *content)
    assert 400 <= status < 500 or (name in FRONT_END and status == 500), text
    assert culprit in json.loads(text)["error"]
    assert "Traceback" not in text
    assert ".py" not in text
    with RetrievalClient(server.http) as client:
        assert client.ready()
        user = int(world.users["user_id"][0])
        assert_same(columns(client.recommend([user])), world.brute_force([user], 10))


def test_the_compiled_model_needs_no_training_libraries(servers):
    """By what is mapped into the model's process; the merlin runtime shows the test can fail."""
    heavy = ("tensorflow", "pandas", "nvtabular", "numba", "merlin")
    for runtime in ("compiled", "merlin"):
        (model,) = psutil.Process(servers(runtime).pid).children()
        mapped = {mapping.path for mapping in model.memory_maps()}
        loaded = {name for name in heavy if any(f"site-packages/{name}" in m for m in mapped)}
        assert any("onnxruntime" in path or "tensorflow" in path for path in mapped)
        assert loaded >= {"tensorflow", "pandas"} if runtime == "merlin" else not loaded
