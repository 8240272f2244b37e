"""The life of the server process: readable failures, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import serving
from serving.client import RetrievalClient
from serving.errors import ServingError
from serving.server import TritonServer, failure

ROOT = str(Path(serving.__file__).parents[1])


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    """Whether all processes end in time; a zombie that nobody reaps has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[int]:
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def shared_memory(pid: int) -> list[Path]:
    """The files in /dev/shm that a process has mapped."""
    mapped = (Path(mapping.path) for mapping in psutil.Process(pid).memory_maps())
    return [path for path in mapped if path.is_relative_to("/dev/shm")]


def test_stops_without_leaving_a_process_or_shared_memory(repositories, tmp_path):
    with TritonServer(repositories["compiled"], log=tmp_path / "log") as server:
        pids = family(server.pid)
        assert len(pids) == 2
        shared = shared_memory(server.pid)
        assert shared
        for address in (server.http, server.grpc, server.metrics):
            assert address.startswith("127.0.0.1:")
        addresses = {
            connection.laddr.ip
            for connection in psutil.Process(server.pid).connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert server.pid is None
    assert gone(pids, seconds=0.5)
    assert not any(path.exists() for path in shared)


def test_stops_when_the_body_raises(repositories, tmp_path):
    with (
        pytest.raises(RuntimeError, match="in the body"),
        TritonServer(repositories["compiled"], log=tmp_path / "log") as server,
    ):
        pids = family(server.pid)
        raise RuntimeError("in the body")
    assert gone(pids, seconds=0.5)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_ends_with_the_process_that_started_it(name, repositories, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from serving.server import TritonServer\n"
        f"with TritonServer(Path({str(repositories['compiled'])!r}), log=Path('log')) as server:\n"
        "    print(server.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r})\n" + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a killed parent cannot clean up
        text=True,
    )
    try:
        pids = family(int(parent.stdout.readline()))
        shared = shared_memory(pids[0])
        parent.send_signal(getattr(signal, name))
        parent.wait(30)
        assert gone(pids)
        assert shared
        assert not any(path.exists() for path in shared)
    finally:
        parent.kill()


def test_a_server_that_dies_says_so_and_can_start_again(repositories, tmp_path, world):
    server = TritonServer(repositories["compiled"], log=tmp_path / "log").start()
    try:
        with pytest.raises(ServingError, match="already runs"):
            server.start()
        assert server.ended() is None
        pids, shared = family(server.pid), shared_memory(server.pid)
        for pid in pids:
            psutil.Process(pid).kill()
        assert gone(pids[:1])
        assert "Triton ended by SIGKILL" in server.ended()
        server.stop()
        assert not any(path.exists() for path in shared)
        server.start()
        with RetrievalClient(server.http) as client:
            assert client.recommend([world.unknown_user]).item_ids.shape == (1, 10)
    finally:
        server.stop()
    server.stop()  # twice is once


def spoil_config(repository: Path) -> None:
    (repository / "retrieval" / "config.pbtxt").write_text("no config {")


def spoil_code(repository: Path) -> None:
    (repository / "retrieval" / "1" / "model.py").write_text("raise ValueError('spoilt')")


def remove_code(repository: Path) -> None:
    (repository / "retrieval" / "1" / "model.py").unlink()


def remove_manifest(repository: Path) -> None:
    (repository / "retrieval" / "1" / "manifest.json").unlink()


def remove_model(repository: Path) -> None:
    shutil.rmtree(repository / "retrieval")


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (spoil_config, r"failed to read text proto from .*config\.pbtxt"),
        (spoil_code, "ValueError: spoilt"),
        (remove_code, r"retrieval: no version with a model\.py"),
        (remove_manifest, r"manifest\.json: missing or unreadable"),
        (remove_model, "no model repository"),
    ],
)
def test_a_broken_repository_gives_a_readable_reason(spoil, reason, repositories, tmp_path):
    repository = shutil.copytree(repositories["compiled"], tmp_path / "repository")
    spoil(repository)
    with pytest.raises(ServingError, match=reason) as raised:
        TritonServer(repository, log=tmp_path / "log").start()
    assert "At:" not in str(raised.value)


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_in_use_is_named_before_anything_starts(name, repositories, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = [child.name() for child in psutil.Process().children()]
        message = rf"port {port} is in use on 127\.0\.0\.1; set serving\.{name} "
        with pytest.raises(ServingError, match=message):
            TritonServer(repositories["compiled"], log=tmp_path / "log", **{name: port}).start()
    assert not (tmp_path / "log").exists()
    started = [child.name() for child in psutil.Process().children()]
    assert started == before


def test_two_services_on_one_port_and_a_foreign_host_are_refused(repositories, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServingError, match=rf"port {port} is in use .* serving\.grpc_port"):
        TritonServer(repositories["compiled"], log=tmp_path, http_port=port, grpc_port=port)
    with pytest.raises(ServingError, match=r"cannot listen on 192\.0\.2\.1.*serving\.host"):
        TritonServer(repositories["compiled"], log=tmp_path, host="192.0.2.1")


def test_a_fixed_port_can_be_used_again_at_once(repositories, tmp_path, world):
    with TritonServer(repositories["compiled"], log=tmp_path / "log") as server:
        client = RetrievalClient(server.http)
        client.recommend([world.unknown_user])
        port = int(server.http.split(":")[1])
    # The server closed a live connection, which the kernel remembers for a minute.
    again = TritonServer(repositories["compiled"], log=tmp_path / "log", http_port=port)
    assert again.http == f"127.0.0.1:{port}"
    with again, RetrievalClient(again.http) as client:
        assert client.ready()


def test_a_time_out_is_told(repositories, tmp_path):
    with pytest.raises(ServingError, match=r"not ready within 0\.01 s"):
        TritonServer(repositories["compiled"], log=tmp_path / "log", timeout=0.01).start()


def test_models_cannot_be_changed_remotely(servers, world):
    import urllib.error
    import urllib.request

    address = servers("compiled").http
    for action in ("load", "unload"):
        url = f"http://{address}/v2/repository/models/retrieval/{action}"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url, b"{}", timeout=5)
    with RetrievalClient(address) as client:
        assert client.recommend([world.unknown_user]).item_ids.shape == (1, 10)


def test_failure_falls_back_on_the_last_line(tmp_path):
    log = tmp_path / "log"
    log.write_text("I1122 server.cc:1] started\nkilled\n")
    assert failure(log) == "killed"
    log.write_text("")
    assert failure(log) == "it printed nothing"
