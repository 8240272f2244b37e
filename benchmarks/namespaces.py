"""Commands that can be killed, each the first process of a pid namespace, as in a container."""

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
# Imported once, by the process that all commands are forked from. Not merlin.models.tf: it starts
# threads of TensorFlow, which a forked process does not have.
PRELOADED = [
    *(
        "tensorflow",
        "nvtabular",
        "tf2onnx",
        "onnxruntime",
        "faiss",
        "twotower.models.training.config",
    ),
    *(
        "twotower.pipelines.steps.update",
        "twotower.pipelines.steps.train",
        "twotower.pipelines.steps.export",
        "twotower.pipelines.steps.publish",
    ),
    *("twotower.workflows.features.graph", "twotower.serving.ensemble", "benchmarks.namespaces"),
]
DONE, REFUSED, FAILED, KILLED = "done", "refused", "failed", "killed"
LONGEST = 600


@dataclass(frozen=True)
class Ending:
    """How a command ended: `kind` is one of the four above; what it returned, or why it failed."""

    kind: str
    told: Any
    seconds: float


def possible() -> bool:
    """Whether this process may make pid namespaces."""
    child = os.fork()
    if not child:
        os._exit(_unshare() and 1)
    return os.waitpid(child, 0)[1] == 0


def _unshare() -> int:
    return ctypes.CDLL(None).unshare(CLONE_NEWPID)


class Command:
    """`work()` in a process of its own, whose output goes to the file `log`.

    `work` and what it returns are pickled.
    """

    def __init__(self, work: Callable[[], Any], log: Path):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_begin, args=(work, log, theirs), daemon=True)
        self._process.start()
        theirs.close()
        # The process waits until there is a descriptor of it: its id alone could become another's.
        self._descriptor = os.pidfd_open(self._connection.recv())
        self._connection.send("go")
        self.began = time.perf_counter()

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends before so many seconds are over."""
        return self._connection.poll(seconds)

    def kill(self) -> Ending:
        """Send SIGKILL; how it ended, which may have been before."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        return self.end()

    def end(self) -> Ending:
        """How it ended, once it has."""
        try:
            if not self._connection.poll(LONGEST):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            kind, told = self._connection.recv()
        except (EOFError, ConnectionResetError):
            kind, told = KILLED, None
        seconds = time.perf_counter() - self.began
        self._process.join()
        os.close(self._descriptor)
        self._connection.close()
        return Ending(kind, told, seconds)


def run_command(work: Callable[[], Any], log: Path) -> Any:
    """What `work()` returns in a process of its own. Raises RuntimeError with the reason."""
    ending = Command(work, log).end()
    if ending.kind != DONE:
        raise RuntimeError(f"{ending.kind}: {ending.told}")
    return ending.told


def _begin(work: Callable[[], Any], log: Path, connection: Connection) -> None:
    if _unshare():
        raise PermissionError("no right to make a pid namespace")
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
        ending = DONE, work()
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        ending = (REFUSED if is_ours(error) else FAILED), f"{type(error).__name__}: {error}"
    connection.send(ending)
