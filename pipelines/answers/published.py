"""The published version of a run, opened in this process to answer without a server."""

from __future__ import annotations

import os
from typing import NamedTuple

from twotower.pipelines.errors import RunError
from twotower.pipelines.run import TRITON, Run
from twotower.serving.local import LocalVersion
from twotower.serving.repository import ModelRepository


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
    repository = ModelRepository(run.path / TRITON)
    number = repository.published
    if number is None:
        raise RunError(f"{run.path}: nothing is published; `twotower run` does all that is needed")
    threads = len(os.sched_getaffinity(0))
    return Published(number, LocalVersion(repository.model / str(number), threads))
