"""One writer at a time: a second one is refused at once, and a killed one holds no lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import RunError
from twotower.pipelines.lock import LOCK, is_held, writing
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import preprocess
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import update
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError

ROOT = Path(__file__).resolve().parents[2]
HOLDER = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from twotower.pipelines.lock import writing
with writing(Path("."), "train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def in_a_thread(work: Callable[[], object]) -> str:
    """The message of the RunError that `work` raises in another thread; empty if it does not."""
    messages = []

    def tried():
        try:
            work()
        except RunError as error:
            messages.append(str(error))

    thread = threading.Thread(target=tried)
    thread.start()
    thread.join()
    return messages[0] if messages else ""


def test_a_second_writer_is_refused_by_name_until_the_first_one_is_killed(holder, tmp_path):
    assert is_held(tmp_path / LOCK)
    with pytest.raises(RunError) as error, writing(tmp_path, "update"):
        pass
    told = re.fullmatch(
        rf"{tmp_path}: `train` \(process (\d+) on (.+)\) has been writing here since "
        r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait until it has ended",
        str(error.value),
    )
    assert told.groups() == (str(holder.pid), socket.gethostname())
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_held(tmp_path / LOCK)
    with writing(tmp_path, "update"):
        pass


def test_the_text_in_the_lock_file_is_not_a_lock(tmp_path):
    told = {"verb": "train", "pid": os.getpid(), "host": socket.gethostname(), "since": "ever"}
    (tmp_path / LOCK).write_text(json.dumps(told))
    with writing(tmp_path, "update"):
        assert json.loads((tmp_path / LOCK).read_text())["verb"] == "update"
    assert (tmp_path / LOCK).read_text() == ""


def test_a_thread_may_nest_the_lock(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with writing(tmp_path, "update") as first, writing(tmp_path / "link", "train") as second:
        assert (first, second) == (True, False)
        assert "`update`" in in_a_thread(lambda: writing(tmp_path, "train").__enter__())
    assert not is_held(tmp_path / LOCK)


def test_a_forked_process_does_not_hold_what_its_parent_holds(tmp_path):
    with writing(tmp_path, "update"):
        child = os.fork()
        if not child:
            try:
                writing(tmp_path, "train").__enter__()
            except RunError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_file_system_without_locks_is_explained(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = r"lock: this file system has no file locks \(No locks available\).* on a local disk$"
    with pytest.raises(RunError, match=message), writing(tmp_path, "train"):
        pass
    (tmp_path / LOCK).touch()
    assert not is_held(tmp_path / LOCK), "a reader is not refused"
    with pytest.raises(ServingError, match=message), ModelRepository(tmp_path / "triton").lock():
        pass


COMMANDS = {
    "ingest": ingest,
    "preprocess": preprocess,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "update": lambda run: update(run, run.path),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_refused_while_another_writes_and_changes_nothing(command, tmp_path):
    run = Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path)
    with run.writing("another"):
        told = in_a_thread(lambda: COMMANDS[command](Run.create(run.config, tmp_path)))
        assert f"{tmp_path}: `another` (process {os.getpid()} on " in told
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
