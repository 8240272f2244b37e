"""File helpers for the model repository and the run folder."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of flock on a file system that does not support locks."""


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace a file such that readers see either the old content or the new content.

    Parameters
    ----------
    path : Path
        The file.
    text : str
        Its new content.
    mode : int
        Permissions of the file, from which the umask is subtracted.

    Raises
    ------
    OSError
        If the file cannot be written; the old one is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_through(temporary, text.encode(), mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_through(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file and flush it to the disk; a new file has the permissions `mode`."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_locks(path: Path, error: OSError) -> str | None:
    """Return the error message if the file system of `path` has no locks, else None."""
    if error.errno not in NO_LOCKS:
        return None
    return (
        f"{path}: this file system has no file locks ({error.strerror}), which keep two commands "
        "from writing at the same time; put the folder on a local disk"
    )
