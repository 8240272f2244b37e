"""A small version of the memory benchmark: real Triton, long histories, requests of every size."""

from __future__ import annotations

from benchmarks.memory import Size, measure


def test_memory_is_flat_and_follows_from_the_data():
    found = measure(Size(users=20_000, users_per_request=128, requests=60, warm_up=40))
    assert [check for check in found["checks"] if not check["holds"]] == []
    assert len(found["checks"]) == 3
    assert found["rows"]["memory"]["data"] == "made up"
