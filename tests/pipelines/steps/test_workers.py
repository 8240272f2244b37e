"""Preprocessing with worker processes: the same files, also when workers or the command die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from tests.pipelines.steps.test_preprocess import PARQUET
from twotower.pipelines.config import parse_config, set_keys
from twotower.pipelines.run import Run
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import preprocess
from twotower.workflows.cluster.cluster import SCRATCH, Cluster
from twotower.workflows.encoding import counts, encoder, table
from twotower.workflows.interactions import reading

pytestmark = pytest.mark.slow
SETTINGS = {
    "ingest.files.interactions": "rows.parquet",
    "ingest.files.users": "users.parquet",
    "ingest.files.items": "items.parquet",
    "ingest.files.keep": ["rating", "timestamp"],
    "positives.column": "rating",
    "positives.at_least": 4,
    "features.user": ["city"],
    "features.user_multi_hot": {"likes": 5},
    "features.item_text": {"title": 4},
    "features.history": 5,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run that has read users with lists, items with titles, and 40,000 ratings."""
    folder, rng = tmp_path_factory.mktemp("workers"), np.random.default_rng(1)
    rows = {"user_id": rng.integers(0, 900, 40_000), "item_id": rng.integers(0, 300, 40_000)}
    rows |= {"rating": rng.integers(1, 6, 40_000).astype(float), "timestamp": np.arange(40_000)}
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet", row_group_size=5_000)
    likes = [rng.choice(list("abcdefgh"), rng.integers(0, 7)).tolist() for _ in range(900)]
    users = {"user_id": range(900), "city": rng.choice(["Oslo", "Rome"], 900), "likes": likes}
    pd.DataFrame(users).to_parquet(folder / "users.parquet")
    titles = [" ".join(rng.choice(["Toy", "Story", "War", "Men"], 3)) for _ in range(300)]
    pd.DataFrame({"item_id": range(300), "title": titles}).to_parquet(folder / "items.parquet")
    settings = {"ingest.path": str(folder), **SETTINGS}
    made = Run.create(parse_config(set_keys(PARQUET, settings, "here"), "here"), folder / "run")
    ingest(made, remember=False)
    return made


def contents(run: Run) -> dict[str, bytes]:
    """The files that preprocessing wrote, without those that have paths or sets in them."""
    found = [*(run.path / "processed").iterdir(), *(run.path / "workflow").rglob("*.parquet")]
    kept = [path for path in found if path.name != "schema.pbtxt"]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in kept}


def started(run: Run) -> subprocess.Popen:
    """`twotower preprocess --workers 2` in a process group of its own, when its workers are up."""
    command = [sys.executable, "-m", "twotower.pipelines.cli", "preprocess", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--run", str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Dask: 2 workers"):
            return process
    raise AssertionError("the workers did not start")


def ended(pids: list[int], seconds: float = 60) -> bool:
    """Whether all processes end in time."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_the_files_are_the_same_though_a_worker_dies_in_each_part_of_the_work(run, monkeypatch):
    monkeypatch.setattr(table, "PART_ROWS", 64)
    monkeypatch.setattr(counts, "TASK_PARTS", 2)
    monkeypatch.setattr(encoder, "TASK_PARTS", 2)
    monkeypatch.setattr(reading, "PARTITION_ROWS", 5_000)
    preprocess(run)
    expected, killed, run_tasks = contents(run), [], Cluster.run

    def run_and_kill(self, function, arguments):
        for place, result in enumerate(run_tasks(self, function, arguments)):
            yield result
            if place == 1:
                pid = sorted(self.client.run(os.getpid).values())[0]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    monkeypatch.setattr(Cluster, "run", run_and_kill)
    run.override(("dask.workers=2",))
    preprocess(run)
    assert contents(run) == expected
    # Counting users and items, encoding users and items; the interactions are one partition.
    assert len(killed) == 4
    assert not (run.path / SCRATCH).exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_no_process_and_starts_again(run, how):
    preprocess(run)
    expected = contents(run)
    process = started(run)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(children) >= 2
    if how == signal.SIGINT:  # a terminal sends Ctrl-C to all processes of the command
        os.killpg(process.pid, how)
    else:
        process.kill()
    output, _ = process.communicate(timeout=90)
    assert process.returncode != 0 and "Traceback" not in output
    assert ended(children)
    assert how == signal.SIGKILL or not (run.path / SCRATCH).exists()
    command = [sys.executable, "-m", "twotower.pipelines.cli", "preprocess", "--workers", "2"]
    done = subprocess.run(
        [*command, "--run", str(run.path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert contents(run) == expected
    assert not (run.path / SCRATCH).exists()
