"""A run folder under kills and concurrent commands, and the served model's memory.

    make bench-faults [PARTS='kills pairs memory']

Needs the right to make pid namespaces. All data is made up. Merges its figures into
results/faults.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import memory, run_folder
from benchmarks.report import Check, measure_parts

KILLS, PAIRS, SEED = 100, 200, 1


def kills() -> tuple[dict[str, Any], list[Check]]:
    """SIGKILL in train, update, export and publish, each command in a pid namespace of its own."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
        rows, checks = run_folder.measure_kills(KILLS, SEED, Path(folder))
    return {"kills": {"data": "made up", "commands": rows}}, checks


def pairs() -> tuple[dict[str, Any], list[Check]]:
    """Two random commands at once on one run folder."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
        rows, checks = run_folder.measure_pairs(PAIRS, SEED, Path(folder))
    return {"pairs": {"data": "made up", "commands": rows}}, checks


PARTS = {"kills": kills, "pairs": pairs, "memory": memory.measure}


@click.command()
@click.option("--part", "chosen", multiple=True, type=click.Choice(list(PARTS)))
def main(chosen: tuple[str, ...]) -> None:
    """Measure, and write benchmarks/results/faults.json."""
    measure_parts("faults", {name: PARTS[name] for name in chosen or PARTS})


if __name__ == "__main__":
    main()
