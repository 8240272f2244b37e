"""Fits of costs that are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import psutil
import pytest

from benchmarks.scale.fits import growth
from benchmarks.scale.watch import run

ROWS = [1_000_000, 4_000_000, 16_000_000]


@pytest.mark.parametrize(
    "seconds, power, words",
    [
        ([2.0, 8.0, 32.0], 1.0, "linear"),
        ([5.0, 5.0, 5.0], 0.0, "less than linear"),
        ([1.0, 16.0, 256.0], 2.0, "more than linear"),
    ],
)
def test_growth_of_a_power(seconds, power, words):
    found = growth(ROWS, seconds)
    assert (found.power, found.words) == (power, words)
    assert found.per_million == round((seconds[-1] - seconds[0]) / 15, 3)


def test_the_memory_of_children_counts(tmp_path):
    """A child of the command holds 200 MB; the command itself holds little."""
    child = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(1.5)"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    cost = run(tmp_path, [sys.executable, "-c", command], tmp_path / "log")
    assert 0.2 < cost.most() < 0.35 and cost.seconds > 1.5
    assert cost.most(start=cost.seconds + 1) == 0


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(click.ClickException, match=r"failed with exit code 3: see .*log"):
        run(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")
    assert (tmp_path / "log").is_file()


def test_nothing_runs_on_after_an_interruption(tmp_path):
    script = (
        "from pathlib import Path; from benchmarks.scale.watch import run; import sys\n"
        "run(Path('.'), [sys.executable, '-c', 'import time; time.sleep(77)'], Path(sys.argv[1]))"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], cwd=root, stderr=subprocess.DEVNULL
    )
    own = psutil.Process(process.pid)
    while not own.children():
        pass
    (child,) = own.children()
    process.send_signal(2)
    process.wait(10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
