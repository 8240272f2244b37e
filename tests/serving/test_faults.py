"""The fault table, asked of the served model: see `benchmarks.faults`."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from benchmarks.fault_wires import DEADLY
from benchmarks.faults import ROWS, growth
from benchmarks.hostile import NO_ANSWER, Target
from twotower.serving.triton.server import TritonServer

PAYLOAD = 8_000_000


@pytest.fixture(scope="module")
def target(world, servers):
    user = int(world.users["user_id"][0])
    expected, _ = world.brute_force([user], 10)
    limits = {"max_k": 400, "max_batch": 256, "payload": PAYLOAD}
    return Target.of(servers("compiled"), user, expected, **limits)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_fault_is_answered_as_documented_and_leaves_no_trace(row, target):
    assert row.suits(target)
    assert row.wrong(target) == []


def test_every_row_has_a_name_of_its_own():
    assert len({str(row) for row in ROWS}) == len(ROWS) >= 30


def test_the_table_sees_what_is_wrong(target):
    """A row that says otherwise than the server, and a server that answers another's items."""
    (row,) = (row for row in ROWS if str(row) == "http: k = 0")
    assert "answered 400, not 404" in replace(row, status=404).wrong(target)[0]
    assert "does not name 'zip'" in replace(row, names="'zip'").wrong(target)[0]
    (known,) = (row for row in ROWS if str(row) == "http: HTTP/1.0")
    assert "another answer" in replace(known, like=row.ask).wrong(target)[0]
    others = replace(target, expected=target.expected[:, ::-1])
    assert [problem.partition(":")[0] for problem in row.wrong(others)] == ["http", "grpc"]


def test_memory_is_flat(target):
    percent, resident = growth(target, passes=3)
    assert percent <= 5, resident


@pytest.mark.parametrize("kind", DEADLY)
def test_what_ends_triton_is_told_and_the_next_start_answers(kind, target, copy, tmp_path):
    with TritonServer(copy, log=tmp_path / "log") as server:
        mortal = replace(target, server=server)
        assert DEADLY[kind](mortal).status == NO_ANSWER
        deadline = time.monotonic() + 15
        while server.ended() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.ended().startswith("Triton ended by SIG")
        server.stop()
        server.start()
        assert mortal.faults() == []
