"""The client on its own: errors, time limits, and how little it imports."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import serving
from serving.client import RetrievalClient
from serving.errors import ServingError
from serving.server import _answers

ROOT = str(Path(serving.__file__).parents[1])


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
            ({"k": "10"}, "'k' is '10'"),
            ({"filter_seen": "yes"}, "'filter_seen' is 'yes'"),
            ({"features": {"zip": [1]}}, "'zip'"),
            ({"features": {"age": [1, 2]}}, "batch size"),
            ({"features": {"age": [1.5]}}, "'age' cannot be sent as INT64"),
            ({"features": {"income": ["much"]}}, "'income' cannot be sent as FP64"),
            ({"features": {"tags": ["Jazz"]}}, "'tags' holds 'Jazz'; expected a list"),
            ({"features": {"visits": [["often"]]}}, "'visits' cannot be sent as FP64"),
            ({"features": {"tags": [["a"] * 4097]}}, "1 <= w <= 4096"),
            ({"user_ids": [2**63]}, "'user_id' cannot be sent as INT64"),
            ({"user_ids": []}, "user_id"),
            ({"user_ids": range(257)}, "256"),
        ]:
            with pytest.raises(ServingError, match=message):
                client.recommend(**{"user_ids": [5], **asked})
        assert client.recommend([5]).item_ids.shape == (1, 10)


def test_an_unknown_protocol():
    with pytest.raises(ServingError, match="protocol is 'ftp'"):
        RetrievalClient("127.0.0.1:1", "ftp")


@pytest.mark.parametrize(
    "module", ["client", "server", "config", "index", "doctor", "versions", "control"]
)
def test_nothing_heavy_is_imported(module):
    script = (
        f"import sys; sys.path.insert(0, {ROOT!r}); import serving.{module}; "
        "print([m for m in ('tensorflow', 'merlin', 'nvtabular', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_web_proxy_in_the_environment_is_not_asked(servers, monkeypatch):
    """Many offices set http_proxy for all; nothing answers at this one."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    compiled = servers("compiled")
    for protocol in ("http", "grpc"):
        address = getattr(compiled, protocol)
        with RetrievalClient(address, protocol=protocol) as client:
            assert client.ready() and client.recommend([1], k=1).item_ids.shape == (1, 1)
    assert _answers(f"http://{compiled.http}/v2/health/ready")
