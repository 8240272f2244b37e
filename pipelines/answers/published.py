"""The published version of a run, opened in this process to answer without a server."""

from __future__ import annotations

import os
from typing import NamedTuple

from twotower.pipelines.errors import RunError
from twotower.pipelines.run import TRITON, Run
from twotower.serving.local import LocalVersion
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.filters.denied import denied_path, read_denied


class Published(NamedTuple):
    """The published version: its number, and the version itself."""

    number: int
    version: LocalVersion


def open_published(run: Run) -> Published:
    """Open the published version of a run, with one thread per processor.

    Raises
    ------
    RunError
        If nothing is published.
    ServingError
        If the version is damaged or cannot run in this process.
    """
    number = ModelRepository(run.path / TRITON).published
    if number is None:
        raise RunError(f"{run.path}: nothing is published; `twotower run` does all that is needed")
    return Published(number, open_version(run, number, threads=len(os.sched_getaffinity(0))))


def open_version(run: Run, number: int, threads: int = 1) -> LocalVersion:
    """Open a version of a run, which answers without the denied items, as a server does."""
    folder = ModelRepository(run.path / TRITON).model / str(number)
    return deny_current(LocalVersion(folder, threads))


def deny_current(version: LocalVersion) -> LocalVersion:
    """Leave out of the answers of a version the items that are denied now; return the version."""
    denied = read_denied(denied_path(version.folder))
    if denied or version.denied.any():
        version.deny(denied)
    return version
