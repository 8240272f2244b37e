"""The commands as a person types them: in a process of their own, with mistakes and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TWOTOWER = [sys.executable, "-m", "pipelines.cli"]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def twotower(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TWOTOWER, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train"], "no run yet; `make run` makes one"),
        (["train", "--run", "nowhere"], "nowhere: not a run folder"),
        (["run", "--config", "nothing.yaml"], "nothing.yaml: no such configuration"),
        (["run", "--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["run", "--data", "."], "neither MovieLens-1M"),
        (
            ["ingest", "--config", str(ROOT / "configs/synthetic.yaml"), "--set", "training.x=1"],
            "training.x: no such key",
        ),
    ],
)
def test_mistakes_are_one_message_without_a_traceback(tmp_path, arguments, message):
    done = twotower(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_unknown_verb_is_refused(tmp_path):
    done = twotower("retrain", cwd=tmp_path)
    assert done.returncode == 2 and "No such command 'retrain'" in done.stderr


def test_doctor_prints_versions_and_finds_everything(tmp_path):
    done = twotower("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "merlin-models" in done.stdout and "missing" not in done.stdout


@pytest.fixture
def server(small_run):
    """`twotower serve` of the small run, once it answers."""
    process = subprocess.Popen(
        [*TWOTOWER, "serve", "--run", str(small_run.path)],
        cwd=small_run.path.parents[1],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (small_run.path / "server.json").is_file():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_queries_and_stops_cleanly(server, small_run, number):
    from pipelines.serve import example_users

    user = example_users(small_run, 1)[0]
    asked = twotower(
        *(
            "query",
            "--run",
            str(small_run.path),
            "--user",
            str(user),
            "--user",
            "999999",
            "-k",
            "3",
        ),
        cwd=small_run.path.parents[1],
    )
    assert asked.returncode == 0, asked.stderr
    assert f"user {user} (synthetic data)" in asked.stdout
    assert "user 999999" in asked.stdout
    assert "starting one" not in asked.stdout, "the running server must be used"

    triton = psutil.Process(server.pid).children(recursive=True)
    assert any("tritonserver" in p.name() for p in triton)
    server.send_signal(number)
    assert server.wait(timeout=30) == 0
    assert "stopped" in server.stdout.read()
    _, alive = psutil.wait_procs(triton, timeout=10)
    assert not alive
    assert not (small_run.path / "server.json").exists()


def test_ctrl_c_in_a_step_leaves_the_run_as_it_was(small_run):
    before = (small_run.path / "manifest.json").read_text()
    process = subprocess.Popen(
        [*TWOTOWER, "train", "--run", str(small_run.path)],
        cwd=small_run.path.parents[1],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(small_run.path.glob(".train-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output
    assert (small_run.path / "manifest.json").read_text() == before
    assert not list(small_run.path.glob(".train-*"))
