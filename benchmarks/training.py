"""Training measured: pace and memory beside stock Merlin and TFRS, quality by the clock, kills.

    make bench-train DATA=<folder with ml-1m/> [PARTS='speed ...']

Works on the frozen split of ML-1M (`recbole_split.parquet` beside the ratings), preprocessed in a
temporary folder, or on the run that --run names; every training has a process of its own. Part
update needs wrk. Merges its figures into results/training.json and draws
results/training_*.png. For an idle machine.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import click

from benchmarks import training_commands as commands
from benchmarks import training_plot
from benchmarks.load import find_wrk
from benchmarks.report import RESULTS, Check, machine, measure_parts
from benchmarks.training_cells import (
    BATCHES,
    TARGET,
    Paces,
    curve,
    print_paces,
    quality_checks,
    reached,
    speed_checks,
)
from benchmarks.training_process import (
    NO_LISTS,
    OURS,
    STOCK,
    SUBJECTS,
    Task,
    Trained,
    measure,
)
from twotower.models.training.config import TrainingConfig
from twotower.pipelines.cli import quiet

ROOT = Path(__file__).resolve().parents[1]
RESULT = "training"
ROWS = {1_024: 1 << 18, 4_096: 1 << 18, 16_384: 1 << 17, 65_536: 1 << 17}  # an epoch of a pace
EPOCHS = {OURS: 6, NO_LISTS: 6}  # what is fast is measured as long
FEWEST = 3  # the first is warm-up
ENDLESS = 1_000  # epochs
# Peers have no schedule of the learning rate. Ours is the lazy Adam of its recipe: the same, to
# within what a row misses while it has no gradient.
ADAM = {"learning_rate": 0.005, "learning_rate_decay": 1.0}
# An epoch of theirs at 16,384 takes longer than all that 1,024 needs.
PEERS = {STOCK: (1_024, 4_096)}
# Around what grows with the root of the batch size; 0.001 is Keras's default.
LEARNING_RATES = {
    1_024: (0.005, 0.001, 0.02),
    4_096: (0.01, 0.001, 0.005, 0.02),
    16_384: (0.02, 0.001, 0.01, 0.05),
}
VOCABULARIES = ((100_000, 50_000), (1_000_000, 500_000))
STEP_BATCHES = (4_096,)
COMPARED = (TrainingConfig().optimizer, "adam")
SMALL, LARGE = 4_096, 65_536
SPLIT = "recbole_split.parquet"


@dataclass(frozen=True)
class Effort:
    """How long is measured, and what one training may take.

    Attributes
    ----------
    rounds : of the measurements of a pace, in turn
    limit_s : seconds: of a process that measures a pace, and of training for a curve
    memory_gb : what one process may allocate
    """

    rounds: int
    limit_s: float
    memory_gb: int


@dataclass(frozen=True)
class Place:
    """The data, a run on its frozen split that is preprocessed, and room for more."""

    data: Path
    run: Path
    folder: Path


def speed(place: Place, effort: Effort) -> tuple[dict, list[Check]]:
    """Every subject at every batch size, in turn: rows/s, warm-up, resident memory."""
    paces = Paces()
    for turn in range(effort.rounds):
        for number, batch_size in enumerate(BATCHES):
            first = (turn + number) % len(SUBJECTS)
            for subject in (*SUBJECTS[first:], *SUBJECTS[:first]):
                # What a limit has ended once, it would end again.
                if not paces.refused(subject, batch_size):
                    task = _pace(place, subject, {**ADAM, "batch_size": batch_size})
                    paces.add(subject, batch_size, _measured(task, effort))
    records = paces.records()
    print_paces(records)
    title = (
        f"Training on ML-1M, {_machine()}: two towers of 64 dimensions, Adam\n"
        f"A line ends where {effort.memory_gb} GB or {effort.limit_s:g} s were not enough"
    )
    training_plot.draw_speed(records, title, RESULTS / f"{RESULT}_speed.png")
    rows = {"rounds": effort.rounds, "memory limit, GB": effort.memory_gb, "cells": records}
    return {"speed": rows}, speed_checks(paces)


def _pace(place: Place, subject: str, training: dict) -> Task:
    epochs = EPOCHS.get(subject, FEWEST)
    training = {"epochs": epochs, "patience": epochs, **training}
    return Task(subject, str(place.run), training, ROWS[training["batch_size"]])


def _measured(task: Task, effort: Effort) -> Trained | str:
    """Measure one pace and tell it."""
    measured = measure(task, effort.memory_gb, effort.limit_s)
    known = f" of {task.vocabulary[0]:,} users" if task.vocabulary else ""
    shown = measured if isinstance(measured, str) else f"{measured.rows_per_s:,.0f} rows/s"
    optimizer, size = task.training.get("optimizer", "recipe"), task.training["batch_size"]
    click.echo(f"  batch {size:,}{known}, {task.subject}, {optimizer}: {shown}")
    return measured


def _must(task: Task, effort: Effort) -> Trained:
    """The same where no limit may end it."""
    measured = _measured(task, effort)
    if isinstance(measured, str):
        raise click.ClickException(f"{task}: {measured}")
    return measured


def _machine() -> str:
    known = machine()
    return f"{known['cpu']}, {known['cores']} cores"


def quality(place: Place, effort: Effort) -> tuple[dict, list[Check]]:
    """Training seconds until NDCG@10 on test, of every subject by its best settings."""
    # The recipe, and a larger batch.
    ours = ({"epochs": 8}, {"epochs": 8, "batch_size": 8_192, "learning_rate": 0.02})
    curves = [_curve(place, effort, OURS, training, effort.limit_s) for training in ours]
    for subject, batch_sizes in PEERS.items():
        best = effort.limit_s
        for batch_size in batch_sizes:
            for rate in LEARNING_RATES[batch_size]:
                training = {**ADAM, "batch_size": batch_size, "learning_rate": rate}
                training["epochs"] = ENDLESS
                # What takes longer than the best so far is not the best.
                curves.append(_curve(place, effort, subject, training, best))
                best = min(best, reached(curves[-1]))
    title = f"Training on the frozen split of ML-1M, {_machine()}"
    training_plot.draw_quality(curves, title, RESULTS / f"{RESULT}_quality.png")
    rows = {"target": TARGET, "limit, s": effort.limit_s, "curves": curves}
    return {"quality": rows}, quality_checks(curves, effort.limit_s)


def _curve(place: Place, effort: Effort, subject: str, training: dict, seconds: float) -> dict:
    task = Task(subject, str(place.run), training, target=TARGET, seconds=seconds)
    # Imports and evaluations are not in the seconds of training.
    found = curve(task, measure(task, effort.memory_gb, 3 * seconds + 120))
    click.echo(f"  {subject}, {training or 'recipe'}: {reached(found):.1f} s to {TARGET}")
    return found


def vocabulary(place: Place, effort: Effort) -> tuple[dict, list[Check]]:
    """Milliseconds a step with ten times the users and items, by optimizer."""
    cells = product(COMPARED, STEP_BATCHES)
    rows, recipe = {}, TrainingConfig().optimizer
    checks = []
    for optimizer, size in cells:
        # No state of gigabytes is written within the time that is measured.
        training = {"optimizer": optimizer, "batch_size": size, "checkpoint_seconds": 3600}
        tasks = [replace(_pace(place, OURS, training), vocabulary=each) for each in VOCABULARIES]
        rounds = [[_must(task, effort) for task in tasks] for _ in range(effort.rounds)]
        small, large = (
            round(median(1e3 * size / each.rows_per_s for each in column), 2)
            for column in zip(*rounds, strict=True)
        )
        ratio = round(large / small, 3)
        peak = round(max(each.peak_gb for _, each in rounds), 2)
        rows[f"{optimizer}, {size:,}"] = {
            "ms a step": [small, large],
            "ratio": ratio,
            "peak GB of the larger": peak,
        }
        if optimizer == recipe:
            name = f"vocabulary ten times as large, {recipe} at {size:,}: time a step, ratio"
            checks.append(Check(name, ratio, "<=", 1.2))
    return {"vocabulary": {"users and items": VOCABULARIES, **rows}}, checks


def memory(place: Place, effort: Effort) -> tuple[dict, list[Check]]:
    """Resident memory of ours at a batch of 65,536, also beside 4,096."""
    small, large = (
        _must(_pace(place, OURS, {"batch_size": size}), effort) for size in (SMALL, LARGE)
    )
    # Tables are as large for every batch.
    ratio = round((large.peak_gb - large.tables_gb) / small.peak_gb, 3)
    rows = {
        f"batch {size:,}": {
            "GB before the model": round(each.baseline_gb, 2),
            "peak GB": round(each.peak_gb, 2),
            "tables GB": round(each.tables_gb, 3),
        }
        for size, each in ((SMALL, small), (LARGE, large))
    }
    return {"memory": rows}, [
        Check(f"peak resident GB at {LARGE:,}", round(large.peak_gb, 2), "<=", 6),
        Check(f"peak at {LARGE:,}, less the tables, over {SMALL:,}", ratio, "<=", 1.5),
    ]


PARTS: dict[str, Callable[[Place, Effort], tuple[dict, list[Check]]]] = {
    "speed": speed,
    "quality": quality,
    "vocabulary": vocabulary,
    "memory": memory,
    "resume": lambda place, effort: commands.resume(place.run, place.folder),
    "run": lambda place, effort: commands.main_job(place.data),
    "update": lambda place, effort: commands.update(place.data, place.folder),
}


def preprocessed(data: Path, folder: Path) -> Path:
    """A run on the frozen split of ML-1M, made in `folder`."""
    click.echo("preprocessing ML-1M ...")
    source = data / "ml-1m"
    settings = ("split.method=file", f"split.path={source / SPLIT}", "split.k_core=0")
    config = ["--config", str(ROOT / "configs/ml-1m.yaml"), "--data", str(source)]
    flags = [word for each in settings for word in ("--set", each)]
    commands.twotower(folder, "ingest", *config, *flags)
    commands.twotower(folder, "preprocess")
    return folder / "runs" / "ml-1m"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="On the frozen split.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--limit-s", type=click.FloatRange(1), default=600, show_default=True)
@click.option("--memory-gb", type=click.IntRange(1), help="Default: three quarters of all.")
def main(
    data: Path,
    run: Path | None,
    parts: tuple[str, ...],
    rounds: int,
    limit_s: float,
    memory_gb: int | None,
) -> None:
    """Measure the parts (default: all) one after another, on an idle machine."""
    names = parts or list(PARTS)
    if "update" in names:
        find_wrk()
    quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    effort = Effort(rounds, limit_s, memory_gb or round(machine()["memory_gib"] * 0.75))
    with tempfile.TemporaryDirectory(prefix="two-tower-") as name:
        folder, data = Path(name), data.resolve()
        place = Place(data, run.resolve() if run else preprocessed(data, folder), folder)
        chosen = {part: partial(PARTS[part], place, effort) for part in names}
        measure_parts(RESULT, chosen)


if __name__ == "__main__":
    main()
