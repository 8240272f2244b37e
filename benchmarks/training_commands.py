"""The commands that train, under what happens to them: kills, a clock, a server under load."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import click
import numpy as np
import pandas as pd
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import Load, load, write_bodies
from benchmarks.main_job import answered, call, clone
from benchmarks.report import RESULTS, Check
from benchmarks.serving import mixed
from benchmarks.subjects import World
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import ITEMS, USERS, load_tables
from twotower.pipelines.steps.serve import RunningServer, running_server
from twotower.serving.client import RetrievalClient

ROOT = Path(__file__).resolve().parents[1]
TWOTOWER = str(Path(sys.executable).with_name("twotower"))
KILLS = 10
NOISE = 0.003
HELD_OUT = {"users": 0.02, "items": 0.01, "ratings": 0.02}
FILES = ("ratings", "users", "movies")
CLIENTS, K, LONG_K, ASKED_AT_ONCE = 16, 10, 100, 500


def twotower(folder: Path, verb: str, *arguments: str) -> float:
    """Run a verb in `folder`; seconds. Raises ClickException when it fails."""
    return call(folder, TWOTOWER, verb, *arguments, log=f"training-{verb}")[0]


def resume(source: Path, folder: Path) -> tuple[dict, list[Check]]:
    """`twotower train` killed at 10 random moments, started again until it is done.

    A start is killed at a moment drawn from the time that an undisturbed training takes. One that
    is done before is compared with the undisturbed one, and a new training begins.
    """
    undisturbed = shutil.copytree(source, folder / "undisturbed")
    seconds = twotower(folder, "train", *_often(undisturbed))
    expected, draw = _outcome(undisturbed), random.Random(0)
    moments = [round(draw.uniform(0, seconds), 1) for _ in range(KILLS)]
    kills, differences, finished = 0, [], []
    run = shutil.copytree(source, folder / "killed-1")
    while kills < KILLS:
        if _killed_after(moments[kills], run):
            kills += 1
            click.echo(f"  kill {kills} after {moments[kills - 1]} s")
            continue
        finished.append(run)
        differences += _differences(expected, _outcome(run))
        run = shutil.copytree(source, folder / f"killed-{len(finished) + 1}")
    twotower(folder, "train", *_often(run))
    finished.append(run)
    differences += _differences(expected, _outcome(run))
    click.echo(f"  {kills} kills, {len(finished)} trainings, differences: {differences or 'none'}")
    rows = {
        "undisturbed, s": round(seconds, 1),
        "killed after, s": moments,
        "trainings": len(finished),
        "values compared": len(expected) * len(finished),
        "differences": differences,
    }
    return {"resume": rows}, [
        Check("resume: SIGKILLs in training", kills, ">=", KILLS),
        Check(
            "resume: metrics that differ from an undisturbed training", len(differences), "==", 0
        ),
    ]


def _often(run: Path) -> list[str]:
    """Arguments: so often is the state saved that kills leave something to go on from."""
    return ["--run", str(run), "--set", "training.checkpoint_seconds=2"]


def _killed_after(seconds: float, run: Path) -> bool:
    """Whether `twotower train` still ran after so long; then its process group is killed."""
    process = subprocess.Popen(
        [TWOTOWER, "train", *_often(run)],
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


def _outcome(run: Path) -> dict[str, Any]:
    """The metrics of a training: on valid after every epoch, and of the kept one on test."""
    twotower(run, "evaluate", "--run", str(run))
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


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = sorted({*expected, *found})
    return [name for name in names if expected.get(name) != found.get(name)]


def main_job(data: Path) -> tuple[dict, list[Check]]:
    """`make run` in a fresh clone whose environment is there: time, and quality as before."""
    before = json.loads((RESULTS / "main_job.json").read_text())["rows"]["make run on ML-1M"]
    with clone() as project:
        call(project, "make", "env", log="training-env")
        seconds, output = call(project, "make", "run", f"DATA={data / 'ml-1m'}", log="training-run")
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
        Check("make run on ML-1M: test ndcg@10 lost", round(known - found, 4), "<=", NOISE),
    ]


def _ndcg(report: dict[str, Any]) -> float:
    return report["metrics"]["two-tower"]["ndcg@10"]


def update(data: Path, folder: Path) -> tuple[dict, list[Check]]:
    """A day of new interactions, users and items learnt and published while 16 clients ask."""
    base, day = folder / "base", folder / "day"
    held_out = write_day(data / "ml-1m", base, day)
    config = ["--config", str(ROOT / "configs/ml-1m.yaml"), "--data", str(base)]
    twotower(folder, "run", *config, "--run", str(folder / "before"))
    world = World(folder / "before", folder / "world")
    run, old = world.run, _encoded(world.run)
    with ExitStack() as stack:
        server = stack.enter_context(_served(run))
        busy = stack.enter_context(_busy(world, server.http))
        seconds = twotower(folder, "update", "--data", str(day), "--run", str(run.path))
        time.sleep(2)  # some answers by the new version
        asked = busy.stop()
        rows, checks = _answers(run, server, held_out)
    moved = _moved(old, _encoded(Run(run.path)))
    click.echo(f"  updated in {seconds:.1f} s beside {asked.requests:,} requests; {rows}")
    rows |= {"seconds": round(seconds, 1), "beside it": asked.__dict__}
    rows |= {"held out": {name: len(ids) for name, ids in held_out.items()}, "moved": moved}
    return {"update": rows}, [
        Check("update under load: failed requests", asked.errors, "==", 0),
        *checks,
        Check("update: old users and items with a code that changed", moved, "==", 0),
    ]


def write_day(source: Path, base: Path, day: Path) -> dict[str, np.ndarray]:
    """Part a folder with ratings.dat, users.dat and movies.dat in two of the same format.

    The day has all ratings of some users and of some items, whom the base does not know, and some
    others. Returns the new "users" and "items", ids int64, and "ratings", rows.
    """
    draw = np.random.default_rng(9)
    lines = {name: (source / f"{name}.dat").read_bytes().splitlines() for name in FILES}
    ids = {name: _field(lines[name], 0) for name in ("users", "movies")}
    new = {
        name: draw.choice(values, round(HELD_OUT[kind] * len(values)), replace=False)
        for (name, values), kind in zip(ids.items(), ("users", "items"), strict=True)
    }
    pairs = {"users": _field(lines["ratings"], 0), "movies": _field(lines["ratings"], 1)}
    later = draw.random(len(lines["ratings"])) < HELD_OUT["ratings"]
    for name, values in pairs.items():
        later |= np.isin(values, new[name])
    kept = {name: ~np.isin(values, new[name]) for name, values in ids.items()}
    asked = {name: np.isin(values, pairs[name][later]) for name, values in ids.items()}
    for folder, chosen in (
        (base, {**kept, "ratings": ~later}),
        (day, {**asked, "ratings": later}),
    ):
        folder.mkdir(parents=True)
        for name, mask in chosen.items():
            some = [line for line, wanted in zip(lines[name], mask, strict=True) if wanted]
            (folder / f"{name}.dat").write_bytes(b"\n".join([*some, b""]))
    return {"users": new["users"], "items": new["movies"], "ratings": np.flatnonzero(later)}


def _field(lines: list[bytes], position: int) -> np.ndarray:
    return np.array([int(line.split(b"::")[position]) for line in lines], np.int64)


@contextmanager
def _served(run: Run) -> Iterator[RunningServer]:
    """`twotower serve` of the run, as an operator starts it."""
    process = subprocess.Popen(
        [TWOTOWER, "serve", "--run", str(run.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (server := running_server(run)):
            if process.poll() is not None:
                raise click.ClickException(f"{run.path}: twotower serve ended")
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _busy(world: World, address: str) -> Iterator[Load]:
    """16 clients that ask what `benchmarks.serving` mixes, until they are stopped."""
    bodies = write_bodies(world.folder / "mixed-http.bodies", mixed(world), "http json")
    with load(address, "http json", bodies, CLIENTS, seconds=3600) as running:
        yield running


def _answers(
    run: Run, server: RunningServer, new: dict[str, np.ndarray]
) -> tuple[dict[str, Any], list[Check]]:
    """What new users get, whether the server knows them, and who is recommended new items."""
    everybody = pd.read_parquet(run.path / "data" / USERS)[run.config.features.user_id].to_numpy()
    with RetrievalClient(server.http, timeout=30) as client:
        time.sleep(2)  # counts are told once a second, the load's too
        before = _known_users(server)
        first = client.recommend(new["users"], k=K)
        stranger = client.recommend([int(everybody.max()) + 1], k=K)
        time.sleep(2)
        known = _known_users(server) - before
        blocks = np.array_split(everybody, -(-len(everybody) // ASKED_AT_ONCE))
        lists = np.concatenate([client.recommend(ids, k=LONG_K).item_ids for ids in blocks])
    whole = int((first.item_ids >= 0).all(axis=1).sum())
    as_strangers = int((first.item_ids == stranger.item_ids).all(axis=1).sum())
    rows = {
        "new users": len(new["users"]),
        f"of them with {K} items": whole,
        "of them known to the server": int(known),
        "of them answered like a stranger": as_strangers,
        "new items": len(new["items"]),
        f"of them in anybody's first {LONG_K}": int(np.isin(new["items"], lists).sum()),
    }
    missing = len(new["users"]) - min(whole, int(known))
    return rows, [
        Check(f"update: new users without {K} items or unknown to the server", missing, "==", 0),
        Check("update: new users answered like a stranger", as_strangers, "==", 0),
        Check(
            "update: new items recommended", rows[f"of them in anybody's first {LONG_K}"], ">=", 1
        ),
    ]


def _known_users(server: RunningServer) -> float:
    """How many users of the table the server was asked for, by its metrics."""
    direct = build_opener(ProxyHandler({}))
    with direct.open(f"http://{server.metrics}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "twotower_users_total" and sample.labels["known"] == "true"
    )


def _encoded(run: Run) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Of users and items: raw ids ascending, and the encoded columns in the same order."""
    features, data = run.config.features, run.path / "data"
    return [
        (pd.read_parquet(data / file)[name].to_numpy(), columns)
        for (file, name), columns in zip(
            ((USERS, features.user_id), (ITEMS, features.item_id)), load_tables(run), strict=True
        )
    ]


def _moved(old: list[tuple], new: list[tuple]) -> int:
    """How many rows of the old tables have a code that is another one in the new tables.

    What was out of vocabulary may have come into it.
    """
    from twotower.models.batch_keys import OUT_OF_VOCABULARY

    moved = 0
    for (old_ids, before), (new_ids, after) in zip(old, new, strict=True):
        rows = np.searchsorted(new_ids, old_ids)
        kept = [
            ((after[name][rows] == codes) | (codes == OUT_OF_VOCABULARY)).all(axis=1)
            for name, codes in before.items()
        ]
        moved += int((~np.all(kept, axis=0)).sum())
    return moved
