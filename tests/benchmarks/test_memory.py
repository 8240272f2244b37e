"""A small version of the memory benchmark: real Triton, long histories, requests of every size."""

from __future__ import annotations

from benchmarks.memory import Size, measure


def test_memory_is_flat_and_follows_from_the_data():
    rows, checks = measure(Size(users=20_000, users_per_request=128, requests=60, warm_up=40))
    assert [check for check in checks if not check.holds] == []
    assert len(checks) == 3
    assert rows["memory"]["data"] == "made up"
