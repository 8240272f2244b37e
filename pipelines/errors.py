"""The errors people see without a traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration file, an override or a command line is wrong; the message says where."""


class RunError(RuntimeError):
    """A run folder is missing, incomplete or not what its manifest says."""
