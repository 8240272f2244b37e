"""What must not happen, tried for real: wrong encodings, lost requests, half a version served."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.main_job import call
from benchmarks.report import Check
from benchmarks.subjects import OURS, World
from twotower.pipelines.run import TRITON
from twotower.serving.client import RetrievalClient
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.compiled_engine import CompiledEngine
from twotower.serving.runtime.contract import FILLER, NULL, VALUE, state_of
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import ModelControl

ROOT = Path(__file__).resolve().parents[1]
DIRTY_ROWS = 10_000
STRINGS = ["", " ", "F ", "f", "Ü", "東京", "🦉", "\0", "F\0", "x" * 5_000, None]
NUMBERS = [0, -1, 2**63 - 1, -(2**63), 2**53 + 1]


def encoding(world: World) -> tuple[dict, list[Check]]:
    """The compiled encoding of every user and of dirty rows beside NVTabular's own transform."""
    from twotower.workflows.features.encode import load_workflow

    workflow = load_workflow(world.run.path / "workflow").get_subworkflow("user")
    engine = CompiledEngine(world.run.path / TRITON / "retrieval" / "1")
    draw, wrong, rows = np.random.default_rng(7), Counter(), {}
    for kind, users in (("users", world.users), ("dirty rows", _dirty(world.users, draw))):
        encoded = engine.encoding.run(_columns(users))
        expected = workflow.transform(users)
        rows[kind] = len(users)
        for name in expected:
            wrong[kind] += int((encoded[name] != expected[name].to_numpy()).sum())
    click.echo(f"  {rows}, wrong: {dict(wrong)}")
    return {"encoding": rows}, [
        Check("encoding: users of ML-1M compared with NVTabular", rows["users"], ">=", 6_040),
        Check("encoding: dirty rows compared with NVTabular", rows["dirty rows"], ">=", DIRTY_ROWS),
        Check("encoding: wrong codes", sum(wrong.values()), "==", 0),
    ]


def _dirty(users: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """Rows of which about half of the values are no user's."""
    rows = users.iloc[draw.integers(0, len(users), DIRTY_ROWS)].reset_index(drop=True)
    for name in rows:
        strange = pd.Series(STRINGS if rows[name].dtype == object else NUMBERS)
        strange = strange.astype(rows[name].dtype).iloc[draw.integers(0, len(strange), DIRTY_ROWS)]
        rows[name] = rows[name].where(draw.random(DIRTY_ROWS) < 0.5, strange.to_numpy())
    return rows


def _columns(users: pd.DataFrame) -> dict[str, np.ndarray]:
    """The table that these users become."""
    user_id, *features = users
    columns = {user_id: users[user_id].to_numpy()}
    for name in features:
        null = users[name].isna()
        dtype = "BYTES" if users[name].dtype == object else "INT64"
        columns[name] = users[name].where(~null, FILLER[dtype]).to_numpy()
        columns[state_of(name)] = np.where(null, NULL, VALUE).astype(np.int8)
    return columns


def damage(world: World) -> tuple[dict, list[Check]]:
    """Every file of a new version truncated and bit-flipped in turn, published to a live server."""
    from twotower.pipelines.steps.export import export

    repository = ModelRepository(world.run.path / TRITON)
    export(world.run)
    newest = repository.versions()[-1].number
    folder = repository.model / str(newest)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    user, unnamed, answered_by, tried = [int(world.users.iat[0, 0])], 0, Counter(), 0
    with world.server(OURS) as server, RetrievalClient(server.http) as client:
        control = ModelControl(server.http, server.key, timeout=60)
        before = client.recommend(user)
        for path in files:
            content = path.read_bytes()
            for damaged in _damaged(content):
                path.write_bytes(damaged)
                tried += 1
                try:
                    repository.publish(newest, control)
                    unnamed += 1
                except ServingError as error:
                    unnamed += str(path) not in str(error)
                answer = client.recommend(user)
                same = np.array_equal(answer.item_ids, before.item_ids)
                answered_by[answer.version if same else "wrong"] += 1
            path.write_bytes(content)
        repository.publish(newest, control)
        whole = client.recommend(user).version == newest
    click.echo(f"  {len(files)} files, {tried} kinds of damage, answered by {dict(answered_by)}")
    rows = {"files": len(files), "damaged": tried, "then whole again, published": whole}
    return {"damage": rows}, [
        Check("damage: files truncated, emptied and bit-flipped", len(files), ">=", 20),
        Check("damage: not refused, or the file not named", unnamed, "==", 0),
        Check("damage: not answered by the version before", tried - answered_by[1], "==", 0),
    ]


def _damaged(content: bytes) -> list[bytes]:
    """The content less its last byte, none of it, and with a bit flipped at three places."""
    kinds = [content[:-1], b""]
    for position in (0, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[position : position + 1] = bytes(b ^ 1 for b in flipped[position : position + 1])
        kinds.append(bytes(flipped))
    return [kind for kind in kinds if kind != content]


def publishing(world: World) -> tuple[dict, list[Check]]:
    """20 publishes of two versions that answer differently, while 16 clients ask: a test."""
    name = "test_publishing_under_load_loses_no_request_and_mixes_no_versions"
    output = _tests("publishing", "tests/serving/test_control.py", "-k", name)
    publishes, answers, failed = map(
        int, re.search(r"(\d+) publishes, ([0-9]+) answers, (\d+) failed or mixed", output).groups()
    )
    return {"publishing under load": {"publishes": publishes, "answers": answers}}, [
        Check("publishing: publishes under 16 clients", publishes, ">=", 20),
        Check("publishing: failed requests and answers that mix versions", failed, "==", 0),
    ]


def kill(world: World) -> tuple[dict, list[Check]]:
    """SIGKILL at 200 random moments of export and publish, then a start: a slow test."""
    output = _tests("kill", "tests/pipelines/test_crash.py", "-m", "slow")
    kills, old, new = map(
        int, re.search(r"(\d+) kills: (\d+) served the old version, (\d+) the new", output).groups()
    )
    rows = {"kills": kills, "served the old version": old, "served the new version": new}
    return {"kill": rows}, [
        Check("kill: SIGKILLs in export and publish", kills, ">=", 200),
        Check(
            "kill: next starts that served neither old nor new, whole", kills - old - new, "==", 0
        ),
    ]


def disk(world: World) -> tuple[dict, list[Check]]:
    """A full and a read-only disk under export and publish: tests."""
    output = _tests("disk", "tests/serving/test_versions.py", "-k", "disk")
    passed = int(re.search(r"(\d+) passed", output).group(1))
    return {"disk": {"tests": passed}}, [
        Check("disk full, disk read-only: tests passed", passed, ">=", 2)
    ]


def _tests(log: str, *arguments: str) -> str:
    """The output of tests of the suite; fails when one does."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments]
    return call(ROOT, *command, log=f"serving-{log}")[1]
