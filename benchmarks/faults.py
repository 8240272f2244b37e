"""The fault table: what clients do wrong, and that the served model answers as documented.

Each row says the status, what the message has to name, or whose answer it equals. Whatever the
row, no error shows the inside of the server, and afterwards it is ready and answers rightly.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.fault_requests import JSON, PARAMETERS, PLACES, TENSORS
from benchmarks.fault_rows import Row
from benchmarks.fault_wires import CONNECTIONS, DEADLY, GRPC, HTTP, RESTRICTED
from benchmarks.hostile import Target
from benchmarks.report import Check
from benchmarks.subjects import memory
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import USERS
from twotower.serving.triton.server import TritonServer

ROWS: list[Row] = [
    *(*TENSORS, *PARAMETERS, *PLACES, *JSON),
    *(*HTTP, *CONNECTIONS, *GRPC, *RESTRICTED),
]
PASSES, STACKS = 10, 50
PAYLOAD = 100_000_000
"""Bytes of the largest requests."""


def faults(run: Path) -> tuple[dict, list[Check]]:
    """Ask the whole table of what `run` has published, then see whether its memory grows."""
    with TritonServer(run / TRITON, log=run / "logs" / "faults.log") as server:
        target = _target(Run(run), server)
        rows = [row for row in ROWS if row.suits(target)]
        found = {str(row): wrong for row in rows if (wrong := row.wrong(target))}
        for row, wrong in found.items():
            click.echo(f"  {row}: {'; '.join(wrong)}")
        percent, resident = growth(target)
        ended = {kind: _ended(target, kind) for kind in DEADLY}
    statuses = Counter(f"{row.protocol} {row.status}" for row in rows)
    record = {
        "rows": len(rows),
        "answers": dict(statuses.most_common()),
        "500 by Triton's HTTP front end": [row.kind for row in rows if row.status == 500],
        "not as documented": found,
        "bytes of the largest requests": PAYLOAD,
        "resident MB after each pass": resident,
        "ends Triton": ended,
    }
    return {"faults": record}, [
        Check("fault table: rows", len(rows), ">=", 30),
        Check("fault table: rows not as documented", len(found), "==", 0),
        Check("fault table: growth of resident memory, %", percent, "<=", 5),
    ]


def _target(run: Run, server: TritonServer) -> Target:
    from twotower.pipelines.steps.verify import brute_force

    users = pd.read_parquet(run.path / "data" / USERS)[run.config.features.user_id]
    user, config = int(users[0]), run.config.serving
    expected, _ = brute_force(run, np.array([user]), 10)
    limits = {"max_k": config.max_k, "max_batch": config.max_batch_size}
    return Target.of(server, user, expected, payload=PAYLOAD, **limits)


def growth(target: Target, passes: int = PASSES) -> tuple[float, list[float]]:
    """How much more memory is resident after asking the table again and again.

    The most MB after any of the first passes, the warm-up, is held against the most after as many
    more: single figures go up and down with what glibc has yet to give back.

    Returns
    -------
    (growth in percent, resident MB of server and model after every pass)
    """
    rows = [row for row in ROWS if row.suits(target) and not row.reloads]
    for row in rows:
        if row.kind.startswith("deep JSON"):
            # What a thread of Triton has once used of its stack stays: let each have used it.
            for _ in range(STACKS):
                row.ask(target)
    resident = []
    for _ in range(2 * passes):
        for row in rows:
            row.ask(target)
        time.sleep(1.0)  # for what was abandoned to be over
        resident.append(memory(target.server)["whole_mb"])
    percent = 100 * (max(resident[passes:]) / max(resident[:passes]) - 1)
    return round(percent, 2), resident


def _ended(target: Target, kind: str) -> str:
    """What comes of a request that Triton does not survive, and of starting it again."""
    server = target.server
    DEADLY[kind](target)
    for _ in range(100):
        if reason := server.ended():
            break
        time.sleep(0.1)
    else:
        return "Triton went on"
    server.stop()
    started = time.monotonic()
    server.start()
    seconds = time.monotonic() - started
    after = (
        "; ".join(target.faults()) or f"started again, it answered rightly after {seconds:.1f} s"
    )
    return f"{reason.partition(':')[0]}; {after}"
