"""A running server loads another version: who may ask for it, and what the clients see of it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from twotower.serving.client import RetrievalClient
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import KEY_HEADER, ModelControl
from twotower.serving.triton.installation import Triton
from twotower.serving.triton.server import TritonServer

GRPC_KEY = f"triton-grpc-protocol-{KEY_HEADER}"


@pytest.fixture
def repository(copy, other_world, export) -> ModelRepository:
    """Version 1 of the world, published, and version 2 of the other one."""
    return export(other_world, copy)


@pytest.fixture
def server(repository, tmp_path):
    with TritonServer(repository.root, log=tmp_path / "log") as server:
        yield server


@pytest.fixture
def control(server) -> ModelControl:
    return ModelControl(server.http, server.key, timeout=60)


def version(server) -> int:
    """The version that answers, by both protocols."""
    answers = set()
    for protocol in ("http", "grpc"):
        with RetrievalClient(getattr(server, protocol), protocol) as client:
            answers |= {client.recommend([404]).version, client.version()}
    (answer,) = answers
    return answer


def test_answers_name_the_version_and_are_its_own(
    repository, server, control, world, other_world, assert_same
):
    for number, expected in ((1, world), (2, other_world)):
        repository.publish(number, control)
        for protocol in ("http", "grpc"):
            with RetrievalClient(getattr(server, protocol), protocol) as client:
                answer = client.recommend([31, 404], k=9)
                assert (answer.version, client.version()) == (number, number)
                assert_same((answer.item_ids, answer.scores), expected.brute_force([31, 404], 9))
    assert repository.rollback(control) == 1
    assert version(server) == repository.published == 1


@pytest.mark.slow
def test_a_client_notices_that_the_inputs_have_changed(
    repository, server, control, world, other_world, assert_same
):
    def ask(client, age: float, expected):
        """With iterators, which can be read only once."""
        users, ages = iter([404, 405]), iter([age, 30])
        answer = client.recommend(users, k=9, features={"age": ages, "liked": map(iter, [[], []])})
        rows = expected.brute_force([404, 405], 9, features={"age": [int(age), 30]})
        assert_same((answer.item_ids, answer.scores), rows)

    for protocol in ("http", "grpc"):
        with RetrievalClient(getattr(server, protocol), protocol) as client:
            ask(client, 25, world)
            with pytest.raises(ServingError, match="INT64") as error:
                client.recommend([404], features={"age": [25.5]})
            assert "have changed" not in str(error.value)
            ask(client, 25, world)
            repository.publish(2, control)  # ages are FP64
            ask(client, 25, other_world)  # refused as INT64, then sent again
            assert client.recommend([404], features={"age": [25.5]}).version == 2
            repository.publish(1, control)
            changed = r"inputs have changed: age was FP64, is INT64 in version 1"
            with pytest.raises(ServingError, match=changed):
                client.recommend([404], features={"age": [25.5]})
            repository.publish(2, control)
            assert client.recommend([404]).version == 2  # without the input that has changed
            assert client.recommend([404], features={"age": [25.5]}).version == 2
            repository.publish(1, control)
            with pytest.raises(ServingError, match="'age' holds 'old'; the model takes a number"):
                client.recommend([404], features={"age": ["old"]})
            ask(client, 25, world)  # with the inputs read again


def break_code(folder, vouch) -> str:
    (folder / "model.py").write_text("raise ValueError('no such model in ' + __file__)\n")
    vouch(folder)
    code = re.escape(str(folder / "model.py"))
    return rf"2: not loaded: .*ValueError: no such model in {code}; the version published before is"


def break_config(folder, vouch) -> str:
    (folder / "config.pbtxt").write_text("no config {\n")
    vouch(folder)
    return r"2: not loaded: .*failed to poll from model repository; the version published before is"


def damage(folder, vouch) -> str:
    (folder / "plan.json").write_text((folder / "plan.json").read_text() + " ")
    return r"2/plan\.json: differs from the file in the manifest"


def plant(folder, vouch) -> str:
    (folder / "ensemble.pkl").write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")
    return r"2/ensemble\.pkl: not listed by the manifest"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(break_code, marks=pytest.mark.slow),
        pytest.param(break_config, marks=pytest.mark.slow),
        pytest.param(damage, marks=pytest.mark.slow),
        plant,
    ],
)
def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(
    spoil, repository, server, control, vouch
):
    model = repository.root / "retrieval"
    message = spoil(model / "2", vouch)
    config = (model / "config.pbtxt").read_bytes()
    with pytest.raises(ServingError, match=message) as raised:
        repository.publish(2, control)
    assert "At:" not in str(raised.value) and "\n" not in str(raised.value)
    assert (model / "config.pbtxt").read_bytes() == config
    assert repository.published == 1 and repository.mend() == []
    assert version(server) == 1
    shutil.copytree(model / "1", model / "3")
    assert repository.publish(3, control) == 3
    assert version(server) == 3


@pytest.mark.slow
def test_a_version_that_loads_after_it_was_undone_does_not_stay(repository, server, vouch):
    """Triton loads one version after the other, even if no client waits for it any more."""
    folder = repository.root / "retrieval" / "2"
    code = (folder / "model.py").read_text()
    (folder / "model.py").write_text("import time\ntime.sleep(3)\n" + code)
    vouch(folder)
    message = r"2: not loaded: .* may still change to version 2 .*: restart `twotower serve`"
    with pytest.raises(ServingError, match=message):
        repository.publish(2, ModelControl(server.http, server.key, timeout=0.2))
    assert repository.published == 1
    deadline = time.monotonic() + 30
    while "unloaded 'retrieval' version 2" not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert version(server) == 1

    message = r"2: not loaded: .*limit 2 s\); the version published before is .* still answers"
    with pytest.raises(ServingError, match=message):
        repository.publish(2, ModelControl(server.http, server.key, timeout=2))
    assert repository.published == version(server) == 1
    assert server.log.read_text().count("loading: retrieval:2") == 2


def ask(address: str, path: str, body: dict | None, headers: dict) -> int:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}/v2/{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_without_the_key_http_does_nothing_but_answer(server):
    region = {"key": "/x", "offset": 0, "byte_size": 8}
    for path, body in [
        ("repository/index", {}),
        ("repository/models/retrieval/load", {}),
        ("repository/models/retrieval/unload", {}),
        ("repository/models/..%2F..%2Fetc/load", {}),
        ("systemsharedmemory/region/x/register", region),
        ("systemsharedmemory/status", None),
        ("cudasharedmemory/region/x/register", region),
        ("logging", {"log_file": "/tmp/planted"}),
        ("logging", None),
        ("trace/setting", {"trace_file": "/tmp/planted"}),
        ("models/retrieval/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ]:
        for headers in ({}, {KEY_HEADER: ""}, {KEY_HEADER: "0" * 32}):
            assert ask(server.http, path, body, headers) == 403, (path, headers)
    assert ask(server.http, "repository/index", {}, {KEY_HEADER: server.key}) == 200
    assert version(server) == 1


def test_without_the_key_grpc_does_nothing_but_answer(server):
    with grpc.InferenceServerClient(server.grpc) as client:
        for call in (
            lambda **key: client.get_model_repository_index(**key),
            lambda **key: client.load_model("retrieval", **key),
            lambda **key: client.unload_model("retrieval", **key),
            lambda **key: client.register_system_shared_memory("x", "/x", 8, **key),
            lambda **key: client.get_system_shared_memory_status(**key),
            lambda **key: client.register_cuda_shared_memory("x", b"", 0, 8, **key),
            lambda **key: client.update_log_settings({"log_file": "/tmp/planted"}, **key),
            lambda **key: client.get_log_settings(**key),
            lambda **key: client.update_trace_settings(settings={"trace_file": "/x"}, **key),
        ):
            for key in ({}, {"headers": {GRPC_KEY: "0" * 32}}):
                with pytest.raises(InferenceServerException, match="restricted"):
                    call(**key)
        assert client.get_model_repository_index(headers={GRPC_KEY: server.key}).models
    assert version(server) == 1


def test_every_start_has_a_key_of_its_own(server, repository, tmp_path):
    assert len(server.key) == 32
    other = TritonServer(repository.root, log=tmp_path / "other")
    assert other.key is None
    with other:
        assert other.key != server.key
        with pytest.raises(ServingError, match="restricted"):
            ModelControl(other.http, server.key, timeout=10).load()


@pytest.mark.slow
def test_a_triton_without_keys_loads_nothing_after_its_start(
    repository, tmp_path, monkeypatch, world
):
    monkeypatch.setattr(Triton, "restricts_http", False)
    with TritonServer(repository.root, log=tmp_path / "log") as server:
        assert server.key is None
        repository.publish(2)
        with pytest.raises(ServingError, match=r"not allowed|explicit"):
            ModelControl(server.http, "", timeout=10).load()
        assert version(server) == 1
    with TritonServer(repository.root, log=tmp_path / "log") as server:
        assert version(server) == 2


@pytest.mark.parametrize(
    "found, restricts",
    [("2.35.0", False), ("2.40.0", True), ("3.0.0", True), ("unknown", False)],
)
def test_the_version_says_whether_keys_are_possible(found, restricts, tmp_path):
    assert Triton(tmp_path, found).restricts_http is restricts
    assert Triton(tmp_path, "nvidia-pytriton 0.7.0").restricts_http


def test_nobody_there_is_reported():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServingError, match=f"{address}: no answer .*limit 2 s"):
        ModelControl(address, "", timeout=2).load()


def test_publishing_under_load_loses_no_request_and_mixes_no_versions(
    repository, server, control, world, other_world, assert_same
):
    """16 clients ask while the two versions take turns 8 times; each answer names its own."""
    users = [*world.users["user_id"].iloc[:40], world.unknown_user]
    expected = {n: each.brute_force(users, 10) for n, each in ((1, world), (2, other_world))}
    seen, failures, over = Counter(), [], threading.Event()

    def ask_on(protocol: str, seed: int) -> None:
        draw, last = np.random.default_rng(seed), None
        with RetrievalClient(getattr(server, protocol), protocol, timeout=30) as client:
            while not over.is_set():
                rows = draw.integers(0, len(users), 3)
                try:
                    answer = client.recommend([users[row] for row in rows], k=10)
                    ids, scores = (part[rows] for part in expected[answer.version])
                    assert_same((answer.item_ids, answer.scores), (ids, scores))
                except Exception as error:
                    failures.append(error)
                    return
                seen["answers"] += 1
                seen["changes"] += last is not None and last != answer.version
                last = answer.version

    clients = [
        threading.Thread(target=ask_on, args=(protocol, seed))
        for seed, protocol in enumerate(["http", "grpc"] * 8)
    ]
    for client in clients:
        client.start()
    try:
        for number in (2, 1) * 4:
            repository.publish(number, control)
    finally:
        over.set()
        for client in clients:
            client.join()
    assert not failures, failures[0]
    assert seen["changes"] >= 16, seen  # in the clients' own eyes, of whom there are 16
    assert seen["answers"] > 100
    assert version(server) == repository.published == 1
    print(f"8 publishes, {seen['answers']} answers, {len(failures)} failed or mixed")
