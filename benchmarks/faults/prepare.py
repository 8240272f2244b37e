"""A small published run on synthetic data, and days of data to update it with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from benchmarks.faults.actions import perform
from benchmarks.faults.command import DONE, Command, run_command
from twotower.pipelines.run import Run

if TYPE_CHECKING:
    from twotower.workflows.tables import Tables

SMALL = (
    "ingest.synthetic.users=150",
    "ingest.synthetic.items=120",
    "ingest.synthetic.interactions=4500",
    "features.history=10",
    "training.epochs=2",
    "training.batch_size=256",
    "training.checkpoint_seconds=0.2",
    "update.epochs=1",
    "update.max_loss=1",  # a model this small may lose much by chance
    "evaluation.baselines=[]",
    "serving.keep_versions=100000",
)
ROWS_PER_DAY = 40


@dataclass(frozen=True)
class PreparedRun:
    """A published run.

    Attributes
    ----------
    path : Path
        The run folder.
    days : list of Path
        Folders of new data.
    seconds : dict of str to float
        How long each verb takes.
    log : Path
        Where the commands write.
    """

    path: Path
    days: list[Path]
    seconds: dict[str, float]
    log: Path


def prepare_run(folder: Path, seed: int, days: int) -> PreparedRun:
    """Make a run with two published versions, and folders of data, in `folder`."""
    log = folder / "commands.log"
    folder.mkdir(parents=True, exist_ok=True)
    path, day_folders = run_command(partial(_make_data, folder, seed, days), log)
    seconds = {}
    verbs = ("preprocess", "train", "evaluate", "export", "publish", "export", "publish")
    for verb in verbs:
        outcome = Command(partial(perform, verb, path), log).wait()
        if outcome.kind != DONE:
            raise click.ClickException(f"{verb}: {outcome.value}")
        seconds[verb] = outcome.seconds
    steps = ("preprocess", "train", "evaluate", "export")
    seconds["update"] = sum(seconds[step] for step in steps)
    for verb in ("ingest", "rollback", "versions"):
        seconds[verb] = seconds["publish"]
    click.echo("  seconds: " + ", ".join(f"{verb} {s:.1f}" for verb, s in seconds.items()))
    return PreparedRun(path=path, days=day_folders, seconds=seconds, log=log)


def _make_data(folder: Path, seed: int, days: int) -> tuple[Path, list[Path]]:
    """Write the base and the days; ingest the base into a new run folder."""
    from twotower.pipelines.config import CONFIGS, load_config, parse_config
    from twotower.pipelines.console import console
    from twotower.pipelines.steps.ingest import ingest as ingest_step
    from twotower.workflows.ingest import ingest
    from twotower.workflows.tables import Tables

    console.quiet = True
    config = load_config(CONFIGS / "synthetic.yaml", SMALL)
    ingest(config.ingest, folder / "all")
    tables = Tables.read(folder / "all")
    base, *day_folders = _split_days(tables, folder, seed, days)
    parquet = {
        **{name: f"{name}.parquet" for name in Tables._fields},
        "keep": tables.interactions.column_names[2:],
    }
    tree = json.loads(config.json())
    tree["ingest"] = {"source": "files", "path": str(base), "files": parquet}
    run = Run.create(parse_config(tree, "synthetic run"), folder / "run")
    ingest_step(run, remember=False)
    return run.path, day_folders


def _split_days(tables: Tables, folder: Path, seed: int, days: int) -> Iterator[Path]:
    """Write the base and the days, each with a part of the interactions; yield their folders."""
    from twotower.workflows.tables import Tables

    rows = np.random.default_rng(seed).permutation(tables.interactions.num_rows)
    held_out = days * ROWS_PER_DAY
    parts = [rows[held_out:], *rows[:held_out].reshape(days, ROWS_PER_DAY)]
    for number, part in enumerate(parts):
        path = folder / ("base" if number == 0 else f"day{number}")
        interactions = tables.interactions.take(np.sort(part))
        Tables(interactions, tables.users, tables.items).write(path)
        yield path
