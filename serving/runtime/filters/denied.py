"""Items that are in no answer until somebody allows them again, whichever version answers.

Their ids are in a file beside the versions. It is replaced in one rename, and read again by every
server that answers from it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ServingError

DENIED_FILE = "denied.json"
ITEMS = "items"
CHECK_SECONDS = 0.25
"""Interval between looks at the file; each takes some microseconds."""

Ids = Sequence[int | str]
Log = Callable[..., None]


def denied_path(version: Path) -> Path:
    """Return the path of the file, for a version in <repository>/<model>/<number>/."""
    return version.parents[1] / DENIED_FILE


def read_denied(path: Path) -> list[int | str]:
    """Return the denied ids as given; none if there is no file.

    Raises
    ------
    ServingError
        If the file cannot be read.
    """
    try:
        ids = json.loads(path.read_text())[ITEMS]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ServingError(_problem(path, str(error))) from error
    if not isinstance(ids, list) or not {type(each) for each in ids} <= {int, str}:
        raise ServingError(_problem(path, f"'{ITEMS}' is no list of ids"))
    return ids


class DeniedItems:
    """Reads the file, and reads it again whenever it is replaced, in a thread of its own.

    Parameters
    ----------
    path : Path
    apply : callable
        Gets the denied ids, now and after each change.
    log : callable
        Gets an event, a level and fields.

    Raises
    ------
    ServingError
        If the file cannot be read now. Later, what was read last remains in force.
    """

    def __init__(self, path: Path, apply: Callable[[Ids], None], log: Log) -> None:
        self.path, self.apply, self.log = path, apply, log
        self.state = self._state()
        if ids := read_denied(path):
            apply(ids)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Stop reading the file."""
        self.stopped.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stopped.wait(CHECK_SECONDS):
            if (state := self._state()) == self.state:
                continue
            self.state = state
            try:
                ids = read_denied(self.path)
                self.apply(ids)
                self.log("denied items read", items=len(ids))
            except Exception as error:
                self.log("denied items not read", logging.ERROR, error=str(error))

    def _state(self) -> tuple[int, ...] | None:
        """Return what changes when the file is replaced; None if there is none."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _problem(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot be read ({reason}); it lists the items that may not be answered: restore "
        "it, or remove it to allow all items"
    )
