"""`twotower events`: recording files and streams, and learning from what was recorded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from twotower.pipelines.answers.published import open_published
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.live.events import list_events, record_file, record_stream
from twotower.pipelines.live.learn import read_recorded
from twotower.pipelines.live.store import columns_of, event_rules, opened_store
from twotower.pipelines.run import Run
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.update import update
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import RequestError


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    """A run with a store of events."""
    copy = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    copy.override(("serving.events.store=sqlite",), keep=False)
    return copy


def lines(*events: dict) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def event(user: int, item: int, **more) -> dict:
    return {"user_id": user, "item_id": item, "rating": 5, "timestamp": 1_700_000_000, **more}


def test_a_file_is_recorded_whole_or_not_at_all(run, tmp_path, capsys):
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines(event(1, 2), event(3, 4)) + b"\n" + lines(event(1, 5)))
    assert record_file(run, file).recorded == 3
    found = list_events(run)
    assert (found.events, found.users, found.not_learned) == (3, 2, 3)
    assert found.latest == [event(1, 5), event(3, 4), event(1, 2)]
    for wrong, message in (
        (b"{", "events.jsonl, line 2: no JSON"),
        (b"[1]", "events.jsonl, line 2: no JSON object; expected {"),
        (lines(event(1, 2, colour="red")), "line 2: 'colour' is unknown"),
        (lines({"user_id": 1, "item_id": 2}), "line 2: rating is missing"),
        (lines(event("one", 2)), "line 2: user_id is 'one'; expected a whole number"),
        (b'{"user_id": 1, "item_id": 2, "rating": NaN}', "line 2: no JSON (NaN is no number)"),
        (b"\xff\xfe", "line 2: no JSON"),
        (b"[" * 100_000, "line 2: no JSON"),
    ):
        file.write_bytes(lines(event(9, 9)) + wrong)
        with pytest.raises(RequestError) as error:
            record_file(run, file)
        assert message in str(error.value)
    assert list_events(run).events == 3
    with pytest.raises(ConfigError, match="no such file"):
        record_file(run, tmp_path / "none.jsonl")


def test_a_stream_is_recorded_as_it_comes(run, capsys):
    end, source = os.pipe()
    recorded = []
    reader = threading.Thread(target=lambda: recorded.append(record_stream(run, end)))
    reader.start()
    os.write(source, lines(event(1, 2)) + b'{"user_id": 3, ')
    with opened_store(run) as store:
        while not store.read_new():
            pass
        os.write(source, b'"item_id": 4, "rating": 1}')  # the last line may have no end
        os.close(source)
        reader.join()
        assert len(store.read_new()) == 1
    os.close(end)
    assert recorded[0].recorded == 2
    assert "2 recorded" in capsys.readouterr().out


def test_a_wrong_line_of_a_stream_keeps_those_before(run):
    end, source = os.pipe()
    os.write(source, lines(event(1, 2), {"user_id": 5}, event(3, 4)))
    os.close(source)
    with pytest.raises(RequestError) as error:
        record_stream(run, end)
    os.close(end)
    assert "line 2: item_id is missing; the 1 events before it are recorded" in str(error.value)
    assert list_events(run).events == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stream_that_is_ended_keeps_what_it_acknowledged(number, run):
    command = [sys.executable, "-m", "twotower.pipelines.cli", "events", "-", "--run", run.path]
    command += ["--set", "serving.events.store=sqlite"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        process.stdin.write(lines(*(event(user, 7) for user in range(500))))
        process.stdin.flush()
        acknowledged = int(process.stdout.readline().split()[0])
        process.send_signal(number)
        assert process.wait() == (-number if number == signal.SIGKILL else 0)
    assert 0 < acknowledged <= list_events(run).events <= 500


def test_without_a_store_it_is_said_how_to_get_one(small_run):
    with pytest.raises(ConfigError, match=r"set serving\.events\.store to sqlite or redis"):
        list_events(Run(small_run.path))


def test_recorded_events_are_learned_from_once(run):
    """The version that has learned from events answers from its tables; what comes later is new."""
    known = pd.read_parquet(run.path / "data" / "interactions.parquet")
    version = open_published(run).version
    user, stranger = int(version.user_ids[0]), int(version.user_ids.max()) + 1
    items = [int(item) for item in version.answer([user], 4, filter_seen=True)[0][0]]
    rules = event_rules(run)
    with opened_store(run) as store:
        store.append([rules.check(event(user, items[0]), ""), rules.check(event(user, 10**6), "")])
        store.append([rules.check(event(stranger, item), "") for item in items])
    new = read_recorded(run)
    assert new.interactions.num_rows == 6 and new.interactions.column_names == list(known)
    assert update(run, None, anyway=True) == 2
    rows = pd.read_parquet(run.path / "data" / "interactions.parquet")
    assert len(rows) == len(known) + 6
    assert read_recorded(run).interactions.num_rows == 0
    assert list_events(run).not_learned == 0
    assert update(run, None) == 2  # nothing new: nothing is published
    learned = open_published(run).version
    assert stranger in learned.user_ids and 10**6 in learned.item_ids
    with serving(run, events=True) as addresses, RetrievalClient(addresses.http) as client:
        answer = client.recommend([user, stranger], 200).item_ids
        # Also those in the test part, which the tables do not count as seen.
        assert not np.isin(answer[0], [items[0], 10**6]).any()
        assert not np.isin(answer[1], items).any()


def test_columns_have_the_types_of_the_table():
    events = [{"user": 1, "at": 5}, {"user": 2**63 - 1, "stars": 2.0, "bought": 1}]
    types = {"user": pa.int64(), "at": pa.int64(), "stars": pa.float32(), "bought": pa.bool_()}
    found = columns_of(events, types)
    assert {name: column.to_pylist() for name, column in found.items()} == {
        "user": [1, 2**63 - 1],
        "at": [5, None],
        "stars": [None, 2.0],
        "bought": [None, True],
    }
    assert {name: column.type for name, column in found.items()} == types
