"""Command line of the training benchmark.

    make bench-train DATA=<folder with ml-1m/> [PARTS='speed ...']

Works on the frozen split of ML-1M (`recbole_split.parquet` beside the ratings), preprocessed in a
temporary folder, or on the run that --run names. Each training runs in a process of its own. Part
`update` needs wrk. Writes its figures to results/training.json and draws results/training_*.png.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.child import ROOT
from benchmarks.report import Part, machine, measure_parts
from benchmarks.serving.load import find_wrk
from benchmarks.training.commands import main_job, resume, twotower
from benchmarks.training.measure import Limits, memory, quality, speed, vocabulary
from benchmarks.training.update import update
from twotower.pipelines.cli import quiet

RESULT = "training"
PARTS = ("speed", "quality", "vocabulary", "memory", "resume", "run", "update")
SPLIT = "recbole_split.parquet"


def preprocess(data: Path, folder: Path) -> Path:
    """Preprocess the frozen split of ML-1M in `folder`; return the run folder."""
    click.echo("preprocessing ML-1M ...")
    source = data / "ml-1m"
    options = [
        "--config",
        str(ROOT / "configs/ml-1m.yaml"),
        "--data",
        str(source),
        "--set",
        "split.method=file",
        "--set",
        f"split.path={source / SPLIT}",
        "--set",
        "split.k_core=0",
    ]
    twotower(folder, "ingest", options)
    twotower(folder, "preprocess")
    return folder / "runs" / "ml-1m"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--run",
    type=click.Path(path_type=Path, exists=True),
    help="A preprocessed run on the frozen split.",
)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--limit-s", type=click.FloatRange(1), default=600, show_default=True)
@click.option("--memory-gb", type=click.IntRange(1), help="Default: three quarters of the memory.")
def main(
    data: Path,
    run: Path | None,
    parts: tuple[str, ...],
    rounds: int,
    limit_s: float,
    memory_gb: int | None,
) -> None:
    """Measure the parts (default: all) one after another, on an idle machine."""
    names = parts or PARTS
    if "update" in names:
        find_wrk()
    quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    memory_gb = memory_gb or round(machine()["memory_gib"] * 0.75)
    limits = Limits(rounds=rounds, seconds=limit_s, memory_gb=memory_gb)
    with tempfile.TemporaryDirectory(prefix="two-tower-") as name:
        folder, data = Path(name), data.resolve()
        source = run.resolve() if run else preprocess(data, folder)
        measures: dict[str, Part] = {
            "speed": lambda: speed(source, limits),
            "quality": lambda: quality(source, limits),
            "vocabulary": lambda: vocabulary(source, limits),
            "memory": lambda: memory(source, limits),
            "resume": lambda: resume(source, folder),
            "run": lambda: main_job(data),
            "update": lambda: update(data, folder),
        }
        measure_parts(RESULT, {part: measures[part] for part in names})


if __name__ == "__main__":
    main()
