"""Parts `encoding`, `damage`, `publishing`, `kill` and `disk`: failures that must not happen."""

from __future__ import annotations

import re
import sys
from collections import Counter

import click
import numpy as np
import pandas as pd

from benchmarks.child import ROOT, call
from benchmarks.main_job import count_passed
from benchmarks.report import Check, Rows
from benchmarks.serving.subjects import OURS, ServedRun
from twotower.pipelines.run import TRITON
from twotower.serving.client import RetrievalClient
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.compiled_engine import CompiledEngine
from twotower.serving.runtime.contract import FILLER, NULL, VALUE, state_of
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import ModelControl

DIRTY_ROWS = 10_000
STRINGS = ["", " ", "F ", "f", "Ü", "東京", "🦉", "\0", "F\0", "x" * 5_000, None]
NUMBERS = [0, -1, 2**63 - 1, -(2**63), 2**53 + 1]


def encoding(served: ServedRun) -> tuple[Rows, list[Check]]:
    """Compare the compiled encoding with NVTabular's, for every user and for dirty rows."""
    from twotower.workflows.features.encode import load_workflow

    workflow = load_workflow(served.run.path / "workflow").get_subworkflow("user")
    engine = CompiledEngine(served.run.path / TRITON / "retrieval" / "1")
    draw = np.random.default_rng(7)
    wrong: Counter[str] = Counter()
    rows: dict[str, int] = {}
    for kind, users in (("users", served.users), ("dirty rows", _dirty(served.users, draw))):
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
    """Draw rows in which about half of the values are ones that no user has."""
    rows = users.iloc[draw.integers(0, len(users), DIRTY_ROWS)].reset_index(drop=True)
    for name in rows:
        strange = pd.Series(STRINGS if rows[name].dtype == object else NUMBERS)
        strange = strange.astype(rows[name].dtype).iloc[draw.integers(0, len(strange), DIRTY_ROWS)]
        rows[name] = rows[name].where(draw.random(DIRTY_ROWS) < 0.5, strange.to_numpy())
    return rows


def _columns(users: pd.DataFrame) -> dict[str, np.ndarray]:
    """Convert users to the table that the served model makes of a request."""
    user_id, *features = users
    columns = {user_id: users[user_id].to_numpy()}
    for name in features:
        null = users[name].isna()
        dtype = "BYTES" if users[name].dtype == object else "INT64"
        columns[name] = users[name].where(~null, FILLER[dtype]).to_numpy()
        columns[state_of(name)] = np.where(null, NULL, VALUE).astype(np.int8)
    return columns


def damage(served: ServedRun) -> tuple[Rows, list[Check]]:
    """Damage every file of a new version in several ways; try to publish it to a live server."""
    from twotower.pipelines.steps.export import export

    repository = ModelRepository(served.run.path / TRITON)
    export(served.run)
    newest = repository.versions()[-1].number
    folder = repository.model / str(newest)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    user = [int(served.users.iat[0, 0])]
    unnamed, tried = 0, 0
    answered_by: Counter[int | str] = Counter()
    with served.server(OURS) as server, RetrievalClient(server.http) as client:
        if server.key is None:
            raise click.ClickException("this Triton cannot restrict model control by a key")
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
        restored = client.recommend(user).version == newest
    click.echo(f"  {len(files)} files, {tried} kinds of damage, answered by {dict(answered_by)}")
    rows = {"files": len(files), "damaged": tried, "published after the repair": restored}
    return {"damage": rows}, [
        Check("damage: files truncated, emptied and bit-flipped", len(files), ">=", 20),
        Check("damage: published, or refused without naming the file", unnamed, "==", 0),
        Check("damage: not answered by the version before", tried - answered_by[1], "==", 0),
    ]


def _damaged(content: bytes) -> list[bytes]:
    """Damage content: remove its last byte, remove all, flip a bit at three places."""
    kinds = [content[:-1], b""]
    for position in (0, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[position : position + 1] = bytes(b ^ 1 for b in flipped[position : position + 1])
        kinds.append(bytes(flipped))
    return [kind for kind in kinds if kind != content]


def publishing() -> tuple[Rows, list[Check]]:
    """Run the test that publishes two versions 20 times while 16 clients send requests."""
    name = "test_publishing_under_load_loses_no_request_and_mixes_no_versions"
    tests = ["tests/serving/triton/test_control.py", "-k", name]
    output = _run_tests(tests, log="publishing")
    publishes, answers, failed = _figures(
        r"(\d+) publishes, ([0-9]+) answers, (\d+) failed or mixed", output
    )
    return {"publishing under load": {"publishes": publishes, "answers": answers}}, [
        Check("publishing: publishes under 16 clients", publishes, ">=", 20),
        Check("publishing: failed requests and answers that mix versions", failed, "==", 0),
    ]


def kill() -> tuple[Rows, list[Check]]:
    """Run the slow test that kills export and publish at 200 random moments."""
    output = _run_tests(["tests/pipelines/test_crash.py", "-m", "slow"], log="kill")
    kills, old, new = _figures(r"(\d+) kills: (\d+) served the old version, (\d+) the new", output)
    rows = {"kills": kills, "served the old version": old, "served the new version": new}
    neither = kills - old - new
    return {"kill": rows}, [
        Check("kill: SIGKILLs in export and publish", kills, ">=", 200),
        Check("kill: next starts that served neither the old nor the new", neither, "==", 0),
    ]


def disk() -> tuple[Rows, list[Check]]:
    """Run the tests of export and publish on a full and on a read-only disk."""
    output = _run_tests(["tests/serving/test_repository.py", "-k", "disk"], log="disk")
    passed = count_passed(output)
    return {"disk": {"tests": passed}}, [
        Check("disk full, disk read-only: tests passed", passed, ">=", 2)
    ]


def _run_tests(tests: list[str], log: str) -> str:
    """Run tests of the suite and return their output; fail if one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests]
    return call(ROOT, command, log=f"serving-{log}")[1]


def _figures(pattern: str, output: str) -> list[int]:
    """Read the whole numbers that a test printed; raise ClickException if it printed none."""
    found = re.search(pattern, output)
    if not found:
        raise click.ClickException(f"the tests printed nothing like {pattern!r}")
    return [int(figure) for figure in found.groups()]
