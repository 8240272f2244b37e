"""Command line of the serving benchmark.

    make bench-serving DATA=<folder with ml-1m/> [PARTS='speed ...']
    make soak DATA=<folder with ml-1m/>

Needs wrk. Trains on ML-1M in a temporary folder, or measures a copy of the run that --run names.
Writes its figures to results/serving.json and draws results/serving.png.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.child import ROOT, call
from benchmarks.main_job import TWOTOWER
from benchmarks.report import Part, measure_parts
from benchmarks.serving.correctness import correct, soak, startup
from benchmarks.serving.load import find_wrk
from benchmarks.serving.reliability import damage, disk, encoding, kill, publishing
from benchmarks.serving.speed import speed
from benchmarks.serving.subjects import ServedRun
from twotower.pipelines.cli import quiet

RESULT = "serving"
PARTS = (
    "speed",
    "startup",
    "correct",
    "encoding",
    "publishing",
    "damage",
    "disk",
    "kill",
    "soak",
)
SLOW = ("kill", "soak")


def train(data: Path, folder: Path) -> Path:
    """Run the main job on ML-1M in `folder`; return the run folder."""
    click.echo("training on ML-1M ...")
    command = [
        TWOTOWER,
        "run",
        "--config",
        str(ROOT / "configs/ml-1m.yaml"),
        "--data",
        str(data / "ml-1m"),
    ]
    call(folder, command, log="serving-run")
    return folder / "runs" / "ml-1m"


def served_run(data: Path | None, run: Path | None, folder: Path) -> ServedRun:
    """Return a copy in `folder` of a run, or of one that is trained on ML-1M for it."""
    if run is None:
        if data is None:
            raise click.UsageError("name --data <folder with ml-1m/> or --run <run folder>")
        run = train(data.resolve(), folder)
    return ServedRun(run.resolve(), folder / "served")


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True))
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A run on ML-1M.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
@click.option("--seconds-per-cell", type=click.IntRange(1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.IntRange(20), default=600, help="Duration of the soak test.")
def main(
    data: Path | None,
    run: Path | None,
    parts: tuple[str, ...],
    seconds_per_cell: int,
    rounds: int,
    seconds: int,
) -> None:
    """Measure the parts (default: all except kill and soak), on an idle machine."""
    find_wrk()
    quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        served = served_run(data, run, Path(folder))
        measures: dict[str, Part] = {
            "speed": lambda: speed(served, seconds_per_cell=seconds_per_cell, rounds=rounds),
            "startup": lambda: startup(served),
            "correct": lambda: correct(served),
            "encoding": lambda: encoding(served),
            "publishing": publishing,
            "damage": lambda: damage(served),
            "disk": disk,
            "kill": kill,
            "soak": lambda: soak(served, seconds=seconds),
        }
        names = parts or [part for part in PARTS if part not in SLOW]
        measure_parts(RESULT, {name: measures[name] for name in names})


if __name__ == "__main__":
    main()
