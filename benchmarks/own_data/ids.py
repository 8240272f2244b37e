"""Part `ids`: text ids against integer ids on ML-1M, in metrics, latency and throughput.

Needs wrk. The texts sort like the integers, so that both runs learn the same; a difference in the
metrics would be a difference in the ids.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import click
import pandas as pd
import yaml

from benchmarks.child import ROOT, call
from benchmarks.main_job import TWOTOWER
from benchmarks.report import Check, Rows
from benchmarks.serving.load import LoadResult, Wire, find_wrk, measure
from benchmarks.serving.subjects import OURS, ServedRun
from twotower.pipelines.cli import quiet
from twotower.workflows.ingest import IngestConfig, ingest

KINDS = INTEGERS, TEXTS = "integer ids", "text ids"
NAMES = {"user_id": "user-{:06d}", "item_id": "item-{:06d}"}
CELLS: tuple[tuple[Wire, int, int], ...] = (
    ("http json", 1, 1),
    ("grpc", 1, 1),
    ("http json", 1, 16),
    ("grpc", 1, 16),
    ("http json", 256, 1),
    ("grpc", 256, 1),
)
"""Wire, users per request, clients. The last two have no limit."""
MAX_RATIO = 1.2


def ids(
    data: Path | None, rounds: int = 7, seconds: int = 3, overrides: tuple[str, ...] = ()
) -> tuple[Rows, list[Check]]:
    """Train on ML-1M with both kinds of ids, and ask both servers in turn.

    Parameters
    ----------
    data : Path
        Folder with ml-1m/.
    rounds : int
        Measurements of each cell; medians are compared.
    seconds : int
        Seconds of load per measurement.
    overrides : tuple of str
        Settings of the runs, such as "training.epochs=2".
    """
    find_wrk()
    if data is None:
        raise click.UsageError("part ids needs --data <folder with ml-1m/>")
    quiet()
    with tempfile.TemporaryDirectory(prefix="two-tower-") as name, ExitStack() as stack:
        folder = Path(name)
        served = {
            kind: ServedRun(train(kind, data, folder / kind, overrides), folder / f"{kind} served")
            for kind in KINDS
        }
        difference = largest_difference(
            one=metrics(served[INTEGERS].run.path), other=metrics(served[TEXTS].run.path)
        )
        servers = {kind: stack.enter_context(each.server(OURS)) for kind, each in served.items()}
        found: dict[tuple[str, tuple[Wire, int, int]], list[LoadResult]] = {}
        for turn in range(-1, rounds):  # the first turn is not counted
            for cell in CELLS:
                wire, batch, clients = cell
                for kind in KINDS[:: 1 if turn % 2 else -1]:
                    server = servers[kind]
                    address = server.grpc if wire == "grpc" else server.http
                    bodies = served[kind].bodies(OURS, wire, batch)
                    result = measure(address, wire, bodies, clients, seconds)
                    found.setdefault((kind, cell), []).extend([result] if turn >= 0 else [])
            click.echo(f"  round {turn + 1} of {rounds}")
    return summary(found, difference)


def train(kind: str, data: Path, folder: Path, overrides: tuple[str, ...] = ()) -> Path:
    """Run the main job on ML-1M as parquet files with ids of a kind; return the run folder."""
    source = folder / "data"
    ingest(IngestConfig(source="ml-1m", path=data / "ml-1m"), source)
    for table in ("interactions", "users", "items"):
        frame = pd.read_parquet(source / f"{table}.parquet")
        if kind == TEXTS:
            for key in NAMES.keys() & set(frame):
                frame[key] = frame[key].map(NAMES[key].format)
        frame.to_parquet(source / f"{table}.parquet")
    tree = yaml.safe_load((ROOT / "configs" / "ml-1m.yaml").read_text())
    files = {table: f"{table}.parquet" for table in ("interactions", "users", "items")}
    tree["ingest"] = {"source": "files", "path": str(source), "files": files}
    tree["ingest"]["files"]["keep"] = ["timestamp"]
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    click.echo(f"training on ML-1M with {kind} ...")
    settings = [word for override in overrides for word in ("--set", override)]
    run = folder / "run"
    command = [TWOTOWER, "run", "--config", str(config), "--run", str(run), *settings]
    call(folder, command, log=f"ids-{kind.partition(' ')[0]}")
    return run


def metrics(run: Path) -> dict[str, dict[str, float]]:
    """The metrics of the model and of the baselines on the test part."""
    return json.loads((run / "reports" / "metrics.json").read_text())["metrics"]


def largest_difference(
    one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]
) -> float:
    """The largest difference between any two metrics of the same model."""
    return max(
        abs(value - other[model][name])
        for model, values in one.items()
        for name, value in values.items()
    )


def summary(
    found: dict[tuple[str, tuple[Wire, int, int]], list[LoadResult]], difference: float
) -> tuple[Rows, list[Check]]:
    """The medians over the rounds, and the ratios of text to integers with their limits."""
    checks = [Check("ids: largest difference between test metrics", difference, "<=", 0)]
    cells = []
    for cell in CELLS:
        wire, batch, clients = cell
        p50, rate = (
            {kind: median(getattr(each, field) for each in found[kind, cell]) for kind in KINDS}
            for field in ("p50_ms", "requests_per_s")
        )
        ratios = {
            "p50, text over integer": round(p50[TEXTS] / p50[INTEGERS], 3),
            "throughput, integer over text": round(rate[INTEGERS] / rate[TEXTS], 3),
        }
        cells.append(
            {
                "wire": wire,
                "users per request": batch,
                "clients": clients,
                **{f"p50 ms, {kind}": round(value, 3) for kind, value in p50.items()},
                **{f"requests/s, {kind}": round(value, 1) for kind, value in rate.items()},
                **ratios,
            }
        )
        if batch == 1:
            measured = "p50, text over integer" if clients == 1 else "throughput, integer over text"
            name = f"ids: {wire}, batch 1, {clients} clients: {measured}"
            checks.append(Check(name, ratios[measured], "<=", MAX_RATIO))
    errors = sum(each.errors for results in found.values() for each in results)
    checks.append(Check("ids: errors", errors, "==", 0))
    return {"ids": {"rounds": len(found[TEXTS, CELLS[0]]), "cells": cells}}, checks
