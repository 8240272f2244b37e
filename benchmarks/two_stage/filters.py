"""Part `filters`: filtered answers against brute force, and what a filter costs."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks.report import Check, Rows
from benchmarks.serving.subjects import OURS, ServedRun, resident_memory
from benchmarks.two_stage.predicates import random_predicate
from twotower.pipelines.steps.processed import ITEMS
from twotower.pipelines.steps.verify import count_wrong, score_unseen
from twotower.serving.client import RetrievalClient

USERS, PREDICATES, K = 500, 20, 20
CLIENTS = 8
"""Connections that ask at once, so that requests with different predicates share batches."""
WARM_UP, ROUNDS, REQUESTS = 20, 9, 200
"""Each variant is asked REQUESTS times in each round, the variants in turn."""
BATCH = 64
SHARE = 0.01
COLUMNS = ("genres", "year")
LIMITS = {"cached predicate": 1.2, "new predicate": 2.0, "1 % allowed": 1.2}


def filters(served: ServedRun) -> tuple[Rows, list[Check]]:
    """Measure filters on a run of MovieLens whose `serving.filters` are genres and year."""
    with ExitStack() as stack:
        server = stack.enter_context(served.server(OURS))
        with RetrievalClient(server.http) as client:
            client.recommend([int(served.users.iat[0, 0])])
            memory = {"before": resident_memory(server)}
            seconds = {
                f"{users} user{'s' * (users > 1)}": _speed(client, served, users)
                for users in (1, BATCH)
            }
        wrong, compared, shares = _compare(served, server.http)
        with RetrievalClient(server.http) as client:
            client.similar([[int(served.vectors[0][0])]])
        memory["after filters and similar items"] = resident_memory(server)
    rows: Rows = {
        "filters": {
            "users": USERS,
            "predicates": PREDICATES,
            "ids compared": compared,
            "shares of the items": shares,
            "p50, ms": seconds,
            "memory": memory,
        }
    }
    checks = [Check("filters: ids that differ from brute force", wrong, "==", 0)]
    for users, medians in seconds.items():
        for name, limit in LIMITS.items():
            ratio = medians[name] / medians["without"]
            checks.append(Check(f"filters, {users}: p50 with {name}, ratio", ratio, "<=", limit))
    return rows, checks


def _items(served: ServedRun) -> list[dict[str, Any]]:
    """The columns of the items by which requests filter, in the order of their ids."""
    items = pd.read_parquet(served.run.path / "data" / ITEMS)
    records = items[list(COLUMNS)].to_dict("records")
    return [
        {
            "genres": None if item["genres"] is None else list(item["genres"]),
            "year": None if pd.isna(item["year"]) else int(item["year"]),
        }
        for item in records
    ]


def _compare(served: ServedRun, address: str) -> tuple[int, int, list[float]]:
    """Ask for users with random predicates, many at once; return the wrong ids and all of them."""
    draw, items = random.Random(7), _items(served)
    drawn = [random_predicate(draw, items) for _ in range(PREDICATES)]
    allowed = [np.array([holds(item) for item in items]) for _, holds in drawn]
    users = served.users.iloc[:, 0].sample(USERS, random_state=1).to_numpy()
    item_ids, scores = score_unseen(served.run, users)

    def ask(worker: int) -> int:
        own = np.arange(worker, USERS, CLIENTS)
        found = 0
        with RetrievalClient(address) as client:
            for number in range(PREDICATES):
                chosen = (number + worker) % PREDICATES  # others ask with others meanwhile
                answer = client.recommend(users[own], K, where=drawn[chosen][0])
                masked = np.where(allowed[chosen], scores[own], -np.inf)
                found += count_wrong(answer.item_ids, item_ids, masked)
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        wrong = sum(pool.map(ask, range(CLIENTS)))
    shares = [round(float(each.mean()), 4) for each in allowed]
    click.echo(f"  {USERS} users x {PREDICATES} predicates: {wrong} wrong ids")
    return wrong, USERS * PREDICATES * K, shares


def _speed(client: RetrievalClient, served: ServedRun, users: int) -> dict[str, float]:
    """The median ms of a request for some users, without a predicate and with each kind of one."""
    ids = served.users.iloc[:users, 0].to_numpy()
    years = pd.Series([item["year"] for item in _items(served)])
    shares = years.value_counts(normalize=True)
    rare = {"year": int((shares - SHARE).abs().idxmin())}
    numbers = count()
    variants: dict[str, Callable[[], str | None]] = {
        "without": lambda: None,
        "cached predicate": lambda: '{"genres": "Drama", "year": {"$gte": 1990}}',
        # Another text and another limit each time, which no film has.
        "new predicate": lambda: json.dumps(
            {"genres": "Drama", "year": {"$gte": 1990 + next(numbers) * 1e-7}}
        ),
        "1 % allowed": lambda: json.dumps(rare),
    }
    for make in variants.values():  # the first requests load what others use
        list(_times(client, ids, make, WARM_UP))
    measured: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, make in variants.items():
            measured[name] += _times(client, ids, make, REQUESTS)
    medians = {name: round(float(np.median(each)) * 1e3, 4) for name, each in measured.items()}
    click.echo(f"  {users} users, ms: {medians}")
    return medians


def _times(
    client: RetrievalClient, ids: np.ndarray, make: Callable[[], str | None], requests: int
) -> Iterator[float]:
    """Yield the seconds of each of some requests."""
    for _ in range(requests):
        where, started = make(), time.perf_counter()
        client.recommend(ids, where=where)
        yield time.perf_counter() - started
