"""Nothing outlives a server that is killed while it loads, and nothing of others is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from twotower import serving
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton import guard
from twotower.serving.triton.scratch import places, sweep
from twotower.serving.triton.server import TritonServer

ROOT = str(Path(serving.__file__).parents[1])
# With Python's lock held, as a library may while it loads: the stub cannot notice anything then.
ENDLESS = "import ctypes\nctypes.PyDLL(None).sleep(600)\n"
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from twotower.serving.triton.server import TritonServer
TritonServer(Path({repository!r}), log=Path({log!r})).start()
"""


def until(condition: Callable, seconds: float = 30.0):
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
    return found


def over(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie that nobody reaps has."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_of(caller: int) -> tuple | None:
    """Triton, the stub that loads its model, the name of their folder; None before they run."""
    for each in psutil.Process(caller).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            arguments = each.cmdline()
            if arguments and arguments[0].endswith("_stub") and "retrieval_0_0" in arguments:
                return each.parent(), each, arguments[2][: len("twotower-triton-") + 8]
    return None


@pytest.fixture
def loading(copy, tmp_path):
    """A server that loads for ever: its caller, Triton, the stub, the name of its folder."""
    (copy / "retrieval" / "1" / "model.py").write_text(ENDLESS)
    script = SCRIPT.format(root=ROOT, repository=str(copy), log=str(tmp_path / "log"))
    caller = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    stub = None
    try:
        triton, stub, name = until(lambda: processes_of(caller.pid))
        time.sleep(0.3)  # it imports the model by now
        yield caller, triton, stub, name
    finally:
        caller.kill()
        caller.communicate()
        with suppress(psutil.NoSuchProcess):
            if stub:
                stub.kill()
        sweep()


def left(name: str) -> list[Path]:
    """The folder and the shared memory of a server that are still there."""
    return [path for place in {*places(), "/dev/shm"} for path in Path(place).glob(f"{name}*")]


@pytest.mark.parametrize("killed", ["caller", "Triton", "both"])
def test_a_kill_while_the_model_loads_leaves_nothing(killed, loading):
    caller, triton, stub, name = loading
    assert left(name)
    if killed != "caller":
        triton.kill()
    if killed != "Triton":
        caller.kill()
    until(lambda: over(triton) and over(stub) and not left(name), seconds=5)
    output = caller.communicate(timeout=10)[1]
    assert ("Triton ended by SIGKILL" in output) == (killed == "Triton")


def test_what_is_left_when_the_guard_is_killed_too_goes_with_the_next_start(loading):
    caller, triton, stub, name = loading
    guard = triton.parent()
    assert guard.pid != caller.pid
    for process in (guard, caller, triton):
        process.kill()
    caller.wait()
    until(lambda: over(triton))
    assert not over(stub) and left(name)
    sweep()
    until(lambda: over(stub))
    assert not left(name)


def test_a_guard_that_is_killed_takes_the_server_with_it(repositories, tmp_path):
    server = TritonServer(repositories["compiled"], log=tmp_path / "log").start()
    try:
        triton = psutil.Process(server.pid)
        processes = [triton, *triton.children(recursive=True)]
        name = server._scratch.path.name
        triton.parent().kill()
        assert "Triton ended by SIGKILL" in until(server.ended)
    finally:
        server.stop()
    until(lambda: all(map(over, processes)), seconds=5)
    assert not left(name)


def test_a_start_that_is_given_up_is_over_at_once(copy, tmp_path):
    (copy / "retrieval" / "1" / "model.py").write_text(ENDLESS)
    started = time.monotonic()
    with pytest.raises(ServingError, match=r"within 1 s, .* its log gives no reason \(log: "):
        TritonServer(copy, log=tmp_path / "log", timeout=1).start()
    assert time.monotonic() - started < 5  # it used to wait 15 s for a graceful end
    links = [link for each in places() for link in Path(each).glob("twotower-triton-*/repository")]
    assert copy not in [link.resolve() for link in links]


def test_a_process_is_seen_to_have_children_until_they_end():
    """By it the guard of a stopping Triton knows that the models have given their answers."""
    script = (
        "import subprocess, sys; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{script}; print(c.pid, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child = int(parent.stdout.readline())
    assert guard._has_children(parent.pid)
    os.kill(child, signal.SIGKILL)
    limit = time.monotonic() + 10
    while guard._has_children(parent.pid):  # it is a zombie, since its parent does not wait
        assert time.monotonic() < limit
        time.sleep(0.01)
    parent.communicate()
    assert guard._has_children(2**22 + 1)  # the system does not say


def test_the_folder_that_triton_makes_for_environments_is_removed(tmp_path, monkeypatch):
    """Only if it is empty, and was made when this Triton started."""
    monkeypatch.setattr(guard, "ENVIRONMENTS", tmp_path)
    for name in ("python_env_aB3dE6", "python_env_older0", "python_env_inuse0", "python_environ"):
        (tmp_path / name).mkdir()
    (tmp_path / "python_env_inuse0" / "packed").touch()
    started = time.time()
    os.utime(tmp_path / "python_env_older0", (started - 60, started - 60))
    guard.remove_environments(started)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"python_env_older0", "python_env_inuse0", "python_environ"}


def test_no_folder_of_a_server_is_left_in_tmp(repositories, tmp_path):
    before = set(guard.ENVIRONMENTS.glob("python_env_*"))
    with TritonServer(repositories["compiled"], log=tmp_path / "triton.log"):
        made = set(guard.ENVIRONMENTS.glob("python_env_*")) - before
    # Servers of tests beside this one make others, and remove each that is empty.
    assert made or "PYTEST_XDIST_WORKER" in os.environ
    assert not made or sum(each.exists() for each in made) < len(made)
