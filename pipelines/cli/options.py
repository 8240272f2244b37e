"""The command group `twotower`, and the options that several verbs share.

Nothing heavy is imported at the top of these modules: each verb imports what it needs when it is
called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twotower.pipelines.cli.group import Commands, quiet, start_worker
from twotower.workflows.sources.data_path import DataPath

if TYPE_CHECKING:
    from twotower.pipelines.run import Run

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
START, STEPS, SERVE = "Start", "Steps", "Serve"
ON_ERROR = "ingest.ali_ccp_raw.on_error"
"""The setting that the option --on-error sets."""
ANSWERS, EXPERIMENT = "Answers", "Experiment"
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
    start_worker(click.get_current_context().invoked_subcommand)


FILE = click.Path(path_type=Path)
DATA = click.Path(path_type=DataPath)
"""Data, which may be in S3 or GCS."""
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
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Processes that preprocess the data (dask.workers). Default: none but this one.",
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Running Dask scheduler whose workers preprocess the data, such as tcp://10.0.0.5:8786.",
)
config_option = click.option(
    "--config",
    type=FILE,
    metavar="NAME|FILE",
    help="YAML file, or the name of one in configs/, such as ml-1m.",
)
data_option = click.option("--data", type=DATA, help="Folder or zip with the data.")
on_error_option = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    help="What to do with a malformed line of source ali-ccp-raw: stop, or leave it out.",
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the result as JSON on stdout, and all other output on stderr.",
)


def with_on_error(overrides: tuple[str, ...], on_error: str | None) -> tuple[str, ...]:
    """Add the setting that --on-error stands for to those of --set."""
    return overrides if on_error is None else (*overrides, f"{ON_ERROR}={on_error}")


def check_on_error(source: str, on_error: str | None) -> None:
    """Raise UsageError if --on-error is given and the source has no such setting."""
    if on_error is not None and source != "ali-ccp-raw":
        raise click.UsageError(f"--on-error is for source ali-ccp-raw; this is source {source}")


k_option = partial(click.option, "-k", type=click.IntRange(min=1))


rank_option = click.option(
    "--rank", is_flag=True, help="Have the ranking model order the answers (ranking.model)."
)


def filter_options(command: Callable) -> Callable:
    """Add the options that say which items may be in the answers."""
    for option in (
        click.option(
            "--diversity-by",
            metavar="COLUMN",
            help="Column of serving.filters by which items are alike. Default: their vectors.",
        ),
        click.option(
            "--diversity",
            type=click.FloatRange(0, 1),
            help="How much an item counts for being unlike those before it; 0 keeps the order of "
            "the scores.",
        ),
        click.option(
            "--max-per",
            multiple=True,
            metavar="COLUMN=NUMBER",
            help="How many items may share a value of a column of serving.filters. Repeatable.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="ITEM",
            help="Item id that may not be in the answers. Repeatable.",
        ),
        click.option(
            "--allow",
            multiple=True,
            metavar="ITEM",
            help="Item id that may be in the answers; others may not. Repeatable.",
        ),
        click.option(
            "--where",
            metavar="JSON",
            help="Predicate over the columns of serving.filters; only items that satisfy it are in "
            'the answers, such as \'{"year": {"$gte": 1990}}\'.',
        ),
    ):
        command = option(command)
    return command


def open_run(folder: Path | None, overrides: tuple[str, ...] = (), keep: bool = True) -> Run:
    """Open the run in `folder`, or the last run, with overrides."""
    from twotower.pipelines.run import Run

    run = Run(folder) if folder else Run.last()
    run.override(overrides, keep)
    if folder:
        run.remember()
    return run


def dask_settings(workers: int | None, scheduler: str | None) -> tuple[str, ...]:
    """Return the overrides that the options --workers and --scheduler stand for."""
    if workers and scheduler is not None:
        raise click.UsageError("--workers and --scheduler both name processes to use; give one")
    if scheduler is not None:
        return ("dask.workers=0", f"dask.scheduler={scheduler}")
    return () if workers is None else (f"dask.workers={workers}", "dask.scheduler=null")
