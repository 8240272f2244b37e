"""The verbs of the section Start."""

from __future__ import annotations

import sys

import click

from twotower.pipelines.cli.options import (
    DATA,
    FILE,
    START,
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
@click.option(
    "--refit",
    is_flag=True,
    help="After training, train again on the valid part, too, for the epochs chosen on it.",
)
@workers_option
@scheduler_option
@on_error_option
@json_option
def run(
    config, data, folder, overrides, recipe, budget, refit, workers, scheduler, on_error, as_json
) -> None:
    """Run all steps, then print recommendations from Triton.

    Without --data and --config it uses twotower.yaml in this folder, see `twotower init`. Without
    that, it uses MovieLens-1M, which is downloaded if necessary, or synthetic data if there is no
    network.
    """
    from twotower.pipelines.job import choose, main_job
    from twotower.pipelines.verdict.recipes import AUTO, recipe_settings

    auto = None
    settings: tuple[str, ...] = ()
    overrides += dask_settings(workers, scheduler)
    if recipe == AUTO:
        from twotower.pipelines.verdict.auto import BUDGET, Auto

        auto = Auto(BUDGET if budget is None else budget, overrides)
    elif budget is not None:
        raise click.UsageError("--budget is for --recipe auto")
    elif recipe is not None:
        settings = recipe_settings(recipe)

    def work():
        chosen, line = choose(config, data, with_on_error(settings + overrides, on_error))
        check_on_error(chosen.ingest.source, on_error)
        click.echo(line)
        return main_job(chosen, folder, auto, refit)

    output(as_json, work, plain_run)


@main.verb(
    START,
    "twotower init orders.csv --items products.csv\n"
    "twotower init log.parquet --user visitor --item page --value none",
)
@click.argument("interactions", type=DATA)
@click.option("--items", type=DATA, help="File or folder with one row per item.")
@click.option("--users", type=DATA, help="File or folder with one row per user.")
@click.option("--user", metavar="COLUMN", help="The column with the users' ids.")
@click.option("--item", metavar="COLUMN", help="The column with the items' ids.")
@click.option("--time", metavar="COLUMN", help="The column with the time; none if there is none.")
@click.option(
    "--value",
    metavar="COLUMN",
    help="The column with the rating, count or event type; none if there is none.",
)
@click.option("--separator", help="Text between two fields of a CSV file, if it is not found.")
@click.option(
    "--header/--no-header", default=None, help="Whether the first line of a CSV file has names."
)
@click.option("--encoding", help="Encoding of a CSV file, such as latin-1.")
@click.option(
    "--out", type=FILE, default="twotower.yaml", show_default=True, help="The file to write."
)
@click.option("--force", is_flag=True, help="Replace the file; the old one is kept as FILE.old.")
@json_option
def init(interactions, items, users, out, force, as_json, **known) -> None:
    """Guess what the columns of your files mean, and write twotower.yaml.

    It reads CSV, JSON lines and parquet, and says what it assumed. What is not clear is a
    QUESTION in the file. `twotower run` then needs no option.
    """
    from twotower.pipelines.init.guess import Named
    from twotower.pipelines.init.init import init
    from twotower.pipelines.init.report import plain

    tables = {"interactions": interactions, "users": users, "items": items}
    files = {name: path for name, path in tables.items() if path is not None}
    named = Named(**{name: known[name] for name in ("user", "item", "time", "value")})
    said = {name: known[name] for name in ("separator", "header", "encoding")}
    reading = {name: value for name, value in said.items() if value is not None}
    output(
        as_json,
        lambda: init(files=files, named=named, reading=reading, out=out, force=force),
        lambda made: {"config": str(made.path), **plain(made.guess)},
    )


@main.verb(START, "twotower generate made-up --rows 1000000")
@click.argument("folder", type=FILE)
@click.option(
    "--rows",
    type=int,
    default=100_000,
    show_default=True,
    help="Impressions in train; the real set has 42,300,135. Users and items fall with it.",
)
@click.option("--test-rows", type=int, help="Impressions in test. Default: as many as in train.")
@click.option(
    "--tokens",
    type=int,
    default=629,
    show_default=True,
    help="Mean number of features of an impression, with those that it shares with others.",
)
@click.option("--seed", type=int, default=42, show_default=True, help="Random seed.")
@json_option
def generate(folder, rows, test_rows, tokens, seed, as_json) -> None:
    """Make up a data set in the format of Ali-CCP, of any size.

    FOLDER gets the four files, and a file SYNTHETIC by which their metrics are labelled. The same
    options give the same bytes.
    """
    from twotower.pipelines.console import stage

    def work():
        with stage("generate") as (progress, result):
            from twotower.workflows.sources.ali_ccp.generate import generate

            generate(
                out=folder,
                rows=rows,
                test_rows=test_rows,
                tokens=tokens,
                seed=seed,
                progress=progress,
            )
            made = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
            result(f"{sum(made.values()) / 1e6:,.0f} MB in {folder}")
        return made

    output(as_json, work, dict)


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
