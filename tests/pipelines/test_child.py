"""Work in a process of its own: what it tells and returns, and how it ends."""

from __future__ import annotations

import importlib
import os

import psutil
import pytest

from twotower.pipelines.child import apart
from twotower.pipelines.errors import ChildError

WORK = """
import os, signal, sys, time
from twotower.pipelines.errors import RunError

def tells(tell):
    tell(1)
    tell({"two": 2})
    print("seen in the log", flush=True)
    return os.getpid()

def raises(tell):
    raise RunError("no room; make some")

def breaks(tell):
    return 1 / 0

def dies(tell):
    os.kill(os.getpid(), signal.SIGKILL)

def leaves(tell):
    os._exit(3)

def lasts(tell):
    tell(os.getpid())
    time.sleep(600)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module that a new process can import, too."""
    (tmp_path / "work_apart.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("work_apart")


def test_it_tells_returns_and_logs_from_another_process(work, tmp_path):
    told = []
    assert apart(work.tells, tmp_path / "logs" / "log", told.append) != os.getpid()
    assert told == [1, {"two": 2}]
    assert "seen in the log" in (tmp_path / "logs" / "log").read_text()


@pytest.mark.parametrize(
    "name, reason",
    [
        ("raises", "no room; make some"),  # an error for people is said in its own words
        ("breaks", "ZeroDivisionError: division by zero"),
        ("dies", r"its process was killed \(SIGKILL\): is the memory too small\?"),
        ("leaves", "its process ended with code 3"),
    ],
)
def test_a_failure_is_told_with_its_reason_and_log(work, tmp_path, name, reason):
    with pytest.raises(ChildError, match=rf"^{reason} \(its output: {tmp_path / 'log'}\)$"):
        apart(getattr(work, name), tmp_path / "log")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_ends_the_call_ends_the_process(work, tmp_path, error):
    processes = []

    def heard(number):
        processes.append(psutil.Process(number))
        raise error

    with pytest.raises(error):
        apart(work.lasts, tmp_path / "log", heard)
    assert not processes[0].is_running()
