"""The errors people see without a traceback."""

from __future__ import annotations

from pathlib import Path

from twotower.models.errors import ModelError
from twotower.serving.runtime.errors import ServingError
from twotower.workflows.errors import DataError


class PipelineError(Exception):
    """What a step, a run folder, a configuration or a command line raises."""


class ConfigError(PipelineError, ValueError):
    """A configuration file, an override or a command line is wrong; the message says where."""


class RunError(PipelineError, RuntimeError):
    """A run folder is missing, incomplete or not what its manifest says."""


class ChildError(PipelineError, RuntimeError):
    """Work in a process of its own failed.

    reason : why, one line or several
    log : the file with its output
    """

    def __init__(self, reason: str, log: Path):
        super().__init__(f"{reason} (its output: {log})")
        self.reason, self.log = reason, log


OURS = (DataError, ModelError, ServingError, PipelineError)
"""The base error of each package; `except OURS` catches what this project words for people."""


def is_ours(error: BaseException) -> bool:
    """Whether it is one of the errors this project words for people."""
    return isinstance(error, OURS)
