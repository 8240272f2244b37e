"""Functions run in a subprocess: their messages and results, and how the process ends."""

from __future__ import annotations

import importlib
import os

import psutil
import pytest

from twotower.pipelines.child import run_in_subprocess
from twotower.pipelines.errors import ChildError

WORK = """
import os, signal, sys, time
from twotower.pipelines.errors import RunError

def sends(send):
    send(1)
    send({"two": 2})
    print("seen in the log", flush=True)
    return os.getpid()

def raises(send):
    raise RunError("no room; make some")

def breaks(send):
    return 1 / 0

def dies(send):
    os.kill(os.getpid(), signal.SIGKILL)

def leaves(send):
    os._exit(3)

def lasts(send):
    send(os.getpid())
    time.sleep(600)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module that the subprocess can import as well."""
    (tmp_path / "subprocess_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("subprocess_work")


def test_messages_result_and_log_come_from_another_process(work, tmp_path):
    messages = []
    assert run_in_subprocess(work.sends, tmp_path / "logs" / "log", messages.append) != os.getpid()
    assert messages == [1, {"two": 2}]
    assert "seen in the log" in (tmp_path / "logs" / "log").read_text()


@pytest.mark.parametrize(
    "name, reason",
    [
        ("raises", "no room; make some"),  # the project's own errors keep their message
        ("breaks", "ZeroDivisionError: division by zero"),
        ("dies", r"its process was killed \(SIGKILL\), perhaps because memory ran out"),
        ("leaves", "its process ended with code 3"),
    ],
)
def test_a_failure_is_raised_with_its_reason_and_log(work, tmp_path, name, reason):
    with pytest.raises(ChildError, match=rf"^{reason} \(its output: {tmp_path / 'log'}\)$"):
        run_in_subprocess(getattr(work, name), tmp_path / "log")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_that_ends_the_call_ends_the_process(work, tmp_path, error):
    processes = []

    def on_message(number):
        processes.append(psutil.Process(number))
        raise error

    with pytest.raises(error):
        run_in_subprocess(work.lasts, tmp_path / "log", on_message)
    assert not processes[0].is_running()
