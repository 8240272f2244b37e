"""`twotower`: each verb calls one function that a notebook or a test can call too.

Nothing heavy is imported at the top: each verb imports what it needs when it is called.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twotower.pipelines.cli.group import Commands, quiet
from twotower.pipelines.cli.output import (
    output,
    plain_comparison,
    plain_recommendations,
    plain_timeline,
    plain_versions,
)

if TYPE_CHECKING:
    from twotower.pipelines.run import Run

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
START, STEPS, SERVE, EXPERIMENT = "Start", "Steps", "Serve", "Experiment"
EPILOG = """\
`twotower VERB --help` lists the options of a verb and shows an example.

Shell completion, for bash and for zsh:
  eval "$(_TWOTOWER_COMPLETE=bash_source twotower)"
  eval "$(_TWOTOWER_COMPLETE=zsh_source twotower)\""""


@click.group(cls=Commands, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(None, "--version", package_name="two-tower-on-merlin", prog_name="twotower")
def main() -> None:
    """Two-tower retrieval on NVIDIA Merlin: from interactions to answers of a Triton server."""
    quiet()


FILE = click.Path(path_type=Path)
run_option = click.option(
    "--run", "folder", type=FILE, help="Run folder. Default: the run that was used last."
)
new_run_option = click.option(
    "--run", "folder", type=FILE, help="Run folder. Default for a new run: runs/<name>."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting. Repeatable; one option may hold several, separated by spaces.",
)
config_option = click.option(
    "--config",
    type=FILE,
    metavar="NAME|FILE",
    help="YAML file, or the name of one in configs/, such as ml-1m.",
)
data_option = click.option("--data", type=FILE, help="Folder or zip with the data.")
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the result as JSON on stdout, and all other output on stderr.",
)
k_option = partial(click.option, "-k", type=click.IntRange(min=1))


def _open(folder: Path | None, overrides: tuple[str, ...] = (), keep: bool = True) -> Run:
    """Open the run in `folder`, or the last run, with overrides."""
    from twotower.pipelines.run import Run

    run = Run(folder) if folder else Run.last()
    run.override(overrides, keep)
    if folder:
        run.remember()
    return run


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

    sys.exit(0 if (doctor_server(_open(folder)) if server else doctor()) else 1)


@main.verb(STEPS, "twotower ingest --config ml-1m --data ml-1m.zip")
@config_option
@data_option
@new_run_option
@set_option
def ingest(config, data, folder, overrides) -> None:
    """Read and check the data.

    With --config or --data a new run folder is made; otherwise the data of --run, or of the last
    run, is read again.
    """
    from twotower.pipelines.steps.ingest import ingest as step

    if config is None and data is None:
        step(_open(folder, overrides))
        return
    from twotower.pipelines.job import choose
    from twotower.pipelines.run import Run

    chosen, line = choose(config, data, overrides)
    click.echo(line)
    step(Run.create(chosen, folder))


@main.verb(STEPS, "twotower preprocess --set split.method=temporal")
@run_option
@set_option
def preprocess(folder, overrides) -> None:
    """Select positives, split them, and encode the features."""
    from twotower.pipelines.steps.preprocess import preprocess as step

    step(_open(folder, overrides))


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
def train(folder, overrides, resume) -> None:
    """Train the two towers."""
    from twotower.pipelines.steps.train import train as step

    step(_open(folder, overrides), resume)


@main.verb(STEPS, "twotower evaluate --set 'evaluation.baselines=[popularity, ease]'")
@run_option
@set_option
@json_option
def evaluate(folder, overrides, as_json) -> None:
    """Measure the towers and the baselines on the test part."""
    from twotower.pipelines.steps.evaluate import evaluate as step

    opened = _open(folder, overrides)
    output(as_json, lambda: step(opened), lambda _: opened.notes("evaluate"))


@main.verb(STEPS, "twotower export --set serving.max_k=500")
@run_option
@set_option
def export(folder, overrides) -> None:
    """Index the items and write a new version of the Triton model."""
    from twotower.pipelines.steps.export import export as step

    step(_open(folder, overrides))


@main.verb(STEPS, "twotower publish\ntwotower publish --version 2")
@run_option
@click.option(
    "--version",
    "number",
    type=click.IntRange(min=1),
    help="Number of the version. Default: the newest.",
)
def publish(folder, number) -> None:
    """Choose the version to serve; a running server loads it."""
    from twotower.pipelines.steps.publish import publish as step

    step(_open(folder), number)


@main.verb(SERVE, "twotower serve --set serving.http_port=8000")
@run_option
@set_option
def serve(folder, overrides) -> None:
    """Serve the published version with Triton until Ctrl-C."""
    from twotower.pipelines.steps.serve import serve as step

    # Not kept: the address is a setting of this server, not of the run.
    step(_open(folder, overrides, keep=False))


@main.verb(SERVE, "twotower query --user 42\ntwotower query --user 42 --user 7 -k 20 --json")
@run_option
@click.option(
    "--user",
    "users",
    type=click.IntRange(-(2**63), 2**63 - 1),
    multiple=True,
    required=True,
    help="User id. Repeatable.",
)
@k_option(help="Number of items per user. Default: serving.default_k.")
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
@click.option("--seen/--no-seen", default=False, help="Include items that the user has seen.")
@json_option
def query(folder, users, k, protocol, seen, as_json) -> None:
    """Ask the server for recommendations.

    If no server is running for this run, one is started for this query.
    """
    from twotower.pipelines.steps.query import query as step

    opened = _open(folder)
    output(
        as_json,
        lambda: step(opened, users, k, protocol, filter_seen=not seen),
        lambda answers: plain_recommendations(opened, users, answers),
    )


@main.verb(SERVE, "twotower versions\ntwotower versions --json")
@run_option
@json_option
def versions(folder, as_json) -> None:
    """List the versions: which is published, which the server uses."""
    from twotower.pipelines.steps.publish import versions as step

    opened = _open(folder)
    output(as_json, lambda: step(opened), lambda found: plain_versions(opened, found))


@main.verb(SERVE, "twotower rollback")
@run_option
def rollback(folder) -> None:
    """Publish the previously published version again."""
    from twotower.pipelines.steps.publish import rollback as step

    step(_open(folder))


@main.verb(SERVE, "twotower update --data new-interactions/")
@click.option(
    "--data",
    type=FILE,
    required=True,
    help="Folder or zip with the new data, in the format of the run's data.",
)
@run_option
@set_option
@click.option(
    "--anyway",
    is_flag=True,
    help="Accept the data and publish the result even if values or changed rows look like a "
    "mistake, or the metrics drop by more than update.max_loss.",
)
def update(data, folder, overrides, anyway) -> None:
    """Learn from new data and publish the updated model."""
    from twotower.pipelines.steps.update import update as step

    step(_open(folder, overrides), data, anyway)


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
def verify(folder, users, k) -> None:
    """Compare the server's answers with a brute-force search."""
    from twotower.pipelines.steps.verify import verify as step

    step(_open(folder), users, k)


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
def tune(config, data) -> None:
    """Search for better settings in the space that a file declares."""
    from twotower.pipelines.experiments.tune import tune as experiment

    experiment(config, data)


@main.verb(EXPERIMENT, "twotower timeline --json")
@run_option
@json_option
def timeline(folder, as_json) -> None:
    """Show how long each step of the last `twotower run` took."""
    from twotower.pipelines.job import show_timeline

    opened = _open(folder)
    output(as_json, lambda: show_timeline(opened), plain_timeline)
