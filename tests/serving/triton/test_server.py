"""The life of the server process: readable failures, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from twotower import serving
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton import installation as triton
from twotower.serving.triton.server import TritonServer, failure

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
        "import sys, time; from pathlib import Path\n"
        "from twotower.serving.triton.server import TritonServer\n"
        f"with TritonServer(Path({str(repositories['compiled'])!r}), log=Path('log')) as server:\n"
        "    print(server.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r})\n" + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        text=True,
    )
    try:
        pids = family(int(parent.stdout.readline()))
        shared = shared_memory(pids[0])
        pids.append(psutil.Process(pids[0]).ppid())  # the guard, which removes the shared memory
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
        with pytest.raises(ServingError, match="is already running"):
            server.start()
        assert server.ended() is None
        pids, shared = family(server.pid), shared_memory(server.pid)
        pids.append(psutil.Process(server.pid).ppid())  # the guard, which cleans up
        psutil.Process(server.pid).kill()
        assert gone(pids)
        assert "Triton ended by SIGKILL" in server.ended()
        assert not any(path.exists() for path in shared)
        server.stop()
        server.start()
        with RetrievalClient(server.http) as client:
            assert client.recommend([world.unknown_user]).item_ids.shape == (1, 10)
    finally:
        server.stop()
    server.stop()  # twice is once


def test_a_model_process_that_dies_is_noticed(repositories, tmp_path, world):
    """Triton goes on saying that the model is ready."""
    with TritonServer(repositories["compiled"], log=tmp_path / "log") as server:
        (stub,) = psutil.Process(server.pid).children()
        stub.kill()
        deadline = time.monotonic() + 30
        while not (reason := server.ended()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert reason.startswith("Triton's process for the model died: ")
        server.stop()
        server.start()
        assert server.ended() is None
        with RetrievalClient(server.http) as client:
            assert client.recommend([world.unknown_user]).item_ids.shape == (1, 10)


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
        (remove_model, "not a model repository"),
    ],
)
def test_a_broken_repository_gives_a_readable_reason(spoil, reason, repositories, tmp_path):
    repository = shutil.copytree(repositories["compiled"], tmp_path / "repository")
    spoil(repository)
    with pytest.raises(ServingError, match=reason) as raised:
        TritonServer(repository, log=tmp_path / "log").start()
    assert "At:" not in str(raised.value)


SHELL = "-a b'c\"d;e&f(g)`touch $PLANTED`|*?[h]{i}<j>~#!%\\k\nl ü 東京 $HOME"


@pytest.mark.parametrize("name", ["$(touch $PLANTED)", SHELL])
def test_any_path_is_served_and_none_is_run(
    name, repositories, tmp_path, world, monkeypatch, assert_same
):
    """A Python environment, a repository, a log and a TMPDIR in a folder of that name."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(repositories["compiled"], folder / "triton")
    script = (
        "import sys; from pathlib import Path\n"
        "from twotower.serving.triton.server import TritonServer\n"
        "here = Path.cwd()\n"
        "with TritonServer(here / 'triton', log=here / 'log', timeout=15) as server:\n"
        "    print(server.http, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [folder / ".venv" / "bin" / "python", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": ROOT,
            "LC_ALL": "C",
            "TMPDIR": str(folder),
            "PLANTED": str(tmp_path / "planted"),
        },
        text=True,
    )
    try:
        with RetrievalClient(process.stdout.readline().strip()) as client:
            answer = client.recommend([31, world.unknown_user], k=5)
        expected = world.brute_force([31, world.unknown_user], 5)
        assert_same((answer.item_ids, answer.scores), expected)
        assert not (tmp_path / "planted").exists()
    finally:
        process.communicate()


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


@pytest.mark.slow
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


def test_a_host_name_becomes_its_address(repositories, tmp_path):
    server = TritonServer(repositories["compiled"], log=tmp_path / "log", host="localhost")
    assert server.http.startswith("127.0.0.1:")


@pytest.mark.parametrize("host", ["::1", "nobody.invalid", "127.0.0.1.1", "", "a..b"])
def test_a_host_without_an_ipv4_address_is_refused_at_once(host, repositories, tmp_path):
    message = (
        rf"serving\.host: {re.escape(repr(host))} is neither an IPv4 address .*use 127\.0\.0\.1"
    )
    with pytest.raises(ServingError, match=message):
        TritonServer(repositories["compiled"], log=tmp_path / "log", host=host)


def test_a_log_that_cannot_be_written_is_reported(copy, tmp_path):
    (tmp_path / "log").write_text("a file")
    with pytest.raises(ServingError, match=r"/log: File exists; the server's log is .*/log/log"):
        TritonServer(copy, log=tmp_path / "log" / "log").start()


def test_a_stub_that_cannot_start_is_reported_at_once(repositories, tmp_path, monkeypatch):
    """Triton itself would wait for it for ever."""
    found = triton.find_triton()
    stub = tmp_path / "triton_python_backend_stub"
    stub.write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
    stub.chmod(0o755)
    pieces = [stub if piece.name == stub.name else piece for piece in found.backend]
    broken = dataclasses.replace(found, backend=pieces)
    monkeypatch.setattr("twotower.serving.triton.server.find_triton", lambda: broken)
    with pytest.raises(ServingError, match=r"process for the model died.*: no such library"):
        TritonServer(repositories["compiled"], log=tmp_path / "log", timeout=15).start()


def test_a_model_that_ends_its_process_is_reported_in_words(copy, tmp_path):
    code = "import os\nos.write(2, b'out of memory')\nos._exit(3)\n"
    (copy / "retrieval" / "1" / "model.py").write_text(code)
    with pytest.raises(ServingError, match="process died while it loaded; out of memory"):
        TritonServer(copy, log=tmp_path / "log", timeout=15).start()


def test_a_time_out_is_reported(repositories, tmp_path):
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


def test_failure_takes_no_line_that_gives_no_reason(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        'I1126 08:23:45.619155 10507 python_be.cc:2249] "ModelInstanceInitialize"\n'
        "+------+\n| exit |\n\n"
        '{"event": "loaded"}\n'
        "Signal (15) received.\n"
    )
    assert failure(log) == "its log gives no reason"
