"""Command line of the fault benchmark.

    make bench-faults [PARTS='kills pairs memory']

All data is synthetic. Parts `kills` and `pairs` need the right to create pid namespaces. Writes
its figures to results/faults.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.faults.kills import kill_commands
from benchmarks.faults.memory import measure
from benchmarks.faults.pairs import run_pairs
from benchmarks.faults.prepare import prepare_run
from benchmarks.report import Check, Part, Rows, measure_parts

RESULT = "faults"
KILLS, PAIRS, SEED = 100, 200, 1


def kills() -> tuple[Rows, list[Check]]:
    """Kill train, update, export and publish."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
        prepared = prepare_run(Path(folder), seed=SEED, days=KILLS // 2)
        rows, checks = kill_commands(prepared, kills=KILLS, seed=SEED)
    return {"kills": {"data": "synthetic", "commands": rows}}, checks


def pairs() -> tuple[Rows, list[Check]]:
    """Run two random commands at the same time on one run folder."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
        prepared = prepare_run(Path(folder), seed=SEED, days=2)
        rows, checks = run_pairs(prepared, pairs=PAIRS, seed=SEED)
    return {"pairs": {"data": "synthetic", "commands": rows}}, checks


PARTS: dict[str, Part] = {"kills": kills, "pairs": pairs, "memory": measure}


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
def main(parts: tuple[str, ...]) -> None:
    """Measure the parts (default: all) one after another."""
    measure_parts(RESULT, {name: PARTS[name] for name in parts or PARTS})


if __name__ == "__main__":
    main()
