"""The verbs of the section Experiment."""

from __future__ import annotations

import sys

import click

from twotower.pipelines.cli.options import (
    EXPERIMENT,
    FILE,
    data_option,
    json_option,
    main,
    open_run,
    run_option,
    set_option,
)
from twotower.pipelines.cli.output import output, plain_comparison, plain_timeline


@main.verb(
    EXPERIMENT,
    "twotower compare --config smoke\n"
    "twotower compare --config ml-100k --data ml-100k.zip --docs docs",
)
@click.option(
    "--config",
    type=FILE,
    required=True,
    metavar="NAME|FILE",
    help="YAML file, or the name of one in configs/compare/, such as smoke.",
)
@data_option
@click.option("--docs", type=FILE, help="Copy the table and the plots to <folder>/<name>.")
@set_option
@json_option
def compare(config, data, docs, overrides, as_json) -> None:
    """Train the variants in a file and compare their metrics."""
    from twotower.pipelines.experiments.compare import compare as experiment

    done = output(as_json, lambda: experiment(config, data, docs, overrides), plain_comparison)
    sys.exit(1 if done.failed else 0)


@main.verb(EXPERIMENT, "twotower tune --config smoke")
@click.option(
    "--config",
    type=FILE,
    required=True,
    metavar="NAME|FILE",
    help="YAML file, or the name of one in configs/tune/, such as smoke.",
)
@data_option
@json_option
def tune(config, data, as_json) -> None:
    """Search for better settings in the space that a file declares."""
    from twotower.pipelines.config import as_tree
    from twotower.pipelines.experiments.tune import tune as experiment

    output(as_json, lambda: experiment(config, data), as_tree)


@main.verb(EXPERIMENT, "twotower timeline --json")
@run_option
@json_option
def timeline(folder, as_json) -> None:
    """Show how long each step of the last `twotower run` took."""
    from twotower.pipelines.job import show_timeline

    opened = open_run(folder)
    output(as_json, lambda: show_timeline(opened), plain_timeline)
