"""Run a function in its own process, so that its memory and TensorFlow's state end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from twotower.pipelines.errors import ChildError, is_ours

Send = Callable[[Any], None]
MESSAGE, DONE, FAILED = "message", "done", "failed"
EXIT_SECONDS = 5


def _ignore(message: Any) -> None:
    """No-op callback."""


def run_in_subprocess(work: Callable[[Send], Any], log: Path, on_message: Send = _ignore) -> Any:
    """Call `work(send)` in a new process, and return its result.

    `work`, its result and all messages must be picklable. The process ends with this call, also
    after an error in `on_message`, Ctrl-C or a kill.

    Parameters
    ----------
    work : callable
        The function to run. Its argument `send` passes a message to `on_message`.
    log : Path
        The file for the output of the process.
    on_message : callable
        Called in this process with each message.

    Raises
    ------
    ChildError
        If `work` raises or its process dies; it has the reason.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, log, sender))
    process.start()
    sender.close()
    try:
        while True:
            kind, content = receiver.recv()
            if kind == FAILED:
                raise ChildError(content, log)
            if kind == DONE:
                process.join(EXIT_SECONDS)
                return content
            on_message(content)
    except EOFError:
        process.join()
        raise ChildError(_ending(process), log) from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _child(work: Callable[[Send], Any], log: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        result = work(lambda message: sender.send((MESSAGE, message)))
    except Exception as error:
        traceback.print_exc()
        reason = str(error) if is_ours(error) else f"{type(error).__name__}: {error}"
        sender.send((FAILED, reason))
    else:
        sender.send((DONE, result))


def _end_with_parent() -> None:
    """End this process when its parent ends, since a killed parent cannot do so."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a child
    parent.join()
    os._exit(1)


def _ending(process: BaseProcess) -> str:
    """How an ended process ended, in words."""
    code = process.exitcode or 0
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), perhaps because memory ran out"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with code {code}"
