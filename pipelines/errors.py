"""The errors people see without a traceback."""

from __future__ import annotations

from pathlib import Path


class ConfigError(ValueError):
    """A configuration file, an override or a command line is wrong; the message says where."""


class RunError(RuntimeError):
    """A run folder is missing, incomplete or not what its manifest says."""


class ChildError(RuntimeError):
    """Work in a process of its own failed.

    reason : why, one line or several
    log : the file with its output
    """

    def __init__(self, reason: str, log: Path):
        super().__init__(f"{reason} (its output: {log})")
        self.reason, self.log = reason, log


def is_ours(error: Exception) -> bool:
    """Whether it is one of the errors this project words for people."""
    home = type(error).__module__
    return home in {f"{p}.errors" for p in ("workflows", "models", "serving", "pipelines")}
