"""The verbs of the section Steps."""

from __future__ import annotations

import click

from twotower.pipelines.cli.options import (
    FILE,
    STEPS,
    check_on_error,
    config_option,
    dask_settings,
    data_option,
    json_option,
    main,
    new_run_option,
    on_error_option,
    open_run,
    run_option,
    scheduler_option,
    set_option,
    with_on_error,
    workers_option,
)
from twotower.pipelines.cli.output import output, plain_version


@main.verb(STEPS, "twotower ingest --config ml-1m --data ml-1m.zip")
@config_option
@data_option
@new_run_option
@set_option
@on_error_option
@json_option
def ingest(config, data, folder, overrides, on_error, as_json) -> None:
    """Read and check the data.

    With --config or --data a new run folder is made; otherwise the data of --run, or of the last
    run, is read again.
    """
    from twotower.pipelines.steps.ingest import ingest as step

    overrides = with_on_error(overrides, on_error)

    def work():
        if config is None and data is None:
            if on_error is not None:
                check_on_error(open_run(folder).config.ingest.source, on_error)
            run = open_run(folder, overrides)
        else:
            from twotower.pipelines.job import choose
            from twotower.pipelines.run import Run

            chosen, line = choose(config, data, overrides)
            click.echo(line)
            check_on_error(chosen.ingest.source, on_error)
            run = Run.create(chosen, folder)
        step(run)
        return run

    output(as_json, work, lambda run: run.notes("ingest"))


@main.verb(
    STEPS,
    "twotower preprocess --set split.method=temporal\ntwotower preprocess --workers 2",
)
@run_option
@set_option
@workers_option
@scheduler_option
@json_option
def preprocess(folder, overrides, workers, scheduler, as_json) -> None:
    """Select positives, split them, and encode the features."""
    from twotower.pipelines.steps.preprocess import preprocess as step

    settings = (*overrides, *dask_settings(workers, scheduler))
    output(as_json, lambda: step(open_run(folder, settings)), dict)


@main.verb(
    STEPS,
    "twotower train --set 'model.hidden=[64]'\ntwotower train --resume --set training.epochs=40",
)
@run_option
@set_option
@click.option(
    "--resume",
    is_flag=True,
    help="Continue a finished training with more epochs. An interrupted training always continues.",
)
@json_option
def train(folder, overrides, resume, as_json) -> None:
    """Train the two towers."""
    from twotower.pipelines.steps.train import train as step

    output(as_json, lambda: step(open_run(folder, overrides), resume), dict)


@main.verb(STEPS, "twotower rank --set ranking.model=dcn")
@run_option
@set_option
@json_option
def rank(folder, overrides, as_json) -> None:
    """Train a model that ranks the candidates of the two towers."""
    from twotower.pipelines.ranking.rank import rank as step

    output(as_json, lambda: step(open_run(folder, overrides)), dict)


@main.verb(
    STEPS,
    "twotower evaluate --set 'evaluation.baselines=[popularity, ease]'\n"
    "twotower evaluate --per-user users.parquet",
)
@run_option
@set_option
@click.option(
    "--per-user",
    type=FILE,
    help="Parquet file to write: a row per model and user, with the user's metrics.",
)
@json_option
def evaluate(folder, overrides, per_user, as_json) -> None:
    """Measure the towers and the baselines on the test part."""
    from twotower.pipelines.steps.evaluate import evaluate as step

    opened = open_run(folder, overrides)
    output(as_json, lambda: step(opened, per_user), lambda _: opened.notes("evaluate"))


@main.verb(STEPS, "twotower index --recall 0.95 --memory 300MB")
@run_option
@click.option(
    "--recall", type=float, help="Smallest recall at 100 items. Default: serving.index.recall."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Largest memory, such as 300MB. Default: serving.index.memory.",
)
@click.option("--kind", help="Kind to try, such as ivf_sq8. Default: all that may fit.")
@set_option
@json_option
def index(folder, recall, memory, kind, overrides, as_json) -> None:
    """Compare the kinds of item indexes, and choose one for the export."""
    from twotower.pipelines.index.choose import index as choose
    from twotower.pipelines.index.choose import plain_choice

    given = {"kind": kind or "auto", "recall": recall, "memory": memory}
    options = [f"serving.index.{key}={value}" for key, value in given.items() if value is not None]
    output(as_json, lambda: choose(open_run(folder, (*overrides, *options))), plain_choice)


@main.verb(STEPS, "twotower export --set serving.max_k=500")
@run_option
@set_option
@json_option
def export(folder, overrides, as_json) -> None:
    """Index the items and write a new version of the Triton model."""
    from twotower.pipelines.steps.export import export as step

    output(as_json, lambda: step(open_run(folder, overrides)), dict)


@main.verb(STEPS, "twotower publish\ntwotower publish --version 2 --anyway")
@run_option
@click.option(
    "--version",
    "number",
    type=click.IntRange(min=1),
    help="Number of the version. Default: the newest.",
)
@click.option(
    "--anyway",
    is_flag=True,
    help="Publish it although a baseline is at least as good, by the verdict of `evaluate`.",
)
@json_option
def publish(folder, number, anyway, as_json) -> None:
    """Choose the version to serve; a running server loads it."""
    from twotower.pipelines.steps.publish import publish as step

    opened = open_run(folder)
    output(as_json, lambda: step(opened, number, anyway=anyway), plain_version)
