"""One writer at a time per folder: a file lock, which the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from twotower.pipelines.errors import RunError
from twotower.serving.files import without_locks

LOCK = ".twotower.lock"
# `is_held`, or a reader that completes a commit, holds the lock for milliseconds.
TRIES, TRY_EVERY_SECONDS = 10, 0.02


class _Held(threading.local):
    """The lock files that this thread holds."""

    def __init__(self) -> None:
        self.paths: set[str] = set()


_held = _Held()
os.register_at_fork(after_in_child=lambda: _held.paths.clear())


@contextlib.contextmanager
def writing(folder: Path, command: str, lock: str = LOCK) -> Iterator[bool]:
    """Hold the lock of a folder while the block runs; a thread may nest this.

    The kernel's lock on the open file counts, and it ends with the process. The text in the file
    only tells a refused process who holds the lock.

    Parameters
    ----------
    folder : Path
        The folder to lock.
    command : str
        The command that takes the lock, for messages.
    lock : str
        The name of the lock file.

    Yields
    ------
    bool
        True if the lock was free and is taken here, False if this thread already held it.

    Raises
    ------
    RunError
        At once, if another process or thread holds the lock; the message says which, since when.
    """
    path = folder / lock
    key = os.path.realpath(path)
    if key in _held.paths:
        yield False
        return
    with _opened(path) as file:
        if not _locked(file, path):
            raise RunError(f"{folder}: {_holder(file)}")
        try:
            _held.paths.add(key)
            _sign(file, command)
            yield True
        finally:
            _held.paths.discard(key)
            file.truncate(0)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`; nothing is written."""
    try:
        with path.open() as file:
            return not _locked(file, path, fcntl.LOCK_SH, tries=1)
    except (FileNotFoundError, RunError):  # on a file system without locks, nobody holds one
        return False


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("a+")
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; the folder must be writable") from error


def _locked(file: IO[str], path: Path, kind: int = fcntl.LOCK_EX, tries: int = TRIES) -> bool:
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(TRY_EVERY_SECONDS)
        except OSError as error:
            if message := without_locks(path, error):
                raise RunError(message) from error
            raise
    return False


def _sign(file: IO[str], command: str) -> None:
    holder = {
        "verb": command,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()


def _holder(file: IO[str]) -> str:
    """Who holds the lock, by the text in its file."""
    who, since = "another command", ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        file.seek(0)
        holder = json.loads(file.read())
        who = f"`{holder['verb']}` (process {holder['pid']} on {holder['host']})"
        since = f" since {holder['since']}"
    return f"{who} has been writing here{since}; wait until it has ended"
