"""The command line, `twotower`. Importing it loads nothing heavy, so that `--help` is fast."""

from twotower.pipelines.cli.group import quiet
from twotower.pipelines.cli.verbs import main

__all__ = ["main", "quiet"]
