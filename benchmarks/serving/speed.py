"""Part `speed`: latency, throughput, memory and start-up of every subject."""

from __future__ import annotations

from contextlib import ExitStack

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS, Check, Rows, machine
from benchmarks.serving import plot
from benchmarks.serving.cells import Cell, SpeedResults, cells, checks, ratios
from benchmarks.serving.load import measure
from benchmarks.serving.subjects import (
    OURS_WITH_FEATURES,
    STOCK,
    SUBJECTS,
    ServedRun,
    Subject,
    resident_memory,
)
from twotower.pipelines.steps.verify import best_of
from twotower.serving.triton.control import MODEL_NAME

EXACT_USERS = 100


def speed(served: ServedRun, seconds_per_cell: int, rounds: int) -> tuple[Rows, list[Check]]:
    """Measure every subject in each of its cells, in turn; draw results/serving.png.

    Parameters
    ----------
    served : ServedRun
    seconds_per_cell : int
        Seconds of load per subject, cell and round.
    rounds : int
        Repetitions of the whole plan; medians over the rounds are reported.
    """
    plan = list(cells())
    runs = rounds * sum(len(subjects) for _, subjects in plan)
    click.echo(f"  {runs} measurements of {seconds_per_cell} s each")
    results = SpeedResults()
    with ExitStack() as stack:
        subjects = served.start(stack)
        exact = exact_share(served, subjects[STOCK])
        _warm_up(served, subjects)
        for turn in range(rounds):
            for number, (cell, names) in enumerate(plan):
                first = (turn + number) % len(names)
                names = names[first:] + names[:first]
                _measure_cell(served, subjects, results, cell, names, seconds_per_cell)
                click.echo(f"  round {turn + 1}: {cell}: {_latest(results, cell, names)}")
        servers = {
            name: {"ready_s": round(subject.seconds, 1), **resident_memory(subject.server)}
            for name, subject in subjects.items()
            if name != OURS_WITH_FEATURES
        }
    records, found = results.records(), ratios(results)
    print_table(records)
    host = machine()
    title = f"Median latency on {host['cpu']}, {host['cores']} cores, ML-1M, top 10"
    plot.draw(records, title, RESULTS / "serving.png")
    rows = {
        "speed": {"seconds per cell": seconds_per_cell, "rounds": rounds, "cells": records},
        "ratios": found,
        "servers": servers,
        "stock ensemble": {f"share of the exact top 10, {EXACT_USERS} users": exact},
    }
    return rows, checks(results, found)


def _measure_cell(
    served: ServedRun,
    subjects: dict[str, Subject],
    results: SpeedResults,
    cell: Cell,
    names: list[str],
    seconds: int,
) -> None:
    """Measure the named subjects in one cell, one after the other."""
    for name in names:
        server = subjects[name].server
        bodies = served.bodies(name, cell.wire, cell.batch)
        address = server.grpc if cell.wire == "grpc" else server.http
        found = measure(
            address=address, wire=cell.wire, bodies=bodies, clients=cell.clients, seconds=seconds
        )
        results.add(name, cell, found)


def _warm_up(served: ServedRun, subjects: dict[str, Subject]) -> None:
    """Send requests of each kind that are not counted: the first ones pay for initialization."""
    for cell, names in cells():
        if cell.clients == 1:
            _measure_cell(served, subjects, SpeedResults(), cell, names, seconds=1)


def exact_share(served: ServedRun, stock: Subject) -> float:
    """Compute the share of the exact top 10 in the stock ensemble's answers."""
    from tritonclient import http

    from benchmarks.serving.peers import OUTPUT, TOP_K

    rows = np.random.default_rng(3).choice(len(served.users), EXACT_USERS, replace=False)
    expected, _ = best_of(served.vectors[0], served.scores(rows), TOP_K)
    found = 0
    with http.InferenceServerClient(stock.server.http) as client:
        for row, best in zip(rows, expected, strict=True):
            inputs = []
            for name, column in served.inputs(row[None], features=True).items():
                datatype = "BYTES" if column.dtype == object else "INT64"
                inputs.append(http.InferInput(name, [1], datatype))
                inputs[-1].set_data_from_numpy(column.ravel())
            found += np.isin(best, client.infer(MODEL_NAME, inputs).as_numpy(OUTPUT)).sum()
    return round(found / expected.size, 3)


def _latest(results: SpeedResults, cell: Cell, names: list[str]) -> str:
    latest = {name: results.rounds[name, cell][-1] for name in names}
    return ", ".join(
        f"{name} {each.p50_ms:.2f} ms" + f" ({each.errors} errors)" * bool(each.errors)
        for name, each in latest.items()
    )


def print_table(records: list[dict]) -> None:
    """Print a table with one row per cell and one column per subject."""
    table = Table("wire", "batch", "clients", *SUBJECTS, title_justify="left")
    table.title = "p50 / p99 in ms, requests/s"
    shown: dict[tuple[str, int, int], dict[str, str]] = {}
    for each in records:
        cell = (each["wire"], each["batch"], each["clients"])
        shown.setdefault(cell, {})[each["subject"]] = (
            f"{each['p50_ms']:.2f} / {each['p99_ms']:.2f}, {each['requests_per_s']:,.0f}"
        )
    for cell, subjects in shown.items():
        table.add_row(*map(str, cell), *(subjects.get(name, "") for name in SUBJECTS))
    Console(width=150, highlight=False).print(table)
