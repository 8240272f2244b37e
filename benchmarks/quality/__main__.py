"""Command line of the quality benchmark.

python -m benchmarks.quality --data <folder> [--part frozen ...]

The folder has ml-1m/, ml-100k/, gowalla/ and sequences/.

The figures of part `evaluation` go to results/faults.json, those of the others to
results/quality.json. Part `grids` also writes its reports to docs/.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from benchmarks.quality.accuracy import fresh, frozen, grids, last_out, tutorial
from benchmarks.quality.cold_items import cold_items
from benchmarks.quality.public_sets import (
    AMAZON,
    NEXT_ITEMS,
    gowalla,
    next_item,
    random_split,
)
from benchmarks.quality.ranking import evaluation
from benchmarks.quality.scale import scale
from benchmarks.report import Check, Rows, measure_parts

PARTS: dict[str, Callable[[Path], tuple[Rows, list[Check]]]] = {
    "frozen": frozen,
    "fresh": fresh,
    "tutorial": tutorial,
    "last_out": last_out,
    "grids": grids,
    "gowalla": gowalla,
    **{f"random_split_{name}": partial(random_split, name=name) for name in AMAZON},
    **{f"next_item_{name}": partial(next_item, name=name) for name in NEXT_ITEMS},
    "cold_items": cold_items,
    "scale": scale,
    "evaluation": evaluation,
}


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
def main(data: Path, parts: tuple[str, ...]) -> None:
    """Measure the parts (default: all) one after another."""
    for part in parts or PARTS:
        result = "faults" if part == "evaluation" else "quality"
        measure_parts(result, {part: partial(PARTS[part], data.resolve())})


if __name__ == "__main__":
    main()
