"""The state of a server's events: what fails is answered from what is known."""

from __future__ import annotations

import pytest

from twotower.serving.runtime.live import state as module
from twotower.serving.runtime.live.opening import open_store
from twotower.serving.runtime.live.state import EVENTS, STORE_UP, LiveState, learned_position
from twotower.serving.runtime.live.store import StoreError


class Users:
    """Remembers the events that it is given."""

    def __init__(self) -> None:
        self.events: list = []

    def apply(self, events) -> None:
        self.events += [each.event for each in events]


def test_a_state_follows_its_store_and_outlives_it(open_one, monkeypatch, request):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    store, other, lines, users = open_one(), open_one(), [], Users()
    live = LiveState(store, [users], lambda event, *_, **fields: lines.append(event))
    live.record([{"n": 1}])
    other.append([{"n": 2}])
    live.refresh()
    assert users.events == [{"n": 1}, {"n": 2}]
    assert live.counts() == {
        (EVENTS, "source", "recorded"): 1,
        (EVENTS, "source", "read"): 2,
        (STORE_UP, "", ""): 1,
    }

    def fail(*_):
        raise StoreError("away")

    with monkeypatch.context() as broken:
        broken.setattr(store, "read_new", fail)
        broken.setattr(store, "append", fail)
        live.refresh()
        live.refresh()
        with pytest.raises(StoreError, match="away"):
            live.record([{"n": 3}])
    assert live.counts()[STORE_UP, "", ""] == 0 and lines == ["event store fails"]
    other.append([{"n": 4}])
    live.refresh()
    assert users.events[-1] == {"n": 4}
    assert live.counts()[STORE_UP, "", ""] == 1 and lines[-1] == "event store answers again"


def test_a_store_that_fails_is_left_alone_for_a_while(open_one, monkeypatch):
    store, tries = open_one(), []

    def fail():
        tries.append(1)
        raise StoreError("away")

    monkeypatch.setattr(store, "read_new", fail)
    live = LiveState(store, [Users()], lambda *_, **__: None)
    for _ in range(50):
        live.refresh()
    assert len(tries) == 1


def test_what_was_learned_belongs_to_a_store(open_one, tmp_path):
    store = open_one()
    assert learned_position(store, None) == ()
    assert learned_position(store, {"store": store.identity, "until": "5"}) == (5,)
    other = open_store({"store": "sqlite"}, tmp_path / "other.sqlite")
    assert learned_position(other, {"store": store.identity, "until": "5"}) == ()
    other.close()
