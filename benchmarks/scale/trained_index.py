"""Part `trained_index`: an approximate index of trained item vectors, and its server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from benchmarks.child import LOGS
from benchmarks.main_job import TWOTOWER
from benchmarks.report import Check, Rows
from benchmarks.scale.sizes import REAL_ROWS, generating, served_times
from benchmarks.scale.watch import run
from twotower.pipelines.run import Run

RECALL, MEMORY_SHARE, FASTER = 0.95, 0.45, 20
"""What is asked of the index: recall@100, memory over that of the float vectors, and how many times
faster than an exact search it has to be."""
SLOWER = 2
"""How many times as slow as a version of few items a server may be."""
FEW = 100_000


def trained_index(folder: Path) -> tuple[Rows, list[Check]]:
    """Train one epoch on a set of the real size, choose an index by its users, and serve it."""
    row = {}
    for name, rows in (("few", FEW), ("all", REAL_ROWS)):
        row[name] = _measure(folder, name, rows)
    found, small = row["all"], row["few"]["served"]["p50, ms"]
    name = f"index of {found['items']:,} trained items"
    over = round(found["served"]["p50, ms"] / small, 2)
    checks = [
        Check(f"{name}: recall@100", found["recall@100"], ">=", RECALL),
        Check(f"{name}: times faster than flat", found["times faster than flat"], ">=", FASTER),
        Check(f"{name}: memory over vectors", found["memory over float vectors"], "<=", 0.5),
        Check(f"{name}: p50 of a server over that of few items", over, "<=", SLOWER),
    ]
    return {"index of trained items": {**found, "p50 of a server of few items, ms": small}}, checks


def _measure(folder: Path, name: str, rows: int) -> dict:
    data, project = folder / f"data-{name}", folder / f"trained-{name}"
    path = project / "runs" / "ali-ccp-raw"
    project.mkdir(parents=True)

    def twotower(verb: str, *options: str) -> None:
        cost = run(project, [TWOTOWER, verb, *options], LOGS / f"scale-{name}-{verb}.log")
        click.echo(f"  {name}: twotower {verb}: {cost.seconds:.0f} s, {cost.most():.1f} GB")

    try:
        run(project, generating(rows, data), LOGS / f"scale-{name}-generate.log")
        twotower("ingest", "--config", "ali-ccp-raw", "--data", str(data))
        twotower("preprocess")
        twotower("train", "--set", "training.epochs=1")
        items = json.loads((path / "manifest.json").read_text())["steps"]["ingest"]["notes"][
            "items"
        ]
        dim = Run(path).config.model.dim
        if name == "all":
            megabytes = int(MEMORY_SHARE * 4 * dim * items / 1e6)
            twotower("index", "--recall", str(RECALL), "--memory", f"{megabytes}MB")
        twotower("export")
        twotower("publish")
        metadata = json.loads((path / "index" / "index.json").read_text())
        served = served_times(Run(path))
        if name == "few":
            return {"items": items, "served": served}
        times, kind = metadata["p50_ms"], metadata["kind"]
        return {
            "items": metadata["count"],
            "dimensions": metadata["dim"],
            "kind": kind,
            "parameters": f"{metadata['lists']} lists, {metadata['effort']} probed",
            "recall@100": metadata["recall"]["value"],
            "p50 flat, ms": times["flat"],
            "p50 index, ms": times[kind],
            "times faster than flat": round(times["flat"] / times[kind], 1),
            "memory, MB": round(metadata["bytes"] / 1e6, 1),
            "memory over float vectors": round(
                metadata["bytes"] / (4 * metadata["dim"] * metadata["count"]), 3
            ),
            "served": served,
        }
    finally:
        shutil.rmtree(project, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
