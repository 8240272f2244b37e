"""Command line of the benchmark of filters and of the second stage.

    make bench-two-stage DATA=<folder with ml-1m/> [PARTS='filters ...']

Trains on ML-1M in a temporary folder, or measures a copy of the run that --run names. Writes its
figures to results/two_stage.json.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import click

from benchmarks.report import Part, measure_parts
from benchmarks.serving.__main__ import served_run
from benchmarks.two_stage.cold import cold_items, cold_users
from benchmarks.two_stage.diversity import diversity
from benchmarks.two_stage.explicit import explicit
from benchmarks.two_stage.filters import filters
from benchmarks.two_stage.live import live
from benchmarks.two_stage.served import by_time, served, served_speed
from benchmarks.two_stage.ten_candidates import ten_candidates
from twotower.pipelines.cli import quiet

RESULT = "two_stage"
PARTS = (
    "filters",
    "diversity",
    "served",
    "by_time",
    "served_speed",
    "ten_candidates",
    "cold_users",
    "cold_items",
    "explicit",
    "live",
)
OF_A_RUN = ("filters", "diversity")


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True))
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A run on ML-1M.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
def main(data: Path | None, run: Path | None, parts: tuple[str, ...]) -> None:
    """Measure the parts (default: all), on an idle machine."""
    quiet()
    chosen = parts or PARTS
    of_data = {
        "served": served,
        "by_time": by_time,
        "served_speed": served_speed,
        "ten_candidates": ten_candidates,
        "cold_users": cold_users,
        "cold_items": cold_items,
        "explicit": explicit,
        "live": live,
    }
    if data is None and not set(chosen) <= set(OF_A_RUN):
        raise click.UsageError(
            f"name --data <folder with ml-1m/>, or --part {' or '.join(OF_A_RUN)}"
        )
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        measures: dict[str, Part] = {}
        if set(chosen) & set(OF_A_RUN):
            ours = served_run(data, run, Path(folder))
            measures = {"filters": lambda: filters(ours), "diversity": lambda: diversity(ours.run)}
        for name, part in of_data.items():
            measures[name] = partial(part, data and data.resolve())
        measure_parts(RESULT, {name: measures[name] for name in chosen})


if __name__ == "__main__":
    main()
