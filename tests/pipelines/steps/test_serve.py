"""Serving: the pauses before a server that ended is restarted."""

from __future__ import annotations

from twotower.pipelines.steps.serve import next_pause


def test_pauses_get_longer_while_a_server_ends_soon_after_each_start():
    pauses = [0.0]
    for _ in range(6):
        pauses.append(next_pause(pauses[-1], lived=2.0))
    assert pauses == [0, 1, 3, 7, 15, 30, 30]
    assert next_pause(30.0, lived=11.0) == 0
