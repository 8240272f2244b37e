"""Which final states two concurrent commands may leave."""

from __future__ import annotations

from benchmarks.faults.pairs import _serial_order
from benchmarks.faults.state import State

VERSIONS = {1: "one", 2: "two", 3: "three"}


def _state(manifest: str, versions: int, history: tuple[int, ...]) -> State:
    numbers = {number: VERSIONS[number] for number in range(1, versions + 1)}
    return State(manifest=manifest, days=(), trained="", versions=numbers, history=history)


def _done(verb: str, number: int, new: str | None = None, refused: str | None = None):
    commits = [{"replaced": "old", "new": new, "current": True}] if new else []
    return verb, {"number": number, "whole": True, "commits": commits, "refused": refused}


BEFORE = _state("old", versions=2, history=(1, 2))


def test_an_update_after_a_rollback_publishes_its_version():
    done = [_done("update", 3, new="new"), _done("rollback", 1)]
    after = _state("new", versions=3, history=(1, 3))
    assert _serial_order(BEFORE, after, done) == ["rollback", "update"]


def test_an_update_keeps_its_version_when_a_rollback_forbids_to_publish_it():
    update = _done("update", 3, new="new", refused="version 1 has been published in the meantime")
    after = _state("new", versions=3, history=(1,))
    assert _serial_order(BEFORE, after, [update, _done("rollback", 1)]) == ["update", "rollback"]


def test_a_lost_rollback_is_no_serial_order():
    update = _done("update", 3, new="new", refused="version 1 has been published in the meantime")
    after = _state("new", versions=3, history=(1, 2))
    assert _serial_order(BEFORE, after, [update, _done("rollback", 1)]) is None


def test_only_a_command_that_publishes_may_keep_an_update_from_it():
    update = _done("update", 3, new="new", refused="version 1 has been published in the meantime")
    after = _state("new", versions=3, history=(1, 2))
    assert _serial_order(BEFORE, after, [update, _done("versions", 2)]) is None
