"""Part `sizes`: every step on synthetic Ali-CCP data of 1/16, 1/4 and all of its real size."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.child import LOGS
from benchmarks.main_job import TWOTOWER
from benchmarks.report import Check, Rows
from benchmarks.scale.fits import growth
from benchmarks.scale.watch import Cost, resident, run
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids, read_ids
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.timeline import FILE as TIMELINE
from twotower.pipelines.timeline import Timeline
from twotower.serving.client import RetrievalClient

REAL_ROWS = 42_300_135
"""Impressions in the training part of the real Ali-CCP."""
SIZES = {"1x": REAL_ROWS // 16, "4x": REAL_ROWS // 4, "16x": REAL_ROWS}
TEST_SHARE = 0.1
"""Rows of the test file for each row of the training file."""
STEPS = ("ingest", "preprocess", "train", "evaluate", "export")
MAX_GB = 8
ROWS_PER_SECOND = 100_000
REQUESTS, K = 300, 10
BASELINE = "popularity"


def sizes(folder: Path, names: tuple[str, ...]) -> tuple[Rows, list[Check]]:
    """Measure each size in `folder`, which needs 45 GB for all of them.

    Returns
    -------
    Rows, list of Check
    """
    rows = {name: _measure(name, folder) for name in names}
    checks = []
    for name, row in rows.items():
        most = row["peak resident, GB"]["all"]
        checks += [
            Check(f"{name}: most resident memory of twotower run, GB", most, "<=", MAX_GB),
            Check(f"{name}: rows/s of ingest", row["ingest, rows/s"], ">=", ROWS_PER_SECOND),
            Check(f"{name}: ndcg@10 over popularity, synthetic", row["over popularity"], ">=", 2),
        ]
    return {f"size {name}": row for name, row in rows.items()}, checks


def growths(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit how the seconds of each step grow over rows of several sizes, the smallest first."""
    counts = [row["interactions"] for row in rows]
    fits = {
        step: growth(counts, [row["seconds"][step] for row in rows]) for step in rows[0]["seconds"]
    }
    return {step: {**fit._asdict(), "words": fit.words} for step, fit in fits.items()}


def _measure(name: str, folder: Path) -> dict[str, Any]:
    """Generate the data, run the main job on it and ask a server; remove both at the end."""
    data, project = folder / f"data-{name}", folder / f"run-{name}"
    project.mkdir(parents=True)
    try:
        made = run(project, generating(SIZES[name], data), LOGS / f"scale-{name}-generate.log")
        raw = _bytes(data)
        click.echo(f"  {name}: {raw / 1e9:.1f} GB generated in {made.seconds:,.0f} s")
        command = [TWOTOWER, "run", "--config", "ali-ccp-raw", "--data", str(data)]
        job = run(project, command, LOGS / f"scale-{name}-run.log")
        path = project / "runs" / "ali-ccp-raw"
        seconds, gigabytes = _steps(Timeline.read(path / TIMELINE), job)
        click.echo(f"  {name}: {seconds}, {gigabytes} GB")
        manifest = json.loads((path / "manifest.json").read_text())["steps"]
        served = served_times(Run(path))
        metrics = json.loads((path / "reports" / "metrics.json").read_text())["metrics"]
        ours, popular = (metrics[model]["ndcg@10"] for model in ("two-tower", BASELINE))
        notes = manifest["ingest"]["notes"]
        interactions = notes["interactions"]
        return {
            "data": "synthetic, in the raw format of Ali-CCP",
            "interactions": interactions,
            "positives": manifest["preprocess"]["notes"]["positives"],
            "users": notes["users"],
            "items": notes["items"],
            "raw files, GB": round(raw / 1e9, 2),
            "tidy tables, GB": round(_bytes(path / "data") / 1e9, 2),
            "seconds to generate": round(made.seconds, 1),
            "seconds of twotower run": round(job.seconds, 1),
            "seconds": {**seconds, "serve": served.pop("start, s")},
            "peak resident, GB": gigabytes,
            "ingest, rows/s": round(interactions / seconds["ingest"]),
            "training, rows/s": manifest["train"]["notes"]["rows_per_second"],
            "epochs": manifest["train"]["notes"]["epochs"],
            "test ndcg@10, synthetic": round(ours, 5),
            "popularity, test ndcg@10, synthetic": round(popular, 5),
            "over popularity": round(ours / popular, 2),
            "served": served,
        }
    finally:
        shutil.rmtree(project, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


def _steps(timeline: Timeline, job: Cost) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds and the most memory in GB of each step of the main job.

    The times of the timeline begin when the command has been imported; both end together.
    """
    before = job.seconds - timeline.seconds
    seconds = {step.name: round(step.seconds, 1) for step in timeline.steps if step.name in STEPS}
    gigabytes = {
        step.name: round(job.most(before + step.start, before + step.start + step.seconds), 2)
        for step in timeline.steps
        if step.name in STEPS
    }
    return seconds, {**gigabytes, "all": round(job.most(), 2)}


def generating(rows: int, out: Path) -> list[str]:
    tests = round(rows * TEST_SHARE)
    return [TWOTOWER, "generate", str(out), "--rows", str(rows), "--test-rows", str(tests)]


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def served_times(run: Run) -> dict[str, Any]:
    """Start a server of the newest version; ask for one user at a time."""
    users = read_ids(run).users.decode(load_ids(run)[0][:REQUESTS]).tolist()
    started = time.perf_counter()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with serving(run) as addresses:
        start = time.perf_counter() - started
        memory = sum(
            resident(child) for child in psutil.Process().children() if child.pid not in before
        )
        with RetrievalClient(addresses.http) as client:
            milliseconds = []
            for user in [*users[:50], *users]:
                begin = time.perf_counter()
                client.recommend([user], k=K)
                milliseconds.append((time.perf_counter() - begin) * 1e3)
    times = sorted(milliseconds[50:])
    return {
        "start, s": round(start, 1),
        "resident, GB": round(memory / 1e9, 2),
        "p50, ms": round(statistics.median(times), 2),
        "p99, ms": round(times[int(len(times) * 0.99)], 2),
    }
