"""File helpers for the model repository and the run folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of flock on a file system that does not support locks."""


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
