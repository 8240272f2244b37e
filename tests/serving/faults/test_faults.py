"""Every fault of the table, sent to a real server."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from benchmarks.serving.subjects import resident_memory
from tests.serving.faults.bad_connections import DEADLY
from tests.serving.faults.clients import NO_ANSWER, Target
from tests.serving.faults.table import FAULTS
from twotower.serving.triton.server import TritonServer

PASSES = 2
REPEATS_OF_DEEP_JSON = 50


@pytest.fixture(scope="module")
def target(world, servers):
    user = int(world.users["user_id"][0])
    expected, _ = world.brute_force([user], 10)
    return Target(
        server=servers("compiled"),
        user=user,
        expected=expected,
        max_k=400,
        max_batch=256,
        payload=8_000_000,
        user_id="user_id",
        text="city",
        number="income",
    )


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_answered_as_documented_and_leaves_no_trace(fault, target):
    assert fault.problems(target) == []


def test_every_fault_has_a_name_of_its_own():
    assert len({str(fault) for fault in FAULTS}) == len(FAULTS) >= 550


def test_a_wrong_answer_is_detected(target):
    """Faults with wrong documentation, and a server that answers with other items."""
    (fault,) = (fault for fault in FAULTS if str(fault) == "http: k = 0")
    assert "status 400, not 404" in replace(fault, status=404).problems(target)[0]
    assert "does not say 'zip'" in replace(fault, message="'zip'").problems(target)[0]
    (known,) = (fault for fault in FAULTS if str(fault) == "http: HTTP/1.0")
    assert "another answer" in replace(known, same_as=fault.send).problems(target)[0]
    others = replace(target, expected=target.expected[:, ::-1])
    assert [text.partition(":")[0] for text in fault.problems(others)] == ["http", "grpc"]


@pytest.mark.slow
def test_memory_does_not_grow(target):
    """The maximum over some passes of the table, beside the maximum over as many more.

    Single values vary with what glibc has not yet given back.
    """
    faults = [fault for fault in FAULTS if not fault.reloads]
    for fault in faults:
        if fault.kind.startswith("deep JSON"):
            # A thread of Triton keeps the stack that it has used once: let each thread use it.
            for _ in range(REPEATS_OF_DEEP_JSON):
                fault.send(target)
    resident = []
    for _ in range(2 * PASSES):
        for fault in faults:
            fault.send(target)
        time.sleep(1.0)  # abandoned requests need time to end
        resident.append(resident_memory(target.server)["whole_mb"])
    assert max(resident[PASSES:]) <= 1.05 * max(resident[:PASSES]), resident


@pytest.mark.parametrize("kind", DEADLY)
def test_what_ends_triton_is_reported_and_the_next_start_answers(kind, target, copy, tmp_path):
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
        assert mortal.problems() == []
