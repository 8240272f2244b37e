"""A conversion continues after a kill, starts afresh with other files, and is small in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workflows.sources.ali_ccp.texts import convert
from twotower.workflows.sources.ali_ccp.generate import generate

CHILD = """
import sys
from pathlib import Path
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.source import AliCCPRaw
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.sources.ali_ccp.fields import COMMON, ITEM
wanted = Wanted(
    users=tuple(field.name for field in COMMON[1:]), items=tuple(field.name for field in ITEM[1:])
)
source = AliCCPRaw(Path(sys.argv[1]), AliCCPConfig(block_mb=int(sys.argv[3])), wanted)
source.work = Path(sys.argv[2])
tables = source.read(lambda done, total: print(done, total, flush=True))
# The maximum of getrusage would include the memory of the process that started this one.
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def start(folder: Path, work: Path, block_mb: int) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(folder), str(work), str(block_mb)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def files(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(work.rglob("*.parquet"))}


@pytest.mark.slow
def test_a_killed_conversion_continues_and_gives_the_same_files(tmp_path):
    generate(tmp_path / "made", 60_000, 20_000, 60, 1)
    convert(tmp_path / "made", tmp_path / "whole", block_mb=1)
    child = start(tmp_path / "made", tmp_path / "killed", 1)
    assert child.stdout is not None
    for _ in range(6):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    (parts,) = (tmp_path / "killed").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    whole = files(tmp_path / "whole")
    assert 2 <= len(kept) < len(whole)
    convert(tmp_path / "made", tmp_path / "killed", block_mb=1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert files(tmp_path / "killed") == whole


def test_what_has_been_converted_is_found_again_unless_a_file_changes(hand_made, tmp_path):
    convert(hand_made, tmp_path / "work")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.parquet")}
    assert len(before) == 7
    time.sleep(0.01)
    convert(hand_made, tmp_path / "work", on_error="skip")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    place = hand_made / "sample_skeleton_test.csv"
    place.write_bytes(place.read_bytes().replace(b"2,1,0", b"2,0,0"))
    tables, _ = convert(hand_made, tmp_path / "work")
    assert all(path.stat().st_mtime_ns > before[path] for path in before)
    last = list(tables.interactions.batches(["click"]))[-1]
    assert last["click"].to_pylist() == [0, 0]


def test_one_and_several_workers_give_the_same_files(generated, tmp_path):
    for workers in (1, 3):
        convert(generated, tmp_path / str(workers), block_mb=1, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "3")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(tmp_path):
    peaks = []
    for rows in (200_000, 800_000):
        folder = tmp_path / str(rows)
        generate(folder, rows, 1_000, 629, 1)
        child = start(folder, tmp_path / f"work-{rows}", 8)
        output, _ = child.communicate()
        assert child.returncode == 0
        peaks.append(int(output.split()[-1]))
    size = sum(path.stat().st_size for path in folder.iterdir()) >> 20
    assert size > 250
    # Users and items are four times as many, and in memory.
    assert peaks[1] < 800 and peaks[1] < peaks[0] + 250
