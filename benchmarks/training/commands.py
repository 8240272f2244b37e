"""Parts `resume` and `run`: training that is killed again and again, and the main job's time."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.child import call, clone
from benchmarks.main_job import TWOTOWER, answered
from benchmarks.report import RESULTS, Check, Rows

KILLS = 10
NDCG_TOLERANCE = 0.003


def twotower(folder: Path, verb: str, arguments: Sequence[str] = ()) -> float:
    """Run a verb of twotower in `folder`; return the seconds. Raises ClickException if it fails."""
    seconds, _ = call(folder, [TWOTOWER, verb, *arguments], log=f"training-{verb}")
    return seconds


def resume(source: Path, folder: Path) -> tuple[Rows, list[Check]]:
    """Kill `twotower train` at 10 random moments; restart it; compare with undisturbed training.

    Each moment is drawn from the time that an undisturbed training takes. A training that ends
    before its moment is compared, and a new one begins.
    """
    undisturbed = shutil.copytree(source, folder / "undisturbed")
    seconds = twotower(folder, "train", _train_options(undisturbed))
    expected, draw = _training_metrics(undisturbed), random.Random(0)
    moments = [round(draw.uniform(0, seconds), 1) for _ in range(KILLS)]
    kills, finished = 0, 0
    differences: list[str] = []
    run = shutil.copytree(source, folder / "killed-1")
    while kills < KILLS:
        if _killed_after(moments[kills], run):
            kills += 1
            click.echo(f"  kill {kills} after {moments[kills - 1]} s")
            continue
        finished += 1
        differences += differing_names(expected, _training_metrics(run))
        run = shutil.copytree(source, folder / f"killed-{finished + 1}")
    twotower(folder, "train", _train_options(run))
    finished += 1
    differences += differing_names(expected, _training_metrics(run))
    click.echo(f"  {kills} kills, {finished} trainings, differences: {differences or 'none'}")
    rows = {
        "undisturbed, s": round(seconds, 1),
        "killed after, s": moments,
        "trainings": finished,
        "values compared": len(expected) * finished,
        "differences": differences,
    }
    return {"resume": rows}, [
        Check("resume: SIGKILLs in training", kills, ">=", KILLS),
        Check(
            "resume: metrics that differ from an undisturbed training", len(differences), "==", 0
        ),
    ]


def _train_options(run: Path) -> list[str]:
    """Save the state every two seconds, so that most kills leave one to resume from."""
    return ["--run", str(run), "--set", "training.checkpoint_seconds=2"]


def _killed_after(seconds: float, run: Path) -> bool:
    """Run `twotower train` for some seconds at most; return whether it was still running.

    If it was, its process group is killed.
    """
    process = subprocess.Popen(
        [TWOTOWER, "train", *_train_options(run)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, log = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if process.returncode:
        raise click.ClickException(f"{run}: twotower train failed: {log}")
    return False


def _training_metrics(run: Path) -> dict[str, Any]:
    """Read the metrics of a training: on valid after every epoch, and on test."""
    twotower(run, "evaluate", ["--run", str(run)])
    history = json.loads((run / "model" / "history.json").read_text())
    metrics = json.loads((run / "reports" / "metrics.json").read_text())["metrics"]
    found = {
        f"{name}, epoch {epoch}": value
        for name, values in history.items()
        if name.startswith("val_")
        for epoch, value in enumerate(values, start=1)
    }
    return found | {
        f"test: {model}, {name}": value
        for model, values in metrics.items()
        for name, value in values.items()
    }


def differing_names(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """List the names whose values differ or that only one side has."""
    names = sorted({*expected, *found})
    return [name for name in names if expected.get(name) != found.get(name)]


def main_job(data: Path) -> tuple[Rows, list[Check]]:
    """Measure `make run` in a clone with an environment; compare NDCG@10 with main_job.json."""
    before = json.loads((RESULTS / "main_job.json").read_text())["rows"]["make run on ML-1M"]
    with clone() as project:
        call(project, ["make", "env"], log="training-env")
        command = ["make", "run", f"DATA={data / 'ml-1m'}"]
        seconds, output = call(project, command, log="training-run")
        folder = project / "runs" / "ml-1m"
        metrics = json.loads((folder / "reports" / "metrics.json").read_text())
        steps = json.loads((folder / "manifest.json").read_text())["steps"]
    known, found = (_ndcg(each) for each in (before["metrics"], metrics))
    click.echo(f"  {seconds:.1f} s, test ndcg@10 {found:.4f}; in main_job.json {known:.4f}")
    rows = {
        "seconds": round(seconds, 1),
        "seconds per step": {name: step["seconds"] for name, step in steps.items()},
        "training": steps["train"]["notes"],
        "test ndcg@10": found,
        "test ndcg@10 in main_job.json": known,
    }
    return {"make run on ML-1M": rows}, [
        Check("make run on ML-1M, environment present, seconds", round(seconds, 1), "<=", 240),
        Check("make run on ML-1M: answered over HTTP and gRPC", answered(output), "==", 1),
        Check(
            "make run on ML-1M: test ndcg@10 lost", round(known - found, 4), "<=", NDCG_TOLERANCE
        ),
    ]


def _ndcg(report: dict[str, Any]) -> float:
    return report["metrics"]["two-tower"]["ndcg@10"]
