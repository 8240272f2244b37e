"""Parts `startup`, `correct` and `soak`: right answers at the start, under load and over time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import click
import numpy as np

from benchmarks.report import Check, Rows
from benchmarks.serving.load import Load, Request, load, write_bodies
from benchmarks.serving.subjects import BODIES, OURS, ServedRun, resident_memory
from twotower.pipelines.steps.verify import count_wrong, score_unseen
from twotower.serving.client import RetrievalClient

STARTS, REQUESTS, ANSWERS, MAX_K = 5, 1_000, 2_000, 100
CLIENTS = 16


def startup(served: ServedRun) -> tuple[Rows, list[Check]]:
    """Measure the time from starting the server to a correct answer, and its memory later."""
    rows = np.random.default_rng(4).choice(len(served.users), STARTS, replace=False)
    users = served.users.iloc[rows, 0].to_numpy()
    item_ids, scores = score_unseen(served.run, users)
    seconds, wrong, resident = [], 0, {}
    for start, user in enumerate(users):
        before = time.perf_counter()
        with served.server(OURS) as server, RetrievalClient(server.http) as client:
            answer = client.recommend([int(user)])
            seconds.append(round(time.perf_counter() - before, 2))
            wrong += count_wrong(answer.item_ids, item_ids, scores[start : start + 1])
            click.echo(f"  start {start + 1}: first answer after {seconds[-1]:.2f} s")
            if start + 1 == STARTS:
                for position in range(REQUESTS):
                    client.recommend([int(served.users.iat[position % len(served.users), 0])])
                resident = resident_memory(server)
    record = {"first answer after, s": seconds, f"after {REQUESTS} requests": resident}
    return {"start-up": record}, [
        Check("first correct answer after starting the server, s", median(seconds), "<=", 6),
        Check("first answers: wrong ids", wrong, "==", 0),
        Check("model process, resident MB", resident["model_mb"], "<=", 500),
    ]


def correct(served: ServedRun) -> tuple[Rows, list[Check]]:
    """Compare answers to random requests with brute force while 16 clients send requests."""
    draw = np.random.default_rng(5)
    unseen = score_unseen(served.run, served.users.iloc[:, 0].to_numpy())[1]
    every = served.scores(np.arange(len(served.users)))
    wrong, compared = 0, 0
    with ExitStack() as stack:
        server = stack.enter_context(served.server(OURS))
        background = stack.enter_context(background_load(served, server.http))
        clients = [
            stack.enter_context(RetrievalClient(server.http, "http")),
            stack.enter_context(RetrievalClient(server.grpc, "grpc")),
        ]
        for number in range(ANSWERS):
            rows = draw.integers(0, len(served.users), draw.choice([1, 1, 1, 8]))
            ids, *features = (column for _, column in served.users.iloc[rows].items())
            # A user's own features in the request: the same answer, without the vector cache.
            given = {each.name: each.to_numpy() for each in features} if draw.integers(2) else {}
            k, filter_seen = int(draw.integers(1, MAX_K + 1)), bool(draw.integers(2))
            answer = clients[number % 2].recommend(
                ids.to_numpy(), k=k, filter_seen=filter_seen, features=given
            )
            scores = (unseen if filter_seen else every)[rows]
            wrong += count_wrong(answer.item_ids, served.vectors[0], scores)
            compared += answer.item_ids.size
        result = background.stop()
    click.echo(
        f"  {ANSWERS} answers, {compared:,} ids; "
        f"at the same time {result.requests:,} requests of {CLIENTS} clients"
    )
    record = {"answers": ANSWERS, "ids": compared, "other requests": result.record()}
    return {"under load": record}, [
        Check("under load: answers compared", ANSWERS, ">=", 2_000),
        Check("under load: wrong ids", wrong, "==", 0),
        Check("under load: errors", result.errors, "==", 0),
    ]


@contextmanager
def background_load(served: ServedRun, address: str) -> Iterator[Load]:
    """Let 16 clients send mixed requests over HTTP until the load is stopped."""
    bodies = served.folder / "mixed-http.bodies"
    write_bodies(bodies, mixed_requests(served), "http json")
    with load(address, "http json", bodies, CLIENTS, seconds=3600) as running:
        yield running


def mixed_requests(served: ServedRun) -> list[Request]:
    """Draw requests of every kind: known and unknown users, with and without features."""
    draw = np.random.default_rng(6)
    requests = []
    for _ in range(BODIES):
        rows = draw.integers(0, len(served.users), draw.choice([1, 1, 1, 1, 8, 64]))
        inputs = served.inputs(rows, features=bool(draw.integers(2)))
        if not draw.integers(8):
            inputs[served.users.columns[0]] += 10**9  # users that the model does not know
        k, filter_seen = int(draw.integers(1, MAX_K + 1)), bool(draw.integers(2))
        requests.append(Request(inputs=inputs, parameters={"k": k, "filter_seen": filter_seen}))
    return requests


def soak(served: ServedRun, seconds: int) -> tuple[Rows, list[Check]]:
    """Send mixed requests from 8 HTTP and 8 gRPC clients; watch errors and memory over time."""
    window, pause = seconds / 10, seconds / 120
    requests = mixed_requests(served)
    http_bodies = write_bodies(served.folder / "soak-http.bodies", requests, "http json")
    grpc_bodies = write_bodies(served.folder / "soak-grpc.bodies", requests, "grpc")
    samples: list[tuple[float, float]] = []
    with ExitStack() as stack:
        server = stack.enter_context(served.server(OURS))
        http = stack.enter_context(
            load(server.http, "http json", http_bodies, CLIENTS // 2, seconds)
        )
        grpc = stack.enter_context(load(server.grpc, "grpc", grpc_bodies, CLIENTS // 2, seconds))
        started = last_message = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            if reason := server.ended():
                raise click.ClickException(reason)
            samples.append((elapsed, resident_memory(server)["whole_mb"]))
            if time.monotonic() - last_message >= 30:
                last_message = time.monotonic()
                click.echo(f"  {elapsed:.0f} s: {samples[-1][1]:.1f} MB")
            time.sleep(pause)
        results = {"http": http.result(), "grpc": grpc.result()}
    first = median(mb for at, mb in samples if window <= at < 2 * window)
    last = median(mb for at, mb in samples if at >= seconds - window)
    growth = round(100 * (last / first - 1), 2)
    errors = sum(each.errors for each in results.values())
    record = {
        "seconds": seconds,
        **{name: each.record() for name, each in results.items()},
        "resident MB after warm-up": first,
        "resident MB at the end": last,
        "resident MB": [mb for _, mb in samples],
    }
    total = sum(each.requests for each in results.values())
    click.echo(f"  {total:,} requests, {first} -> {last} MB")
    return {"soak": record}, [
        Check("soak: seconds", seconds, ">=", 600),
        Check("soak: errors", errors, "==", 0),
        Check("soak: growth of resident memory, %", growth, "<=", 5),
    ]
