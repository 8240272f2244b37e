"""A few pairs of concurrent commands on a small run; the slow test runs 200."""

from __future__ import annotations

import pytest

from benchmarks.faults.command import can_create_namespaces
from benchmarks.faults.pairs import run_pairs

pytestmark = [
    pytest.mark.skipif(
        not can_create_namespaces(), reason="needs the right to create a pid namespace"
    ),
    pytest.mark.timeout(3600),
]


@pytest.mark.parametrize("pairs", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_two_commands_at_once_end_in_the_state_of_a_serial_order(pairs, prepared):
    rows, checks = run_pairs(prepared, pairs=pairs, seed=1332)
    assert len(rows) == pairs
    assert [check for check in checks if not check.holds] == [], rows
