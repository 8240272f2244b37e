"""Writing files and folders, with a clear error when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from twotower.pipelines.errors import RunError
from twotower.serving import files

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Error numbers of a disk that is full or read-only."""
FULL_BYTES = 1 << 20
"""With less free space than this, any failure is blamed on the full disk."""


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Write `text` so that a reader sees either the old file or the new one.

    Parameters
    ----------
    path : Path
        The file to write or replace.
    text : str
        Its new content.
    mode : int
        The permissions of the file from its first byte on, less the umask.

    Raises
    ------
    RunError
        If the disk refuses.
    """
    try:
        files.write_atomically(path, text, mode)
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; make room or make it writable") from error


def make_folder(path: Path) -> None:
    """Make the folder `path` if it does not exist. Raises RunError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{path}: a file is in the way of this folder; name another") from None
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; make room or make it writable") from error


@contextlib.contextmanager
def explained_disk_errors(path: Path, command: str) -> Iterator[None]:
    """Raise RunError instead of any error that a full or read-only disk causes in the block."""
    try:
        yield
    except Exception as error:
        where, reason = path, None
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            where, reason = error.filename or path, os.strerror(error.errno)
        elif shutil.disk_usage(path).free < FULL_BYTES:
            # FAISS, NumPy and TensorFlow raise other errors when the disk is full.
            reason = os.strerror(errno.ENOSPC)
        if reason is None:
            raise
        raise RunError(
            f"{where}: {reason}; nothing has changed. Make room or make it writable, then run "
            f"`twotower {command}` again"
        ) from error
