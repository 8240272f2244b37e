"""The verbs of the section Start."""

from __future__ import annotations

import sys

import click

from twotower.pipelines.cli.options import (
    START,
    config_option,
    data_option,
    json_option,
    main,
    new_run_option,
    open_run,
    run_option,
    set_option,
)
from twotower.pipelines.cli.output import output, plain_checks, plain_run


@main.verb(
    START,
    "twotower run --config ml-1m --data ml-1m.zip\n"
    "twotower run --config synthetic --set 'training.epochs=3 model.hidden=[64, 32]'\n"
    "twotower run --recipe auto --budget 600",
)
@config_option
@data_option
@new_run_option
@set_option
@click.option(
    "--recipe",
    metavar="NAME|auto",
    help="Settings of configs/recipes/, such as closed-form. auto: train each, take the best.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --recipe auto: time for all trainings. Default: 600.",
)
@json_option
def run(config, data, folder, overrides, recipe, budget, as_json) -> None:
    """Run all steps, then print recommendations from Triton.

    Without --data and --config it uses MovieLens-1M, which is downloaded if necessary, or
    synthetic data if there is no network.
    """
    from twotower.pipelines.job import choose, main_job
    from twotower.pipelines.verdict.recipes import AUTO, recipe_settings

    auto = None
    settings: tuple[str, ...] = ()
    if recipe == AUTO:
        from twotower.pipelines.verdict.auto import BUDGET, Auto

        auto = Auto(BUDGET if budget is None else budget, overrides)
    elif budget is not None:
        raise click.UsageError("--budget is for --recipe auto")
    elif recipe is not None:
        settings = recipe_settings(recipe)

    def work():
        chosen, line = choose(config, data, settings + overrides)
        click.echo(line)
        return main_job(chosen, folder, auto)

    output(as_json, work, plain_run)


@main.verb(START, "twotower doctor\ntwotower doctor --server")
@click.option("--server", is_flag=True, help="Check the run's server instead.")
@run_option
@json_option
def doctor(server, folder, as_json) -> None:
    """Check the installation, or with --server a running server."""
    from twotower.pipelines.doctor import doctor, doctor_server

    checks = output(
        as_json, lambda: doctor_server(open_run(folder)) if server else doctor(), plain_checks
    )
    sys.exit(0 if all(check.ok for check in checks) else 1)
