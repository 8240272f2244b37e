"""Part `pairs`: two commands at the same time end in the state of some serial order."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.faults.actions import perform
from benchmarks.faults.command import DONE, FAILED, KILLED, REFUSED, Command, Outcome
from benchmarks.faults.prepare import PreparedRun
from benchmarks.faults.state import State, find_damage, read_state
from benchmarks.report import Check

VERBS = (
    "ingest",
    "preprocess",
    "train",
    "evaluate",
    "export",
    "publish",
    "rollback",
    "update",
    "versions",
)
LOCKED, UNPUBLISHED = "locked", "unpublished"
"""Kinds of outcomes besides those of a single command."""


def run_pairs(
    prepared: PreparedRun, pairs: int, seed: int
) -> tuple[list[dict[str, Any]], list[Check]]:
    """Run two random commands at the same time, `pairs` times, each on a copy of the run.

    A command must succeed, or be refused because the other one holds the lock. An update whose
    model is ready is also refused when the other one has published a version in the meantime. The
    final state must be that of a serial order of the commands that succeeded. The commands are not
    run again for that: the commits of each must follow one another without a commit of the other
    between them, lead from the old manifest to the present one and use the files of the manifest
    that they replace; numbers and history of the versions must fit the same order.

    Parameters
    ----------
    prepared : PreparedRun
        With at least two days.
    pairs, seed : int

    Returns
    -------
    rows : list of dict
        One per pair: the verbs, the seconds between their starts, how each ended.
    checks : list of Check
    """
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    faults: Counter[str] = Counter()
    for number in range(pairs):
        verbs = draw.choice(VERBS), draw.choice(VERBS)
        wait = draw.uniform(0, prepared.seconds[verbs[0]])
        path = Path(shutil.copytree(prepared.path, prepared.path.with_name("pair")))
        before = read_state(path)
        works = [
            partial(perform, verb, path, day)
            for verb, day in zip(verbs, prepared.days[-2:], strict=True)
        ]
        outcomes = _run_both(works[0], works[1], wait, prepared.log)
        ended = list(zip(verbs, outcomes, strict=True))
        kinds = [_kind(outcome) for outcome in outcomes]
        faults["failed"] += kinds.count(FAILED) + kinds.count(KILLED)
        for verb, outcome in ended:
            blocked = verb == "versions" and (outcome.kind != DONE or not outcome.value["whole"])
            faults["readers blocked"] += blocked
            if outcome.kind in (REFUSED, FAILED):
                click.echo(f"    {verb} {outcome.kind}: {outcome.value}")
        faults["damaged"] += len(find_damage(path))
        done = [(verb, outcome.value) for verb, outcome in ended if outcome.kind == DONE]
        serial = _serial_order(before, read_state(path), done)
        faults["no serial order"] += not serial
        rows.append({"verbs": verbs, "wait": round(wait, 2), "ended": kinds, "serial": serial})
        click.echo(f"  pair {number + 1}: {rows[-1]}, faults: {dict(+faults)}")
        shutil.rmtree(path)
    return rows, _checks(pairs, rows, faults)


def _checks(pairs: int, rows: list[dict[str, Any]], faults: Counter[str]) -> list[Check]:
    locked = sum(row["ended"].count(LOCKED) for row in rows)
    both = sum(row["ended"] == [DONE, DONE] for row in rows)
    return [
        Check("pairs: concurrent commands on one run folder", len(rows), ">=", pairs),
        Check("pairs: both commands succeeded", both, ">=", 1),
        Check("pairs: commands refused because of the other's lock", locked, ">=", 1),
        Check("pairs: commands that failed with another error", faults["failed"], "==", 0),
        Check("pairs: readers that were refused", faults["readers blocked"], "==", 0),
        Check("pairs: damaged files and leftovers", faults["damaged"], "==", 0),
        Check("pairs: final states of no serial order", faults["no serial order"], "==", 0),
    ]


def _run_both(
    one: Callable[[], Any], other: Callable[[], Any], wait: float, log: Path
) -> list[Outcome]:
    """Start one command and, after at most `wait` seconds, the other; wait for both."""
    first = Command(one, log)
    first.ends_within(wait)
    second = Command(other, log)
    return [first.wait(), second.wait()]


def _kind(outcome: Outcome) -> str:
    """Return the outcome's kind.

    LOCKED is a command that was refused because of the lock, UNPUBLISHED an update whose version
    was not published, because the other command had published one in the meantime.
    """
    # Only the message about the lock names the process that holds it.
    names_holder = outcome.kind == REFUSED and re.search(r"process \d+ on ", outcome.value)
    if outcome.kind == DONE and outcome.value["refused"]:
        return UNPUBLISHED
    return LOCKED if names_holder else outcome.kind


def _serial_order(
    before: State, after: State, done: list[tuple[str, dict[str, Any]]]
) -> list[str] | None:
    """Return the verbs in an order that leads from one state to the other, or None."""
    for order in itertools.permutations(done):
        try:
            manifest, versions, history = _replay(before, order)
        except LookupError:
            continue
        if (manifest, versions, history) == (after.manifest, set(after.versions), after.history):
            return [verb for verb, _ in order]
    return None


def _replay(
    before: State, order: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[str, set[int], tuple[int, ...]]:
    """Compute manifest, versions and history after the commands.

    Raises LookupError if a command could not have run at its place in the order.
    """
    manifest, versions, history = before.manifest, set(before.versions), before.history
    for verb, result in order:
        for commit in result["commits"]:
            if commit["replaced"] != manifest or not commit["current"]:
                raise LookupError(verb)
            manifest = commit["new"]
        number = result["number"]
        if verb in ("export", "update"):
            if number != max(versions) + 1:
                raise LookupError(verb)
            versions.add(number)
        if verb == "rollback":
            history = history[:-1]
            if history[-1:] != (number,):
                raise LookupError(verb)
        if verb == "publish" and number != max(versions):
            raise LookupError(verb)
        if result["refused"]:
            if not {"publish", "rollback"} & {other for other, _ in order}:
                raise LookupError(verb)
        elif verb in ("publish", "update") and history[-1:] != (number,):
            history = (*history, number)
    return manifest, versions, history
