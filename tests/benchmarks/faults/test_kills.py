"""A few kills of commands on a small run; the slow test kills 100 times."""

from __future__ import annotations

import pytest

from benchmarks.faults.command import can_create_namespaces
from benchmarks.faults.kills import kill_commands

pytestmark = [
    pytest.mark.skipif(
        not can_create_namespaces(), reason="needs the right to create a pid namespace"
    ),
    pytest.mark.timeout(3600),
]


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_reported_done(kills, prepared):
    rows, checks = kill_commands(prepared, kills=kills, seed=1)
    assert len(rows) >= kills
    assert [check for check in checks if not check.holds] == [], rows
