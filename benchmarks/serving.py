"""The served model measured: speed, start-up, memory, right answers under load, endurance.

    make bench-serving DATA=<folder with ml-1m/> [PARTS='speed ...']
    make soak DATA=<folder with ml-1m/>

Needs wrk. Trains on ML-1M in a temporary folder, or measures a copy of the run that --run names;
merges its figures into results/serving.json and draws results/serving.png. For an idle machine.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks import plot, reliability
from benchmarks.faults import faults
from benchmarks.load import WIRES, Load, Request, find_wrk, load, measure, write_bodies
from benchmarks.main_job import call
from benchmarks.report import RESULTS, Check, machine, measure_parts
from benchmarks.speed import Cell, Results, cells, checks, print_table, ratios
from benchmarks.subjects import BODIES, GIVEN, OURS, STOCK, Subject, World, memory
from twotower.pipelines.cli import quiet
from twotower.pipelines.steps.verify import best_of, count_wrong, score_unseen
from twotower.serving.client import RetrievalClient
from twotower.serving.triton.control import MODEL_NAME

ROOT = Path(__file__).resolve().parents[1]
RESULT = "serving"
STARTS, REQUESTS, ANSWERS, LARGEST_K = 5, 1_000, 2_000, 100
CLIENTS = 16
EXACT_USERS = 100


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    seconds_per_cell: int
    rounds: int
    soak_seconds: int


def speed(world: World, effort: Effort) -> tuple[dict, list[Check]]:
    """Every subject in every cell of its own, in turn: latency, throughput, memory, start-up."""
    plan = list(cells())
    runs = effort.rounds * sum(len(subjects) for _, subjects in plan)
    click.echo(f"  {runs} measurements of {effort.seconds_per_cell} s each")
    results = Results()
    with ExitStack() as stack:
        subjects = world.start(stack)
        exact = exact_share(world, subjects[STOCK])
        warm_up(world, subjects)
        for turn in range(effort.rounds):
            for number, (cell, names) in enumerate(plan):
                first = (turn + number) % len(names)
                names = names[first:] + names[:first]
                measure_cell(world, subjects, results, cell, names, effort.seconds_per_cell)
                click.echo(f"  round {turn + 1}: {cell}: {_latest(results, cell, names)}")
        servers = {
            name: {"ready_s": round(subject.seconds, 1), **memory(subject.server)}
            for name, subject in subjects.items()
            if name != GIVEN
        }
    records, found = results.records(), ratios(results)
    print_table(records)
    drawn = machine()
    title = f"Median latency on {drawn['cpu']}, {drawn['cores']} cores, ML-1M, top 10"
    plot.draw(records, title, RESULTS / f"{RESULT}.png")
    rows = {
        "speed": {
            "seconds per cell": effort.seconds_per_cell,
            "rounds": effort.rounds,
            "cells": records,
        },
        "ratios": found,
        "servers": servers,
        "stock ensemble": {f"share of the exact top 10, {EXACT_USERS} users": exact},
    }
    return rows, checks(results, found)


def measure_cell(
    world: World,
    subjects: dict[str, Subject],
    results: Results,
    cell: Cell,
    names: list[str],
    seconds: int,
) -> None:
    """Ask the named subjects, one after the other."""
    for name in names:
        server = subjects[name].server
        bodies = world.bodies(name, cell.wire, cell.batch)
        address = server.grpc if cell.wire == "grpc" else server.http
        results.add(name, cell, measure(address, cell.wire, bodies, cell.clients, seconds))


def warm_up(world: World, subjects: dict[str, Subject]) -> None:
    """The first requests of each kind pay for what is made once, and count nowhere."""
    for cell, names in cells():
        if cell.clients == 1:
            measure_cell(world, subjects, Results(), cell, names, 1)


def exact_share(world: World, stock: Subject) -> float:
    """Which share of the exact top 10 the stock ensemble's answers hold: that it does answer."""
    from tritonclient import http

    from benchmarks.peers import OUTPUT, TOP_K

    rows = np.random.default_rng(3).choice(len(world.users), EXACT_USERS, replace=False)
    expected, _ = best_of(world.vectors[0], world.scores(rows), TOP_K)
    found = 0
    with http.InferenceServerClient(stock.server.http) as client:
        for row, best in zip(rows, expected, strict=True):
            inputs = []
            for name, column in world.inputs(row[None], features=True).items():
                kind = "BYTES" if column.dtype == object else "INT64"
                inputs.append(http.InferInput(name, [1], kind))
                inputs[-1].set_data_from_numpy(column.ravel())
            found += np.isin(best, client.infer(MODEL_NAME, inputs).as_numpy(OUTPUT)).sum()
    return round(found / expected.size, 3)


def _latest(results: Results, cell: Cell, names: list[str]) -> str:
    latest = {name: results.rounds[name, cell][-1] for name in names}
    return ", ".join(
        f"{name} {each.p50_ms:.2f} ms" + f" ({each.errors} errors)" * bool(each.errors)
        for name, each in latest.items()
    )


def startup(world: World, effort: Effort) -> tuple[dict, list[Check]]:
    """From starting the server to an answer equal to brute force; memory after 1,000 requests."""
    rows = np.random.default_rng(4).choice(len(world.users), STARTS, replace=False)
    users = world.users.iloc[rows, 0].to_numpy()
    item_ids, scores = score_unseen(world.run, users)
    seconds, wrong = [], 0
    for start, user in enumerate(users):
        before = time.perf_counter()
        with world.server(OURS) as server, RetrievalClient(server.http) as client:
            answer = client.recommend([int(user)])
            seconds.append(round(time.perf_counter() - before, 2))
            wrong += count_wrong(answer.item_ids, item_ids, scores[start : start + 1])
            click.echo(f"  start {start + 1}: first answer after {seconds[-1]:.2f} s")
            if start + 1 == STARTS:
                for position in range(REQUESTS):
                    client.recommend([int(world.users.iat[position % len(world.users), 0])])
                resident = memory(server)
    rows = {"first answer after, s": seconds, f"after {REQUESTS} requests": resident}
    return {"start-up": rows}, [
        Check("first correct answer after starting the server, s", median(seconds), "<=", 6),
        Check("first answers: wrong ids", wrong, "==", 0),
        Check("model process, resident MB", resident["model_mb"], "<=", 500),
    ]


def correct(world: World, effort: Effort) -> tuple[dict, list[Check]]:
    """Answers to random requests while 16 clients ask, beside brute force over the towers."""
    draw = np.random.default_rng(5)
    unseen = score_unseen(world.run, world.users.iloc[:, 0].to_numpy())[1]
    every = world.scores(np.arange(len(world.users)))
    wrong, compared = 0, 0
    with ExitStack() as stack:
        server = stack.enter_context(world.server(OURS))
        busy = stack.enter_context(_busy(world, server.http))
        clients = [
            stack.enter_context(RetrievalClient(getattr(server, protocol), protocol))
            for protocol in ("http", "grpc")
        ]
        for number in range(ANSWERS):
            rows = draw.integers(0, len(world.users), draw.choice([1, 1, 1, 8]))
            ids, *features = (column for _, column in world.users.iloc[rows].items())
            # A user's own features given again: the same answer, past the cache of vectors.
            given = {each.name: each.to_numpy() for each in features} if draw.integers(2) else {}
            k, filter_seen = int(draw.integers(1, LARGEST_K + 1)), bool(draw.integers(2))
            answer = clients[number % 2].recommend(ids.to_numpy(), k, filter_seen, given)
            scores = (unseen if filter_seen else every)[rows]
            wrong += count_wrong(answer.item_ids, world.vectors[0], scores)
            compared += answer.item_ids.size
        load = busy.stop()
    click.echo(
        f"  {ANSWERS} answers, {compared:,} ids; beside {load.requests:,} of {CLIENTS} clients"
    )
    rows = {"answers": ANSWERS, "ids": compared, "beside them": load.__dict__}
    return {"under load": rows}, [
        Check("under load: answers compared", ANSWERS, ">=", 2_000),
        Check("under load: wrong ids", wrong, "==", 0),
        Check("under load: errors", load.errors, "==", 0),
    ]


@contextmanager
def _busy(world: World, address: str) -> Iterator[Load]:
    """16 clients that ask until they are stopped."""
    bodies = write_bodies(world.folder / "mixed-http.bodies", mixed(world), "http json")
    with load(address, "http json", bodies, CLIENTS, seconds=3600) as running:
        yield running


def mixed(world: World) -> list[Request]:
    """Requests of every kind that the model takes: users known or not, k, sizes, features."""
    draw = np.random.default_rng(6)
    requests = []
    for _ in range(BODIES):
        rows = draw.integers(0, len(world.users), draw.choice([1, 1, 1, 1, 8, 64]))
        inputs = world.inputs(rows, features=bool(draw.integers(2)))
        if not draw.integers(8):
            inputs[world.users.columns[0]] += 10**9
        k, filter_seen = int(draw.integers(1, LARGEST_K + 1)), bool(draw.integers(2))
        requests.append(Request(inputs, {"k": k, "filter_seen": filter_seen}))
    return requests


def soak(world: World, effort: Effort) -> tuple[dict, list[Check]]:
    """16 clients, half HTTP and half gRPC, mixed requests: errors, and memory over time."""
    seconds = effort.soak_seconds
    window, pause = seconds / 10, seconds / 120
    requests = mixed(world)
    bodies = {w: write_bodies(world.folder / f"soak-{w}.bodies", requests, w) for w in WIRES}
    samples: list[tuple[float, float]] = []
    with ExitStack() as stack:
        server = stack.enter_context(world.server(OURS))
        loads = [
            stack.enter_context(load(address, wire, bodies[wire], CLIENTS // 2, seconds))
            for wire, address in (("http json", server.http), ("grpc", server.grpc))
        ]
        started = told = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            if reason := server.ended():
                raise click.ClickException(reason)
            samples.append((elapsed, memory(server)["whole_mb"]))
            if time.monotonic() - told >= 30:
                told = time.monotonic()
                click.echo(f"  {elapsed:.0f} s: {samples[-1][1]:.1f} MB")
            time.sleep(pause)
        measured = [each.result() for each in loads]
    first = median(mb for at, mb in samples if window <= at < 2 * window)
    last = median(mb for at, mb in samples if at >= seconds - window)
    growth = round(100 * (last / first - 1), 2)
    errors = sum(each.errors for each in measured)
    row = {
        "seconds": seconds,
        "http": measured[0].__dict__,
        "grpc": measured[1].__dict__,
        "resident MB after warm-up": first,
        "resident MB at the end": last,
        "resident MB": [mb for _, mb in samples],
    }
    click.echo(f"  {sum(each.requests for each in measured):,} requests, {first} -> {last} MB")
    return {"soak": row}, [
        Check("soak: seconds", seconds, ">=", 600),
        Check("soak: errors", errors, "==", 0),
        Check("soak: growth of resident memory, %", growth, "<=", 5),
    ]


Part = Callable[[World, Effort], tuple[dict, list[Check]]]


def _once(part: Callable[[World], tuple[dict, list[Check]]]) -> Part:
    """A part that takes as long as it takes."""
    return lambda world, effort: part(world)


PARTS: dict[str, Part] = {
    "speed": speed,
    "startup": startup,
    "correct": correct,
    "encoding": _once(reliability.encoding),
    "publishing": _once(reliability.publishing),
    "damage": _once(reliability.damage),
    "disk": _once(reliability.disk),
    "faults": _once(lambda world: faults(world.run.path)),
    "kill": _once(reliability.kill),
    "soak": soak,
}
SLOW = ("kill", "soak")


def trained(data: Path, folder: Path) -> Path:
    """The run of the main job on ML-1M, made in `folder`."""
    click.echo("training on ML-1M ...")
    twotower = str(Path(sys.executable).with_name("twotower"))
    command = ["run", "--config", str(ROOT / "configs/ml-1m.yaml"), "--data", str(data / "ml-1m")]
    call(folder, twotower, *command, log="serving-run")
    return folder / "runs" / "ml-1m"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True))
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A run on ML-1M.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
@click.option("--seconds-per-cell", type=click.IntRange(1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.IntRange(20), default=600, help="Of the soak.")
def main(
    data: Path | None,
    run: Path | None,
    parts: tuple[str, ...],
    seconds_per_cell: int,
    rounds: int,
    seconds: int,
) -> None:
    """Measure the parts (default: all but kill and soak) one after another, on an idle machine."""
    find_wrk()
    if not (data or run):
        raise click.UsageError("name --data <folder with ml-1m/> or --run <run folder>")
    quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    effort = Effort(seconds_per_cell, rounds, seconds)
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        source = run.resolve() if run else trained(data.resolve(), Path(folder))
        world = World(source, Path(folder) / "world")
        names = parts or [part for part in PARTS if part not in SLOW]
        measure_parts(RESULT, {name: partial(PARTS[name], world, effort) for name in names})


if __name__ == "__main__":
    main()
