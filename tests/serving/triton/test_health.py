"""What `twotower doctor --server` finds out about a server."""

from __future__ import annotations

import re
import time

import pytest

from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.health import _loopback, _memory, check_server
from twotower.serving.triton.server import TritonServer


def checks(server):
    return {check.name: check for check in check_server(server.http, server.metrics, server.pid)}


@pytest.fixture
def own(repositories, tmp_path):
    """A server of which nobody else has asked anything."""
    with TritonServer(repositories["compiled"], log=tmp_path / "log") as server:
        yield server


def test_a_server_of_another_container_has_no_process_here():
    check = _memory(pid=2**22 + 1)  # larger than any process id
    assert check.ok and check.value.startswith("unknown")


def test_a_sound_server(own, world):
    with RetrievalClient(own.http) as client:
        client.recommend([*world.users["user_id"].iloc[:5].tolist(), world.unknown_user])
        with pytest.raises(ServingError):
            client.recommend([1], k=0)
    time.sleep(1.5)  # counts are published once per second
    found = checks(own)
    assert all(check.ok for check in found.values()), found
    assert found["requests"].value == "1 answered, 1 refused"
    assert found["users"].value == "6, 1 of them unknown"
    assert "FaissTopK" in found["ms per batch"].value
    assert found["answers"].value.startswith("version 1, ")
    assert found["model control"].value == "only with the server's key"
    assert "CVE" in found["Triton"].advice  # the wheel's
    megabytes = [int(number) for number in re.findall(r"(\d+) MB", found["memory"].value)]
    assert len(megabytes) == 2
    assert min(megabytes) > 10


@pytest.mark.parametrize(
    "arguments, ok, value",
    [
        (["--model-control-mode=explicit", "--load-model=retrieval"], False, "open to everyone"),
        (["--model-control-mode=none"], True, "off"),
    ],
)
def test_model_control_without_a_key(arguments, ok, value, repositories, tmp_path, monkeypatch):
    monkeypatch.setattr(TritonServer, "_control", lambda self: arguments)
    with TritonServer(repositories["compiled"], log=tmp_path / "log") as server:
        found = checks(server)["model control"]
    assert (found.ok, found.value) == (ok, value)


def test_a_server_that_is_gone(own):
    http, metrics, pid = own.http, own.metrics, own.pid
    own.stop()
    found = {check.name: check for check in check_server(http, metrics, pid)}
    assert not found["live"].ok
    assert "refused" in found["live"].value


@pytest.mark.parametrize(
    "address, ok", [("localhost:1", True), ("127.0.0.2:1", True), ("0.0.0.0:1", False)]
)
def test_names_are_resolved_to_see_whether_others_reach_the_server(address, ok):
    assert _loopback(address).ok is ok
