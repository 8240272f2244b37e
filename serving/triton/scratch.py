"""A temporary folder for each running server, whose path has no characters special to a shell.

Triton passes the paths of the model and of its backend to a shell without quotes. It therefore only
gets paths in this folder, which has links to the real ones. The shared memory of Triton's Python
backend is named after the folder.
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
"""Pattern of the names that tempfile creates with the prefix."""
MARK = "twotower"
"""An empty file in each of these folders, created after its lock was taken."""
REPOSITORY = "repository"


class Scratch:
    """A new folder and its lock, which is held while the folder is in use.

    Attributes
    ----------
    path : Path
        The folder.
    lock : int
        File descriptor that holds the lock. A process that inherits it holds the lock, too.

    Raises
    ------
    ServingError
        If no folder can be created.
    """

    def __init__(self) -> None:
        for place in places():
            with contextlib.suppress(OSError):
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
                # The folder itself is locked, because systemd-tmpfiles keeps locked folders.
                self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self.lock, fcntl.LOCK_EX)
                (self.path / MARK).touch()
                return
        raise ServingError(
            f"no folder can be created in {', '.join(places())}: make room or make one of "
            "them writable, or set TMPDIR to a folder whose path has only letters, digits and /._-"
        )

    def link(self, name: str, target: Path) -> Path:
        """Create a link to `target` in the folder, and return its path."""
        link = self.path / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        return link

    def remove(self) -> None:
        """Remove the folder and its shared memory, and release the lock."""
        remove(self.path)
        os.close(self.lock)


def places() -> list[str]:
    """Return the folders that may contain a scratch folder, TMPDIR first."""
    wanted = os.environ.get("TMPDIR", "/tmp")
    # A shell would interpret other characters.
    plain = [wanted] if re.fullmatch("/[A-Za-z0-9/._-]*", wanted) else []
    return list(dict.fromkeys([*plain, "/tmp", "/var/tmp", "/dev/shm"]))


def sweep() -> None:
    """Remove the folders of servers that were killed together with their guards.

    A folder is in use if its lock is held. Process ids are not a sign, because they are reused.
    """
    for place in places():
        for folder in Path(place).glob(f"{PREFIX}*"):
            lock = _take_lock(folder) if re.fullmatch(NAME, folder.name) else None
            if lock is not None:
                _kill_stubs(folder)
                remove(folder)
                os.close(lock)


def with_real_path(text: str, repository: Path) -> str:
    """Replace, in a server's message, the link that Triton was given by the repository's path."""
    return re.sub(f"[A-Za-z0-9/._-]*/{NAME}/{REPOSITORY}", lambda _: str(repository), text)


def _take_lock(folder: Path) -> int | None:
    """Take the lock of an unused scratch folder of this user; return None for any other folder."""
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
    """Kill processes of Triton that were started with paths in the folder."""
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        paths = any(argument.startswith(f"{folder}/") for argument in arguments)
        if paths and process.info["name"].startswith("triton"):
            with contextlib.suppress(psutil.Error):
                process.kill()
