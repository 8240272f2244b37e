"""Commands that can be killed: each is the first process of a pid namespace, as in a container."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CLONE_NEWPID = 0x20000000
# All commands are forked from a process that imports these once. merlin.models.tf is not among
# them: it starts threads of TensorFlow, which a forked process would not have.
PRELOADED = [
    "tensorflow",
    "nvtabular",
    "tf2onnx",
    "onnxruntime",
    "faiss",
    "twotower.models.training.config",
    "twotower.pipelines.steps.update",
    "twotower.pipelines.steps.train",
    "twotower.pipelines.steps.export",
    "twotower.pipelines.steps.publish",
    "twotower.workflows.features.graph",
    "twotower.serving.ensemble",
    "benchmarks.faults.command",
]
DONE, REFUSED, FAILED, KILLED = "done", "refused", "failed", "killed"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes
    ----------
    kind : str
        `DONE`; `REFUSED`, if it raised an error of the project; `FAILED`, if it raised another
        error; or `KILLED`.
    value : object
        What the command returned, or the error message.
    seconds : float
    """

    kind: str
    value: Any
    seconds: float


def can_create_namespaces() -> bool:
    """Whether this process may create pid namespaces."""
    child = os.fork()
    if not child:
        os._exit(1 if _unshare() else 0)
    return os.waitpid(child, 0)[1] == 0


def _unshare() -> int:
    return ctypes.CDLL(None).unshare(CLONE_NEWPID)


class Command:
    """Runs `work()` in a process of its own, whose output is appended to a log file.

    `work` and its result must be picklable.
    """

    def __init__(self, work: Callable[[], Any], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_start, args=(work, log, theirs), daemon=True)
        self._process.start()
        theirs.close()
        # The process waits until there is a descriptor of it, as its id could be reused.
        self._descriptor = os.pidfd_open(self._connection.recv())
        self._connection.send("go")
        self.started = time.perf_counter()

    def ends_within(self, seconds: float) -> bool:
        """Wait for at most `seconds`; return whether the command has ended."""
        return self._connection.poll(seconds)

    def kill(self) -> Outcome:
        """Send SIGKILL; return the outcome, which is not KILLED if the command ended before."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Outcome:
        """Wait for the end; kill the command after TIMEOUT_S."""
        try:
            if not self._connection.poll(TIMEOUT_S):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            kind, value = KILLED, None
        seconds = time.perf_counter() - self.started
        self._process.join()
        os.close(self._descriptor)
        self._connection.close()
        return Outcome(kind, value, seconds)


def run_command(work: Callable[[], Any], log: Path) -> Any:
    """Return the result of `work()` in a process of its own; raise RuntimeError if it fails."""
    outcome = Command(work, log).wait()
    if outcome.kind != DONE:
        raise RuntimeError(f"{outcome.kind}: {outcome.value}")
    return outcome.value


def _start(work: Callable[[], Any], log: Path, connection: Connection) -> None:
    if _unshare():
        raise PermissionError("no right to create a pid namespace")
    inner = os.fork()
    if not inner:
        _work(work, log, connection)
        os._exit(0)
    connection.send(inner)
    os.waitpid(inner, 0)


def _work(work: Callable[[], Any], log: Path, connection: Connection) -> None:
    connection.recv()
    with log.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    from twotower.pipelines.errors import is_ours

    try:
        outcome = DONE, work()
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        outcome = (REFUSED if is_ours(error) else FAILED), f"{type(error).__name__}: {error}"
    connection.send(outcome)
