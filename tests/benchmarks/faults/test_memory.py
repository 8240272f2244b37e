"""A small version of the memory benchmark: real Triton, long histories, requests of every size."""

from __future__ import annotations

import pytest

from benchmarks.faults.memory import Size, measure


@pytest.mark.slow
def test_memory_does_not_grow_and_is_proportional_to_the_files():
    rows, checks = measure(Size(users=20_000, users_per_request=128, requests=60, warm_up=40))
    assert [check for check in checks if not check.holds] == []
    assert len(checks) == 3
    assert rows["memory"]["data"] == "synthetic"
