"""Part `scale`: time and memory of the sparse closed form on a large, synthetic catalogue."""

from __future__ import annotations

import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.quality.ranking import OnMessage, SyntheticData
from benchmarks.report import Check, Rows
from twotower.models.training.closed_form.sparse import solve_sparse, sparse_memory
from twotower.models.training.config import ClosedFormConfig
from twotower.pipelines.child import run_in_subprocess

DIM = 128
MAX_SECONDS, MAX_GB = 1800, 8
DATA = SyntheticData(
    name="300k x 300k, synthetic",
    users=300_000,
    items=300_000,
    interactions=6_000_000,
    baselines=(),
    ranked_users=0,
)


def scale(data: Path) -> tuple[Rows, list[Check]]:
    """Solve for 300,000 items in a process of its own; `data` is not read."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        row = run_in_subprocess(partial(measure, DATA), Path(folder) / "scale.log", click.echo)
    return {"scale": row}, [
        Check(f"closed form, {DATA.name}: seconds", row["seconds"], "<=", MAX_SECONDS),
        Check(f"closed form, {DATA.name}: peak memory, GB", row["peak memory, GB"], "<=", MAX_GB),
    ]


def measure(data: SyntheticData, on_message: OnMessage) -> dict[str, Any]:
    """Solve for all vectors, as the recipe closed-form-sparse does."""
    config = ClosedFormConfig(method="sparse", user_power=0.5)
    train, _, _ = data.parts()
    started = time.perf_counter()

    def progress(done: int, total: int, text: str) -> None:
        on_message(f"  {data.name}: {time.perf_counter() - started:.0f} s, {text}")

    solution = solve_sparse(train, DIM, config, progress)
    seconds = time.perf_counter() - started
    sizes = {"n_users": data.users, "n_items": data.items, "n_positives": train.nnz}
    return {
        "data": data.name,
        "users": data.users,
        "items": data.items,
        "train rows": train.nnz,
        "dim": DIM,
        "items with a vector": int(np.count_nonzero(solution.candidates.any(axis=1))),
        "seconds": round(seconds),
        "peak memory, GB": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2
        ),
        "estimated memory, GB": round(
            sparse_memory(**sizes, dim=DIM, config=config.sparse) / 1e9, 2
        ),
    }
