"""A temporary file for the rows of a text file, which is removed in every case."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.paths import DataFile


@contextlib.contextmanager
def nameless_file(file: DataFile) -> Iterator[BinaryIO]:
    """Make a temporary file for the rows of `file`.

    The system removes it once it is closed, also if the process is killed. It is closed if the
    block raises.

    Raises
    ------
    DataError
        If it cannot be made, or there is no room for it.
    """
    try:
        stored = cast(BinaryIO, tempfile.TemporaryFile(prefix="twotower-"))  # noqa: SIM115
    except OSError as error:
        raise DataError(
            f"{file}: no temporary file can be made for its rows ({error.strerror}); join the "
            "files if there are hundreds, or set the environment variable TMPDIR to another folder"
        ) from error
    try:
        yield stored
    except BaseException as error:
        stored.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{file}: no room in {tempfile.gettempdir()} for its rows while they are read; "
                "free some, or set the environment variable TMPDIR to another folder"
            ) from error
        raise
