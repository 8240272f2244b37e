"""The verbs of the section Serve."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from twotower.pipelines.cli.options import (
    DATA,
    SERVE,
    filter_options,
    json_option,
    k_option,
    main,
    open_run,
    rank_option,
    run_option,
    set_option,
)
from twotower.pipelines.cli.output import (
    output,
    plain_recommendations,
    plain_version,
    plain_versions,
)


@main.verb(SERVE, "twotower serve --set serving.http_port=8000\ntwotower serve --replica")
@run_option
@set_option
@click.option(
    "--replica",
    is_flag=True,
    help="Run one of several servers of the run. It copies what is published, follows later "
    "publications, and writes nothing in the run folder.",
)
@click.option(
    "--version",
    type=click.IntRange(min=1),
    help="Version that a replica serves, whatever is published.",
)
def serve(folder, overrides, replica, version) -> None:
    """Serve the published version with Triton until Ctrl-C."""
    from twotower.pipelines.steps.serve import serve as step

    if version and not replica:
        raise click.UsageError("--version is for --replica; `twotower publish --version` publishes")
    # Not kept: the address is a setting of this server, not of the run.
    step(open_run(folder, overrides, keep=False), replica=replica, version=version)


@main.verb(
    SERVE,
    "twotower query --user 42\ntwotower query --user 42 --user 7 -k 20 --json\n"
    "twotower query --user 42 --feature month=May\n"
    """twotower query --user 42 --where '{"genres": "Drama", "year": {"$gte": 1990}}'""",
)
@run_option
@click.option(
    "--user",
    "users",
    multiple=True,
    required=True,
    help="User id, as in the data. Repeatable.",
)
@k_option(help="Number of items per user. Default: serving.default_k.")
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
@click.option("--seen/--no-seen", default=False, help="Include items that the user has seen.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a feature of the user or of the context, instead of the stored one. Lists: "
    "VALUE,VALUE. Repeatable.",
)
@rank_option
@filter_options
@json_option
def query(folder, users, k, protocol, seen, features, rank, as_json, **rules) -> None:
    """Ask the server for recommendations.

    If no server is running for this run, one is started for this query.
    """
    from twotower.pipelines.answers.request import parse_features, parse_filters, parse_ids
    from twotower.pipelines.steps.query import query as step

    opened = open_run(folder)
    asked = parse_ids(opened, "users", users)
    given, filters = parse_features(opened, features), parse_filters(opened, **rules)
    output(
        as_json,
        lambda: step(opened, asked, k, protocol, not seen, given, filters, rank),
        lambda answers: plain_recommendations(opened, asked, answers),
    )


@main.verb(SERVE, "twotower versions\ntwotower versions --json")
@run_option
@json_option
def versions(folder, as_json) -> None:
    """List the versions: which is published, which the server uses."""
    from twotower.pipelines.steps.publish import versions as step

    opened = open_run(folder)
    output(as_json, lambda: step(opened), lambda found: plain_versions(opened, found))


@main.verb(
    SERVE,
    "twotower items --deny 1193 --deny 661\ntwotower items --allow sold-out.csv\ntwotower items",
)
@run_option
@click.option(
    "--deny",
    multiple=True,
    metavar="ITEM|FILE",
    help="Item id, or file of item ids, to leave out of all answers. Repeatable.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="ITEM|FILE",
    help="Item id, or file of item ids, to answer with again. Repeatable.",
)
@json_option
def items(folder, deny, allow, as_json) -> None:
    """Deny items or allow them again; list the denied ones.

    It holds for all versions, and a running server takes it over within a second.
    """
    from twotower.pipelines.answers.items import change_items

    opened = open_run(folder)
    output(
        as_json, lambda: change_items(opened, deny, allow), lambda found: {"denied": found.items}
    )


@main.verb(
    SERVE,
    "twotower events\ntwotower events clicks.jsonl --set serving.events.store=sqlite\n"
    "twotower events -",
)
@click.argument("file", type=click.Path(allow_dash=True), required=False)
@run_option
@set_option
@json_option
def events(file, folder, overrides, as_json) -> None:
    """Record what users do, or list what was recorded.

    FILE has one event per line of JSON: user_id, item_id, and what else the run's interactions
    have; - reads them from standard input and records them as they come. A running server answers
    accordingly from then on.
    """
    from twotower.pipelines.live.events import list_events, record_file, record_stream

    opened = open_run(folder, overrides)
    if file == "-":
        output(as_json, lambda: record_stream(opened, sys.stdin.fileno()), asdict)
    elif file:
        output(as_json, lambda: record_file(opened, Path(file)), asdict)
    else:
        output(as_json, lambda: list_events(opened), asdict)


@main.verb(SERVE, "twotower abtest\ntwotower abtest --days 7 --json")
@run_option
@set_option
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    help="How long after an answer an event counts. Default: without a limit.",
)
@json_option
def abtest(folder, overrides, days, as_json) -> None:
    """Compare the hit rates of two versions that are served together.

    They are those of serving.experiment, or else the two that answered last.
    """
    from twotower.pipelines.live.abtest import abtest as step

    opened = open_run(folder, overrides)
    output(as_json, lambda: step(opened, days), asdict)


@main.verb(SERVE, "twotower rollback")
@run_option
@json_option
def rollback(folder, as_json) -> None:
    """Publish the previously published version again."""
    from twotower.pipelines.steps.publish import rollback as step

    output(as_json, lambda: step(open_run(folder)), plain_version)


@main.verb(SERVE, "twotower update --data new-interactions/\ntwotower update --events")
@click.option(
    "--data",
    type=DATA,
    help="Folder or zip with files named like the run's, or one file of interactions.",
)
@click.option("--events", is_flag=True, help="Learn from the recorded events; see twotower events.")
@run_option
@set_option
@click.option(
    "--anyway",
    is_flag=True,
    help="Accept the data and publish the result even if values or changed rows look like a "
    "mistake, or the metrics drop by more than update.max_loss.",
)
@json_option
def update(data, events, folder, overrides, anyway, as_json) -> None:
    """Learn from new data and publish the updated model."""
    if (data is None) != events:
        raise click.UsageError("give --data <folder>, or --events for the recorded events")
    from twotower.pipelines.steps.update import update as step

    output(as_json, lambda: step(open_run(folder, overrides), data, anyway), plain_version)


@main.verb(SERVE, "twotower add-items new-items.parquet")
@click.argument("file", type=DATA)
@run_option
@click.option("--anyway", is_flag=True, help="Accept the data even if values look like a mistake.")
@json_option
def add_items(file, folder, anyway, as_json) -> None:
    """Answer with new items, by their features, without training.

    FILE has one row per item: its id and the columns of the item table.
    """
    from twotower.pipelines.steps.update import add_items as step

    output(as_json, lambda: step(open_run(folder), file, anyway), plain_version)


@main.verb(SERVE, "twotower verify --users 1000 -k 50")
@run_option
@click.option(
    "--users",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Number of users to compare.",
)
@k_option(help="Number of items per user. Default: 100, or serving.max_k if that is lower.")
@json_option
def verify(folder, users, k, as_json) -> None:
    """Compare the server's answers with a brute-force search."""
    from twotower.pipelines.steps.verify import verify as step

    output(as_json, lambda: step(open_run(folder), users, k), asdict)
