"""The errors that are printed without a traceback."""

from __future__ import annotations

from pathlib import Path

from twotower.models.errors import ModelError
from twotower.serving.runtime.errors import ServingError
from twotower.workflows.errors import ClusterError, DataError


class PipelineError(Exception):
    """Base class of the errors of steps, run folders, configurations and the command line."""


class ConfigError(PipelineError, ValueError):
    """A configuration file, an override or an option is wrong; the message names it."""


class RunError(PipelineError, RuntimeError):
    """A run folder is missing, incomplete or changed, or a command cannot be done on it."""


class ChildError(PipelineError, RuntimeError):
    """A function that ran in its own process failed.

    Attributes
    ----------
    reason : str
        Why it failed, in one line or several.
    log : Path
        The file with the output of the process.
    """

    def __init__(self, reason: str, log: Path):
        super().__init__(f"{reason} (its output: {log})")
        self.reason, self.log = reason, log


OURS = (DataError, ClusterError, ModelError, ServingError, PipelineError)
"""The base errors of each package, for `except OURS`: their messages say what to do."""


def is_ours(error: BaseException) -> bool:
    """Whether `error` is one of the project's errors, whose messages say what to do."""
    return isinstance(error, OURS)
