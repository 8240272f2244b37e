"""Work in a process of its own: its memory and TensorFlow's state end with it, a crash is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from twotower.pipelines.errors import ChildError, is_ours

HEARD, DONE, FAILED = "heard", "done", "failed"
EXIT_SECONDS = 5


def apart(
    work: Callable[[Callable[[Any], None]], Any],
    log: Path,
    heard: Callable[[Any], None] = lambda told: None,
) -> Any:
    """What `work(tell)` returns in a new process, whose output goes to the file `log`.

    What `work` gives to `tell` is given to `heard` here, as it comes. `work` and all that it tells
    and returns are pickled. Whatever ends this call ends the process: an error in `heard`, Ctrl-C,
    a kill.

    Raises ChildError with the reason when `work` raises or its process dies.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, log, sender))
    process.start()
    sender.close()
    try:
        while True:
            kind, told = receiver.recv()
            if kind == FAILED:
                raise ChildError(told, log)
            if kind == DONE:
                process.join(EXIT_SECONDS)
                return told
            heard(told)
    except EOFError:
        process.join()
        raise ChildError(_ending(process.exitcode), log) from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _work(work: Callable[[Callable[[Any], None]], Any], log: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        result = work(lambda told: sender.send((HEARD, told)))
    except Exception as error:
        traceback.print_exc()
        reason = str(error) if is_ours(error) else f"{type(error).__name__}: {error}"
        sender.send((FAILED, reason))
    else:
        sender.send((DONE, result))


def _end_with_parent() -> None:
    """A killed parent cannot end this process: nobody would read what it does."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _ending(code: int) -> str:
    """A process's exit code in words; the memory killer's is the one people meet."""
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL): is the memory too small?"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with code {code}"
