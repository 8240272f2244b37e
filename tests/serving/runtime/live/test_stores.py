"""Stores of events: a file of SQLite, and a real Redis."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.redis_server import RedisServer
from twotower.serving.runtime.live.opening import PASSWORD, open_store
from twotower.serving.runtime.live.store import StoreError, as_position, position_text

EVENTS = [{"user": n, "item": "ä\n\0", "rating": n / 2} for n in range(5)]
RECORD_FOREVER = """
import sys
from pathlib import Path
from twotower.serving.runtime.live.sqlite_store import SqliteStore

store, number = SqliteStore(Path(sys.argv[1])), int(sys.argv[2])
while True:
    store.append([{"number": number}, {"number": number + 1}])
    number += 2
    print(number, flush=True)
"""


def test_events_come_back_in_order_and_once(open_one):
    mine, other = open_one(), open_one()
    mine.append(EVENTS[:2])
    mine.append(EVENTS[2:])
    for store in (mine, other):
        found = store.read_new()
        assert [each.event for each in found] == EVENTS
        positions = [each.position for each in found]
        assert positions == sorted(set(positions))
        assert store.read_new() == []
    other.append(EVENTS[:1])
    assert [each.event for each in mine.read_new()] == EVENTS[:1]
    assert mine.identity == other.identity == open_one().identity


def test_positions_are_ordered_as_numbers(open_one):
    assert as_position("") == () < as_position("9") < as_position("10")
    assert as_position("9-10") > as_position("9-9")
    assert position_text(as_position("12-3")) == "12-3"
    store = open_one()
    store.append(EVENTS)
    (first, *_) = store.read_new()
    assert as_position(position_text(first.position)) == first.position


def test_many_processes_may_record_at_once(open_one):
    def record(number):
        store = open_one()
        for _ in range(20):
            store.append([{"from": number}, {"from": number}])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(record, range(4)))
    found = [each.event["from"] for each in open_one().read_new()]
    assert sorted(found) == sorted([0, 1, 2, 3] * 40)
    # Those of one call stand together.
    assert found[::2] == found[1::2]


def kill_while_recording(path, kills: int, draw: random.Random) -> int:
    """Kill a process at random moments of recording; return the number of acknowledged events."""
    acknowledged = 0
    for _ in range(kills):
        command = [sys.executable, "-c", RECORD_FOREVER, str(path), str(acknowledged)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline()
            time.sleep(draw.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split()
        from twotower.serving.runtime.live.sqlite_store import SqliteStore

        store = SqliteStore(path)
        numbers = [each.event["number"] for each in store.read_new()]
        store.close()
        # All that was acknowledged, perhaps the last pair that was not, and never half a pair.
        last = int(lines[-1]) if lines else acknowledged + 2
        assert numbers == list(range(len(numbers))) and len(numbers) % 2 == 0
        assert last <= len(numbers) <= last + 2
        acknowledged = len(numbers)
    return acknowledged


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path):
    assert kill_while_recording(tmp_path / "events.sqlite", 8, random.Random(1)) >= 16


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path):
    assert kill_while_recording(tmp_path / "events.sqlite", 100, random.Random(2)) >= 200


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "events.sqlite"
    path.write_text("not a store" * 1000)
    with pytest.raises(StoreError, match=r"events\.sqlite: the store of events cannot be used"):
        open_store({"store": "sqlite"}, path)
    with pytest.raises(StoreError, match="unable to open"):
        open_store({"store": "sqlite"}, tmp_path / "none" / "events.sqlite")


def test_a_file_that_cannot_be_written_keeps_what_it_has(tmp_path):
    path = tmp_path / "events.sqlite"
    store = open_store({"store": "sqlite"}, path)
    store.append(EVENTS)
    store.connection.execute(f"PRAGMA max_page_count = {os.stat(path).st_size // 4096}")
    with pytest.raises(StoreError, match="full"):
        store.append([{"text": "x" * 100_000}])
    assert [each.event for each in store.read_new()] == EVENTS
    store.close()


def test_a_redis_that_is_away_is_named_and_comes_back(has_redis, tmp_path, monkeypatch):
    monkeypatch.setenv(PASSWORD, "secret")
    with RedisServer(tmp_path, password="secret") as server:
        store = open_store({"store": "redis", "redis": server.address, "stream": "s"}, tmp_path)
        store.append(EVENTS[:2])
        assert len(store.read_new()) == 2
        server.stop()
        started = time.monotonic()
        for call in (store.read_new, lambda: store.append(EVENTS)):
            with pytest.raises(StoreError, match=rf"Redis at 127.0.0.1:{server.port} cannot be"):
                call()
        assert time.monotonic() < started + 1  # a request is waiting
        server.start()
        store.append(EVENTS[2:])
        assert [each.event for each in store.read_new()] == EVENTS[2:]
        store.close()
        monkeypatch.setenv(PASSWORD, "wrong")
        stranger = open_store({"store": "redis", "redis": server.address, "stream": "s"}, tmp_path)
        with pytest.raises(StoreError) as error:
            stranger.append(EVENTS)
        assert "password" in str(error.value) and "wrong" not in str(error.value)
        stranger.close()


def test_what_is_no_event_is_passed_over(open_one):
    """Another program may have written it; what comes after it must be read."""
    store = open_one()
    if hasattr(store, "connection"):
        for text in ("{", "[1]", ""):
            store.connection.execute("INSERT INTO events (event) VALUES (?)", [text])
    else:
        for fields in ({"event": "{"}, {"event": "[1]"}, {"other": "1"}):
            store.client.xadd(store.stream, fields)
    store.append(EVENTS)
    assert [each.event for each in store.read_new()] == EVENTS


def test_events_are_lines_of_json(tmp_path):
    store = open_store({"store": "sqlite"}, tmp_path / "events.sqlite")
    store.append(EVENTS[:1])
    rows = store.connection.execute("SELECT number, event FROM events").fetchall()
    assert [(number, json.loads(text)) for number, text in rows] == [(1, EVENTS[0])]
    store.close()
