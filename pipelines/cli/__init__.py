"""The command line, `twotower`. Importing it loads nothing heavy, so that `--help` is fast."""

from twotower.pipelines.cli import start, steps, serve, answers, experiment  # noqa: F401, I001 - adds the verbs in this order
from twotower.pipelines.cli.group import quiet
from twotower.pipelines.cli.options import main

__all__ = ["main", "quiet"]
