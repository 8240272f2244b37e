"""The verbs of the section Start."""

from __future__ import annotations

import sys

import click

from twotower.pipelines.cli.options import (
    START,
    config_option,
    data_option,
    main,
    new_run_option,
    open_run,
    run_option,
    set_option,
)


@main.verb(
    START,
    "twotower run --config ml-1m --data ml-1m.zip\n"
    "twotower run --config synthetic --set 'training.epochs=3 model.hidden=[64, 32]'",
)
@config_option
@data_option
@new_run_option
@set_option
def run(config, data, folder, overrides) -> None:
    """Run all steps, then print recommendations from Triton.

    Without --data and --config it uses MovieLens-1M, which is downloaded if necessary, or
    synthetic data if there is no network.
    """
    from twotower.pipelines.job import choose, main_job

    chosen, line = choose(config, data, overrides)
    click.echo(line)
    main_job(chosen, folder)


@main.verb(START, "twotower doctor\ntwotower doctor --server")
@click.option("--server", is_flag=True, help="Check the run's server instead.")
@run_option
def doctor(server, folder) -> None:
    """Check the installation, or with --server a running server."""
    from twotower.pipelines.doctor import doctor, doctor_server

    sys.exit(0 if (doctor_server(open_run(folder)) if server else doctor()) else 1)
