"""Part `recommend`: answers for all users of MovieLens-1M without a server, against the server's.

Without data it measures synthetic data of the same size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq

from benchmarks.quality.accuracy import finished_run
from benchmarks.report import Check, Rows
from twotower.pipelines.answers.recommend import BATCH
from twotower.pipelines.run import Run
from twotower.pipelines.steps.serve import serving
from twotower.serving.client import RetrievalClient

K, COMPARED, ALONE = 100, 2 * BATCH, 100
"""Items per user; users compared with the server, and those that are also asked for one by one."""
ROUNDS = 3
EPOCHS = "training.epochs=2"
"""The speed does not depend on the quality."""
CHILD = """
import sys, time
from pathlib import Path
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.run import Run
started = time.perf_counter()
recommend(Run(Path(sys.argv[1])), "all", Path(sys.argv[2]), int(sys.argv[3]), overwrite=True)
print(time.perf_counter() - started)
"""


def recommend(data: Path | None) -> tuple[Rows, list[Check]]:
    """Measure `recommend --users all -k 100`, and compare its file with a real Triton."""
    name = "ml-1m" if data else "synthetic"
    with finished_run(name, data or Path(), (EPOCHS,)) as run:
        seconds, commands = {}, {}
        for suffix in ("csv", "jsonl", "parquet"):
            out = run.path.parent / f"recs.{suffix}"
            seconds[suffix] = [_after_imports(run, out) for _ in range(ROUNDS)]
            commands[suffix] = _whole_command(run, out)
            click.echo(f"  {suffix}: {min(seconds[suffix]):.2f} s after imports")
        found = pq.read_table(out).to_pandas()
        ids = found["user_id"].unique()
        together = _differences(run, found, ids[:COMPARED], BATCH)
        alone = _differences(run, found, ids[:ALONE], 1)
    record = {
        "data": name,
        "users": len(ids),
        "rows": len(found),
        "seconds after imports, by format": seconds,
        "seconds of the whole command, by format": commands,
        "against the server, in the same batches": together,
        "against the server, one user per request": alone,
    }
    slowest = max(min(each) for each in seconds.values())
    return {"recommend": record}, [
        Check("recommend: all users, k = 100, slowest format, s after imports", slowest, "<=", 5),
        Check("recommend: users compared with the server", together["users"], ">=", 500),
        Check("recommend: other ids than the server", together["other ids"], "==", 0),
        Check("recommend: other scores than the server", together["other scores"], "==", 0),
        Check("recommend: other ids than one by one", alone["other ids"], "==", 0),
        Check("recommend: scores, one by one, difference", alone["difference"], "<=", 1e-6),
    ]


def _after_imports(run: Run, out: Path) -> float:
    command = [sys.executable, "-c", CHILD, str(run.path), str(out), str(K)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout.splitlines()[-1]), 2)


def _whole_command(run: Run, out: Path) -> float:
    arguments = ["recommend", "--run", str(run.path), "--users", "all", "-k", str(K), "--json"]
    command = [sys.executable, "-m", "twotower.pipelines.cli", *arguments]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(out), "--overwrite"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["k"] == K
    return round(time.perf_counter() - started, 2)


def _differences(run: Run, found, users: np.ndarray, batch: int) -> dict[str, float]:
    """Count the places at which the server answers another item or score than the file has."""
    rows = found[found["user_id"].isin(users)]
    ids, scores = (np.full((len(users), K), filler) for filler in (-1, np.float32(-np.inf)))
    place = (np.searchsorted(users, rows["user_id"]), rows["rank"] - 1)
    ids[place], scores[place] = rows["item_id"], rows["score"]
    with serving(run) as addresses, RetrievalClient(addresses.http) as client:
        answers = [
            client.recommend(users[first : first + batch], k=K)
            for first in range(0, len(users), batch)
        ]
    served_ids = np.concatenate([answer.item_ids for answer in answers])
    served = np.concatenate([answer.scores for answer in answers])
    same = ids == served_ids
    finite = np.isfinite(served)
    return {
        "users": len(users),
        "places": int(finite.sum()),
        "other ids": int((~same).sum()),
        "other scores": int((scores != served).sum()),
        "difference": float(np.abs(scores[finite] - served[finite]).max()),
    }
