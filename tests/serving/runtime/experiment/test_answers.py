"""What is kept of the answers during an experiment."""

from __future__ import annotations

import numpy as np

from twotower.serving.runtime.experiment import answers as module
from twotower.serving.runtime.experiment.answers import AnswerLog
from twotower.serving.runtime.live.opening import open_store
from twotower.serving.runtime.live.store import ANSWERS, StoreError

SQLITE = {"store": "sqlite"}
ITEMS = np.array([[b"a", b"b"], [b"c", b""]], object)
SCORES = np.array([[2.0, 1.0], [2.0, -np.inf]], np.float32)


def test_answers_are_kept_with_their_version(tmp_path):
    path = tmp_path / "events.sqlite"
    kept = AnswerLog(open_store(SQLITE, path, ANSWERS), lambda *_, **__: None)
    kept.add(np.array([b"x", b"y"], object), ITEMS, SCORES, np.array([3, 4]))
    kept.close()
    found = [each.event for each in open_store(SQLITE, path, ANSWERS).read_new()]
    times = [each.pop("time") for each in found]
    assert found == [
        {"user": "x", "version": 3, "items": ["a", "b"]},
        {"user": "y", "version": 4, "items": ["c"]},
    ]
    assert times[0] == times[1] > 1_700_000_000
    assert open_store(SQLITE, path).read_new() == []  # they are no events


def test_what_a_store_does_not_take_is_dropped_and_said(tmp_path, monkeypatch):
    lines = []
    store = open_store(SQLITE, tmp_path / "events.sqlite", ANSWERS)
    kept = AnswerLog(store, lambda event, *_, **fields: lines.append((event, fields["count"])))

    def fail(*_):
        raise StoreError("full")

    monkeypatch.setattr(store, "append", fail)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    for _ in range(2):  # the second two are one too many
        kept.add(np.array([1, 2]), ITEMS, SCORES, np.array([3, 4]))
    kept.close()
    assert kept.dropped == 4 and lines == [("answers not kept", 2)]
