"""Command line of the benchmark of own data.

python -m benchmarks.own_data [--data <folder with ml-1m/ and ml-100k/>] [--part ...]

The figures go to results/own_data.json.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from benchmarks.own_data.five_minutes import five_minutes
from benchmarks.own_data.formats import formats
from benchmarks.own_data.ids import ids
from benchmarks.own_data.ingest_25m import movielens_25m
from benchmarks.own_data.recommend import recommend
from benchmarks.own_data.verdict import verdict
from benchmarks.report import Check, Rows, measure_parts

PARTS: dict[str, Callable[[Path | None], tuple[Rows, list[Check]]]] = {
    "five_minutes": five_minutes,
    "formats": formats,
    "ids": ids,
    "recommend": recommend,
    "movielens_25m": movielens_25m,
    "verdict": verdict,
}


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path))
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
def main(data: Path | None, parts: tuple[str, ...]) -> None:
    """Measure the parts (default: all) one after another."""
    folder = data and data.resolve()
    for part in parts or PARTS:
        measure_parts("own_data", {part: partial(PARTS[part], folder)})


if __name__ == "__main__":
    main()
