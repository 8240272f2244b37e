"""Part `live`: what following events adds to a request, and what a killed server keeps of them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
import psutil

from benchmarks.quality.accuracy import finished_run, frozen_split
from benchmarks.redis_server import RedisServer
from benchmarks.report import Check, Rows
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import load_ids, read_ids
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.live.opening import FILE, open_store
from twotower.serving.triton.server import TritonServer

K, USERS = 10, 400
WARM_UP, ROUNDS = 50, 9
SQLITE = {"store": "sqlite"}
NONE, EMBEDDED, SHARED = "no store", "sqlite", "redis"
LIMITS = {EMBEDDED: 0.3, SHARED: 0.6}
"""Largest milliseconds that may be added to the median."""
KILLS = 100
LIKED = {"rating": [5.0]}


def live(data: Path) -> tuple[Rows, list[Check]]:
    """Measure on ML-1M, with the most accurate towers, which read the whole history."""
    with finished_run("ml-1m-history", data / "ml-1m", frozen_split(data)) as run:
        users = read_ids(run).users.decode(load_ids(run)[0][:USERS]).tolist()
        times = _times(run, users)
        kept = _kill(run, users, random.Random(0))
    added = {
        name: {case: times[name][case] - times[NONE][NO_EVENTS] for case in times[name]}
        for name in LIMITS
    }
    click.echo(f"  p50, ms: {times}; added: {added}; {kept}")
    checks = [
        Check(f"live state, {case}: p50 added by {name}, ms", added[name][case], "<=", limit)
        for name, limit in LIMITS.items()
        for case in (NO_EVENTS, EVENTS, NEXT)
    ]
    checks.append(Check(f"events lost by {KILLS} kills of a server", kept["lost"], "==", 0))
    return {"live": {"p50, ms": times, "added to p50, ms": added, "kills": kept}}, checks


NO_EVENTS, EVENTS, NEXT = "user without events", "user with events", "right after an event"


def _times(run: Run, users: list[int]) -> dict[str, dict[str, float]]:
    """The median ms of a request for one user, of servers that are asked in turn."""
    with ExitStack() as stack:
        clients = {
            name: (stack.enter_context(RetrievalClient(server.http)), server.events_key)
            for name, server in _servers(run, stack).items()
        }
        quiet, active = users[: USERS // 2], users[USERS // 2 :]
        times: dict[str, dict[str, list[float]]] = {name: {} for name in clients}

        def ask(name: str, case: str, user: int) -> None:
            started = time.perf_counter()
            clients[name][0].recommend([user], K)
            times[name].setdefault(case, []).append((time.perf_counter() - started) * 1e3)

        for client, _ in clients.values():  # cache the vectors
            for user in users:
                client.recommend([user], K)
        for number in range(ROUNDS):
            for name in clients:
                for user in quiet:
                    ask(name, NO_EVENTS, user)
                if name == NONE:
                    continue
                for user in active:
                    if number % 3 == 0:
                        client, key = clients[name]
                        best = client.recommend([user], 1).item_ids[0]
                        client.record([user], best, str(key), LIKED)
                        ask(name, NEXT, user)
                for user in active:
                    ask(name, EVENTS, user)
    return {
        name: {
            case: round(float(np.median(cases[case])), 4)
            for case in (NO_EVENTS, EVENTS, NEXT)
            if case in cases
        }
        for name, cases in times.items()
    }


def _servers(run: Run, stack: ExitStack) -> dict[str, TritonServer]:
    """A server without events, and one of each store."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="two-tower-")))
    (folder / "of redis").mkdir()
    redis = stack.enter_context(RedisServer(folder / "of redis"))
    stores: dict[str, dict[str, str] | None] = {
        NONE: None,
        EMBEDDED: SQLITE,
        SHARED: {"store": "redis", "redis": redis.address, "stream": "events"},
    }
    servers = {}
    for name, events in stores.items():
        repository = shutil.copytree(run.path / TRITON, folder / name)
        server = TritonServer(repository, log=folder / f"{name}.log", events=events)
        servers[name] = stack.enter_context(server)
    return servers


def _kill(run: Run, users: list[int], draw: random.Random) -> dict[str, int]:
    """Kill a server, with all its processes, at random moments of recording."""
    acknowledged: set[tuple[int, int]] = set()
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        repository = shutil.copytree(run.path / TRITON, Path(folder) / "triton")
        for number in range(KILLS):
            with TritonServer(repository, log=Path(folder) / "log", events=SQLITE) as server:
                timer = threading.Timer(draw.uniform(0, 0.2), _kill_all, [server.pid])
                with _recording(server, users, number, acknowledged):
                    timer.start()
                timer.join()
            if number % 10 == 9:
                click.echo(f"  {number + 1} kills, {len(acknowledged):,} events acknowledged")
        store = open_store(SQLITE, repository / FILE)
        found = {(each.event["user_id"], each.event["timestamp"]) for each in store.read_new()}
        store.close()
    return {
        "kills": KILLS,
        "acknowledged": len(acknowledged),
        "found": len(found),
        "lost": len(acknowledged - found),
    }


@contextmanager
def _recording(
    server: TritonServer, users: list[int], number: int, acknowledged: set[tuple[int, int]]
) -> Iterator[None]:
    """Record events until the server dies; each has another time, by which it is found again."""
    with RetrievalClient(server.http, retries=0) as client:
        item = client.recommend(users[:1], 1).item_ids[0]
        yield
        for seconds in range(number * 10_000, (number + 1) * 10_000):
            user = users[seconds % len(users)]
            try:
                client.record(
                    [user], item, str(server.events_key), {"rating": [5.0], "timestamp": [seconds]}
                )
            except ServingError:
                return
            acknowledged.add((user, seconds))


def _kill_all(pid: int) -> None:
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
