"""The verbs of the section Answers."""

from __future__ import annotations

from dataclasses import asdict

import click

from twotower.pipelines.cli.options import (
    ANSWERS,
    FILE,
    filter_options,
    json_option,
    k_option,
    main,
    open_run,
    rank_option,
    run_option,
)
from twotower.pipelines.cli.output import output, plain_similar

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace --out if it exists.")


@main.verb(
    ANSWERS,
    "twotower recommend --users all -k 100 --out recs.parquet\n"
    "twotower recommend --users some.csv --out recs.jsonl --seen",
)
@run_option
@click.option(
    "--users",
    required=True,
    metavar="all|FILE",
    help="All users of the published version, or those in a parquet, CSV or JSON lines file: its "
    "column user_id, or the first one, and columns named like features of the model.",
)
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="File to write, .parquet, .csv or .jsonl: a row per user and item.",
)
@k_option(help="Number of items per user. Default: serving.default_k.")
@click.option("--seen/--no-seen", default=False, help="Include items that the user has seen.")
@rank_option
@filter_options
@overwrite_option
@json_option
def recommend(folder, users, out, k, seen, rank, overwrite, as_json, **rules) -> None:
    """Write recommendations for many users to a file, without a server.

    If it is interrupted, the same command continues.
    """
    from twotower.pipelines.answers.recommend import recommend as step
    from twotower.pipelines.answers.request import parse_filters

    opened = open_run(folder)
    filters = parse_filters(opened, **rules)
    output(
        as_json,
        lambda: step(
            opened,
            users,
            out,
            k,
            filter_seen=not seen,
            filters=filters,
            overwrite=overwrite,
            rank=rank,
        ),
        asdict,
    )


@main.verb(ANSWERS, "twotower vectors --out vectors/")
@run_option
@click.option("--out", type=FILE, required=True, help="Folder to make.")
@overwrite_option
@json_option
def vectors(folder, out, overwrite, as_json) -> None:
    """Write the vectors of users and items to files.

    They are parquet and .npy files, for vector databases and notebooks.
    """
    from twotower.pipelines.answers.vectors import write_vectors

    opened = open_run(folder)
    output(as_json, lambda: write_vectors(opened, out, overwrite), lambda metadata: metadata)


@main.verb(
    ANSWERS,
    "twotower similar --item 1193\ntwotower similar --item 1193 --item 7 -k 5 --json\n"
    "twotower similar --item 1193 --item 7 --together",
)
@run_option
@click.option(
    "--item",
    "items",
    multiple=True,
    required=True,
    help="Item id, as in the data. Repeatable.",
)
@k_option(default=10, show_default=True, help="Number of items.")
@click.option("--together", is_flag=True, help="Find items similar to all --item as a basket.")
@filter_options
@json_option
def similar(folder, items, k, together, as_json, **rules) -> None:
    """Print the items that are most similar to an item or a basket."""
    from twotower.pipelines.answers.request import parse_filters, parse_ids
    from twotower.pipelines.answers.similar import similar as step

    opened = open_run(folder)
    asked, filters = parse_ids(opened, "items", items), parse_filters(opened, **rules)
    output(as_json, lambda: step(opened, asked, k, together, filters), plain_similar)
