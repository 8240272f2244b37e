"""A private folder for each running server, with a path that any shell leaves as it is.

Triton hands the paths of the model and of its backend to a shell without quotes. It is therefore
only given paths of this folder, in which links lead to the real ones. The shared memory that
Triton's Python backend makes is named after the folder.
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

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.guard import remove

PREFIX = "twotower-triton-"
NAME = PREFIX + "[a-z0-9_]{8}"
"""Pattern of the names that tempfile makes of the prefix."""
MARK = "twotower"
"""An empty file in each folder of ours, made when its lock is held."""
REPOSITORY = "repository"


class Scratch:
    """A new folder and its lock, which is held as long as somebody uses the folder.

    Raises
    ------
    ServingError
        when there is no place for it

    Attributes
    ----------
    path : the folder
    lock : file descriptor that holds the lock; a process that inherits it holds it, too
    """

    def __init__(self) -> None:
        for place in places():
            with contextlib.suppress(OSError):
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
                # The lock is on the folder itself: systemd-tmpfiles leaves a locked one alone.
                self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self.lock, fcntl.LOCK_EX)
                (self.path / MARK).touch()
                return
        raise ServingError(
            f"no folder can be made in {', '.join(places())}: make room or make one of them "
            "writable, or set TMPDIR to a folder whose path has only letters, digits and /._-"
        )

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


def places() -> list[str]:
    """Where a scratch folder may lie, TMPDIR first."""
    wanted = os.environ.get("TMPDIR", "/tmp")
    # Triton hands paths to a shell, which could change others or run them.
    plain = [wanted] if re.fullmatch("/[A-Za-z0-9/._-]*", wanted) else []
    return list(dict.fromkeys([*plain, "/tmp", "/var/tmp", "/dev/shm"]))


def sweep() -> None:
    """Remove the folders of servers that were killed together with their guards.

    Whether a folder is still used is decided by its lock alone: process ids repeat.
    """
    for place in places():
        for folder in Path(place).glob(f"{PREFIX}*"):
            lock = _take_lock(folder) if re.fullmatch(NAME, folder.name) else None
            if lock is not None:
                _kill_stubs(folder)
                remove(folder)
                os.close(lock)


def with_real_path(text: str, repository: Path) -> str:
    """`text` of a server, with the repository's path in place of the link that Triton was given."""
    return re.sub(f"[A-Za-z0-9/._-]*/{NAME}/{REPOSITORY}", lambda _: str(repository), text)


def _take_lock(folder: Path) -> int | None:
    """The lock of one of our folders that nobody uses; None for any other."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            ours = os.fstat(descriptor).st_uid == os.getuid()
            if ours and stat.S_ISREG((folder / MARK).lstat().st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
    return None


def _kill_stubs(folder: Path) -> None:
    """Kill the processes of Triton that were started with paths of the folder."""
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        paths = any(argument.startswith(f"{folder}/") for argument in arguments)
        if paths and process.info["name"].startswith("triton"):
            with contextlib.suppress(psutil.Error):
                process.kill()
