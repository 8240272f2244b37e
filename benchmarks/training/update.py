"""Part `update`: a day of new interactions is learnt and published while clients send requests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import click
import numpy as np
import pandas as pd
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.child import ROOT
from benchmarks.main_job import TWOTOWER
from benchmarks.report import Check, Rows
from benchmarks.serving.correctness import background_load
from benchmarks.serving.subjects import ServedRun
from benchmarks.training.commands import twotower
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_tables
from twotower.pipelines.steps.processed import ITEMS, USERS
from twotower.pipelines.steps.serve import RunningServer, running_server
from twotower.serving.client import RetrievalClient

HELD_OUT = {"users": 0.02, "items": 0.01, "ratings": 0.02}
FILES = ("ratings", "users", "movies")
K, MAX_K, USERS_PER_REQUEST = 10, 100, 500


def update(data: Path, folder: Path) -> tuple[Rows, list[Check]]:
    """Update a served run with a day of data while 16 clients send requests."""
    base, day = folder / "base", folder / "day"
    held_out = write_day(data / "ml-1m", base, day)
    config = str(ROOT / "configs/ml-1m.yaml")
    before = str(folder / "before")
    twotower(folder, "run", ["--config", config, "--data", str(base), "--run", before])
    served = ServedRun(folder / "before", folder / "served")
    run = served.run
    old = _encoded_tables(run)
    with ExitStack() as stack:
        server = stack.enter_context(_serving(run))
        background = stack.enter_context(background_load(served, server.http))
        seconds = twotower(folder, "update", ["--data", str(day), "--run", str(run.path)])
        time.sleep(2)  # for some answers of the new version
        result = background.stop()
        rows, checks = _check_answers(run, server, held_out)
    changed = count_changed_rows(old, _encoded_tables(Run(run.path)))
    click.echo(f"  updated in {seconds:.1f} s during {result.requests:,} requests; {rows}")
    rows |= {
        "seconds": round(seconds, 1),
        "other requests": result.record(),
        "held out": {
            "users": len(held_out.users),
            "items": len(held_out.items),
            "ratings": held_out.ratings,
        },
        "changed codes": changed,
    }
    return {"update": rows}, [
        Check("update under load: failed requests", result.errors, "==", 0),
        *checks,
        Check("update: old users and items with a code that changed", changed, "==", 0),
    ]


@dataclass(frozen=True)
class HeldOut:
    """What a day contains.

    Attributes
    ----------
    users, items : ndarray of int64, shape (n,)
        Ids that only the day has.
    ratings : int
        Number of its ratings.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: int


def write_day(source: Path, base: Path, day: Path) -> HeldOut:
    """Split MovieLens data into a base and a day, both in the same format.

    The day has all ratings of some users and of some items, which the base does not have, and a
    random part of the other ratings.

    Parameters
    ----------
    source : Path
        Folder with ratings.dat, users.dat and movies.dat.
    base, day : Path
        New folders.
    """
    draw = np.random.default_rng(9)
    lines = {name: (source / f"{name}.dat").read_bytes().splitlines() for name in FILES}
    users, items = _field(lines["users"], 0), _field(lines["movies"], 0)
    new_users = draw.choice(users, round(HELD_OUT["users"] * len(users)), replace=False)
    new_items = draw.choice(items, round(HELD_OUT["items"] * len(items)), replace=False)
    rating_users, rating_items = _field(lines["ratings"], 0), _field(lines["ratings"], 1)
    later = draw.random(len(lines["ratings"])) < HELD_OUT["ratings"]
    later |= np.isin(rating_users, new_users) | np.isin(rating_items, new_items)
    _write_lines(
        base,
        lines,
        {
            "users": ~np.isin(users, new_users),
            "movies": ~np.isin(items, new_items),
            "ratings": ~later,
        },
    )
    _write_lines(
        day,
        lines,
        {
            "users": np.isin(users, rating_users[later]),
            "movies": np.isin(items, rating_items[later]),
            "ratings": later,
        },
    )
    return HeldOut(users=new_users, items=new_items, ratings=int(later.sum()))


def _write_lines(
    folder: Path, lines: dict[str, list[bytes]], chosen: dict[str, np.ndarray]
) -> None:
    """Write the chosen lines of each file to a new folder."""
    folder.mkdir(parents=True)
    for name, mask in chosen.items():
        kept = [line for line, wanted in zip(lines[name], mask, strict=True) if wanted]
        (folder / f"{name}.dat").write_bytes(b"\n".join([*kept, b""]))


def _field(lines: list[bytes], position: int) -> np.ndarray:
    return np.array([int(line.split(b"::")[position]) for line in lines], np.int64)


@contextmanager
def _serving(run: Run) -> Iterator[RunningServer]:
    """Run `twotower serve` in the background."""
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


def _check_answers(
    run: Run, server: RunningServer, new: HeldOut
) -> tuple[dict[str, Any], list[Check]]:
    """Check what new users get, whether the server knows them, and that new items are answered."""
    all_users = pd.read_parquet(run.path / "data" / USERS)[run.config.features.user_id].to_numpy()
    with RetrievalClient(server.http, timeout=30) as client:
        time.sleep(2)  # the server updates its metrics once per second
        before = _known_users(server)
        first = client.recommend(new.users, k=K)
        unknown = client.recommend([int(all_users.max()) + 1], k=K)
        time.sleep(2)
        known = int(_known_users(server) - before)
        blocks = np.array_split(all_users, -(-len(all_users) // USERS_PER_REQUEST))
        lists = np.concatenate([client.recommend(ids, k=MAX_K).item_ids for ids in blocks])
    whole = int(np.isfinite(first.scores).all(axis=1).sum())
    as_unknown = int((first.item_ids == unknown.item_ids).all(axis=1).sum())
    recommended = int(np.isin(new.items, lists).sum())
    rows = {
        "new users": len(new.users),
        f"new users with {K} items": whole,
        "new users known to the server": known,
        "new users answered like an unknown user": as_unknown,
        "new items": len(new.items),
        f"new items in any user's top {MAX_K}": recommended,
    }
    missing = len(new.users) - min(whole, known)
    return rows, [
        Check(f"update: new users without {K} items or unknown to the server", missing, "==", 0),
        Check("update: new users answered like an unknown user", as_unknown, "==", 0),
        Check("update: new items recommended", recommended, ">=", 1),
    ]


def _known_users(server: RunningServer) -> float:
    """Read from the server's metrics for how many known users it was asked."""
    direct = build_opener(ProxyHandler({}))
    with direct.open(f"http://{server.metrics}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "twotower_users_total" and sample.labels["known"] == "true"
    )


EncodedTable = tuple[np.ndarray, dict[str, np.ndarray]]
"""Raw ids in ascending order, and the encoded columns in the same order."""


def _encoded_tables(run: Run) -> list[EncodedTable]:
    """Load the encoded tables of users and of items."""
    features, data = run.config.features, run.path / "data"
    users, items = load_tables(run)
    return [
        (pd.read_parquet(data / USERS)[features.user_id].to_numpy(), users),
        (pd.read_parquet(data / ITEMS)[features.item_id].to_numpy(), items),
    ]


def count_changed_rows(old: list[EncodedTable], new: list[EncodedTable]) -> int:
    """Count the rows of the old tables that have another code in the new tables.

    A code that was out of vocabulary may change.
    """
    from twotower.models.batch_keys import OUT_OF_VOCABULARY

    changed = 0
    for (old_ids, before), (new_ids, after) in zip(old, new, strict=True):
        rows = np.searchsorted(new_ids, old_ids)
        kept = [
            ((after[name][rows] == codes) | (codes == OUT_OF_VOCABULARY)).all(axis=1)
            for name, codes in before.items()
        ]
        changed += int((~np.all(kept, axis=0)).sum())
    return changed
