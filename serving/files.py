"""What the model repository and the run folder have in common as files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What flock answers on a file system that has no locks."""


def sync(path: Path) -> None:
    """Write a file's content, or a folder's entries, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_locks(path: Path, error: OSError) -> str | None:
    """The message when locking `path` failed because its file system has no locks, else None."""
    if error.errno not in NO_LOCKS:
        return None
    return (
        f"{path}: this file system has no file locks ({error.strerror}), which keep two commands "
        "from writing at once; put the folder on a local disk"
    )
