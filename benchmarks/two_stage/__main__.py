"""Command line of the benchmark of filters and of the second stage.

    make bench-two-stage DATA=<folder with ml-1m/> [PARTS='filters ...']

Trains on ML-1M in a temporary folder, or measures a copy of the run that --run names. Writes its
figures to results/two_stage.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.report import Part, measure_parts
from benchmarks.serving.__main__ import served_run
from benchmarks.two_stage.diversity import diversity
from benchmarks.two_stage.filters import filters
from twotower.pipelines.cli import quiet

RESULT = "two_stage"
PARTS = ("filters", "diversity")


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True))
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A run on ML-1M.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
def main(data: Path | None, run: Path | None, parts: tuple[str, ...]) -> None:
    """Measure the parts (default: all), on an idle machine."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        served = served_run(data, run, Path(folder))
        measures: dict[str, Part] = {
            "filters": lambda: filters(served),
            "diversity": lambda: diversity(served.run),
        }
        measure_parts(RESULT, {name: measures[name] for name in parts or PARTS})


if __name__ == "__main__":
    main()
