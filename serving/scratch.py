"""A private folder for each running server, with a path that any shell leaves as it is.

Triton hands the paths of the model and of its backend to a shell without quotes. It is therefore
only given paths of this folder, in which links lead to the real ones. The folder lies in /dev/shm,
beside the shared memory that Triton's Python backend makes and that is named after the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path

import psutil

from .errors import ServingError
from .guard import remove

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "twotower-triton-"
NAME = PREFIX + "[a-z0-9_]{8}"
"""What tempfile makes of the prefix."""
LOCK_FILE = "lock"
REPOSITORY = "repository"


class Scratch:
    """A new folder, and a lock in it that is held as long as somebody uses the folder.

    Raises
    ------
    ServingError
        when /dev/shm cannot be written

    Attributes
    ----------
    path : the folder
    lock : file descriptor that holds the lock; a process that inherits it holds it, too
    """

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHARED_MEMORY))
            self.lock = _make_lock(self.path)
        except OSError as error:
            raise ServingError(
                f"{SHARED_MEMORY}: {error.strerror}; Triton shares memory with its models there: "
                "make it writable, or make room"
            ) from error

    def link(self, name: str, target: Path) -> Path:
        """Make a link to `target` in the folder; return its path."""
        link = self.path / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        return link

    def remove(self) -> None:
        """Remove the folder and its shared memory, and give up the lock."""
        remove(self.path)
        os.close(self.lock)


def sweep() -> None:
    """Remove what servers have left that were killed together with their guard.

    Whether a folder is still used is decided by its lock alone: process ids repeat.
    """
    for folder in SHARED_MEMORY.glob(f"{PREFIX}*"):
        lock = _take_lock(folder) if re.fullmatch(NAME, folder.name) else None
        if lock is not None:
            _kill_stubs(folder)
            remove(folder)
            os.close(lock)


def with_real_path(text: str, repository: Path) -> str:
    """`text` of a server, with the repository's path in place of the link that Triton was given."""
    return re.sub(f"{SHARED_MEMORY}/{NAME}/{REPOSITORY}", lambda _: str(repository), text)


def _make_lock(folder: Path) -> int:
    """Make the lock file; under its name it is only ever seen locked."""
    fresh = folder / f".{LOCK_FILE}"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fresh.rename(folder / LOCK_FILE)
    return descriptor


def _take_lock(folder: Path) -> int | None:
    """The lock of one of our folders that nobody uses; None for any other."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return None
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None


def _kill_stubs(folder: Path) -> None:
    """Kill the processes of Triton that were started with paths of the folder."""
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        paths = any(argument.startswith(f"{folder}/") for argument in arguments)
        if paths and process.info["name"].startswith("triton"):
            with contextlib.suppress(psutil.Error):
                process.kill()
