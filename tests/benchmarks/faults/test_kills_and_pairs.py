"""Kills and pairs of commands on a small run: a few, and as many as the benchmark does."""

from __future__ import annotations

import pytest

from benchmarks.faults.command import can_create_namespaces
from benchmarks.faults.kills import kill_commands
from benchmarks.faults.pairs import run_pairs
from benchmarks.faults.prepare import PreparedRun, prepare_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not can_create_namespaces(), reason="needs the right to create a pid namespace"
    ),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedRun:
    """A published run. The tests of pairs come first, as they work on copies; kills change it."""
    return prepare_run(tmp_path_factory.mktemp("prepared"), seed=1, days=50)


@pytest.mark.parametrize("pairs", [2, 200])
def test_two_commands_at_once_end_in_the_state_of_a_serial_order(pairs, prepared):
    rows, checks = run_pairs(prepared, pairs=pairs, seed=1332)
    assert len(rows) == pairs
    assert [check for check in checks if not check.holds] == [], rows


@pytest.mark.parametrize("kills", [3, 100])
def test_a_kill_loses_nothing_that_was_reported_done(kills, prepared):
    rows, checks = kill_commands(prepared, kills=kills, seed=1)
    assert len(rows) >= kills
    assert [check for check in checks if not check.holds] == [], rows
