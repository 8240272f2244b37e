"""Part `kills`: SIGKILL in train, update, export and publish loses and mixes nothing."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.faults.actions import perform, publish_other, recover
from benchmarks.faults.command import DONE, FAILED, REFUSED, Command, Outcome
from benchmarks.faults.prepare import PreparedRun
from benchmarks.faults.state import State, read_state
from benchmarks.report import Check
from twotower.pipelines.run import MANIFEST, STAGING
from twotower.serving.runtime.manifest import sha256

VERBS = ("export", "publish", "train", "update")
# When a command is killed: at any time, in its last tenth, or as soon as it has committed a step.
MOMENTS = ("any", "late", "commit")
REPEAT_EVERY = 3
"""After every third kill, the killed command is run again to its end."""


def kill_commands(
    prepared: PreparedRun, kills: int, seed: int
) -> tuple[list[dict[str, Any]], list[Check]]:
    """Kill commands `kills` times; after each kill, check what the next command finds.

    A command that reported success before it was killed does not count.

    Parameters
    ----------
    prepared : PreparedRun
        With a day for every second kill.
    kills, seed : int

    Returns
    -------
    rows : list of dict
        One per kill: verb, moment, seconds until the kill and outcome. The outcome is "old" if
        nothing changed, "new" if the command did all its work, "resumed" if the same command
        continues from a part of it, None for any other state.
    checks : list of Check
    """
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    faults: Counter[str] = Counter()
    for number in itertools.count():
        if sum(not row["reported done"] for row in rows) == kills:
            break
        verb = VERBS[number % len(VERBS)]
        moment = MOMENTS[(number + number // len(VERBS)) % len(MOMENTS)]
        before = read_state(prepared.path)
        work = _work(verb, prepared, before)
        outcome = _run_and_kill(work, prepared, verb, moment, draw)
        damage = _run_next(partial(recover, prepared.path), prepared, faults)
        faults["damaged"] += len(damage or [])
        after = read_state(prepared.path)
        left = _compare(verb, prepared.path, before, after)
        faults["neither old nor new"] += left is None
        faults["lost"] += _count_lost(before, after) + (outcome.kind == DONE and left != "new")
        faults["failed by itself"] += outcome.kind in (REFUSED, FAILED)
        rows.append(
            {
                "verb": verb,
                "moment": moment,
                "seconds": round(outcome.seconds, 2),
                "outcome": left,
                "reported done": outcome.kind == DONE,
            }
        )
        if number % REPEAT_EVERY == 1:
            _run_next(work, prepared, faults)
            faults["lost"] += _count_lost(after, read_state(prepared.path))
        click.echo(f"  kill {number + 1}: {rows[-1]}, faults: {dict(+faults)}")
    return rows, _checks(kills, rows, faults)


def _checks(kills: int, rows: list[dict[str, Any]], faults: Counter[str]) -> list[Check]:
    killed = sum(not row["reported done"] for row in rows)
    outcomes = Counter(row["outcome"] for row in rows)
    old = outcomes["old"] + outcomes["resumed"]
    return [
        Check("kills: SIGKILLs in train, update, export, publish", killed, ">=", kills),
        Check("kills: runs left in the old state", old, ">=", 1),
        Check("kills: runs left in the new state", outcomes["new"], ">=", 1),
        Check("kills: runs left in a state between", faults["neither old nor new"], "==", 0),
        Check("kills: damaged files and leftovers", faults["damaged"], "==", 0),
        Check("kills: next commands that failed", faults["next failed"], "==", 0),
        Check("kills: results lost after success was reported", faults["lost"], "==", 0),
        Check("kills: commands that failed by themselves", faults["failed by itself"], "==", 0),
    ]


def _work(verb: str, prepared: PreparedRun, state: State) -> Callable[[], Any]:
    """Return the work of a verb, which takes no arguments; an update takes the next day."""
    if verb == "publish":
        return partial(publish_other, prepared.path)
    return partial(perform, verb, prepared.path, prepared.days[len(state.days)])


def _run_and_kill(
    work: Callable[[], Any], prepared: PreparedRun, verb: str, moment: str, draw: random.Random
) -> Outcome:
    """Start a command and kill it at the moment, unless it ends before."""
    run, seconds = prepared.path, prepared.seconds[verb]
    command = Command(work, prepared.log)
    if moment == "commit" and verb != "publish":
        before = sha256(run / MANIFEST)
        staged = run / STAGING / MANIFEST
        while not command.ends_within(0):
            if staged.exists() or sha256(run / MANIFEST) != before:
                break
            time.sleep(0.0005)
    else:
        share = draw.uniform(0.9, 1.05) if moment == "late" else draw.uniform(0, 1)
        command.ends_within(share * seconds)
    return command.kill()


def _run_next(work: Callable[[], Any], prepared: PreparedRun, faults: Counter[str]) -> Any:
    """Run a command to its end and return its result; count it as a fault if it fails."""
    outcome = Command(work, prepared.log).wait()
    if outcome.kind != DONE:
        faults["next failed"] += 1
        click.echo(f"  the next command: {outcome.kind}: {outcome.value}")
        return None
    return outcome.value


def _compare(verb: str, path: Path, before: State, after: State) -> str | None:
    """Name the state that a kill left; None if it is neither old, new nor resumable."""
    if verb == "publish":
        same = after.manifest == before.manifest and after.versions == before.versions
        if not same:
            return None
        return "old" if after.history == before.history else "new"
    if verb == "train":
        if after.manifest != before.manifest:
            return "new" if (after.versions, after.days) == (before.versions, before.days) else None
        state = any((path / "training").glob("*/state/checkpoint"))
        finished = any((path / "training").glob("*/finished"))
        return "resumed" if state and not finished else "old"
    added = len(after.versions) - len(before.versions)
    if verb == "export":
        if (after.manifest != before.manifest) != (added == 1):
            return None
        return "new" if added else "old"
    if after.days == before.days:
        return "old" if after == before else None
    return "new" if added and after.history != before.history else "resumed"


def _count_lost(before: State, after: State) -> int:
    """Count versions and days that were there before and are not there now."""
    versions = sum(after.versions.get(n) != digest for n, digest in before.versions.items())
    return versions + (after.days[: len(before.days)] != before.days)
