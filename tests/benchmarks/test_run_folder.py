"""Kills and pairs of commands on a small run: a few, or, when asked for slow tests, all."""

from __future__ import annotations

import pytest

from benchmarks.namespaces import possible
from benchmarks.report import Check
from benchmarks.run_folder import kill_in, make_world, pair_in

pytestmark = [
    pytest.mark.skipif(not possible(), reason="needs the right to make a pid namespace"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A published run of its own. Pairs work on copies and come first; kills change it."""
    return make_world(tmp_path_factory.mktemp("world"), None, seed=1, days=50)


def falls_short(checks: list[Check]) -> list[Check]:
    return [check for check in checks if not check.holds]


@pytest.mark.parametrize("pairs", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_two_commands_at_once_come_out_as_one_after_the_other(pairs, world):
    rows, checks = pair_in(world, pairs, seed=1332)
    assert len(rows) == pairs and not falls_short(checks), rows


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_reported_done(kills, world):
    rows, checks = kill_in(world, kills, seed=1)
    assert len(rows) >= kills and not falls_short(checks), rows
