"""The commands as a person types them: in a process of their own, with mistakes and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serving.client import RetrievalClient

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


def started(verb: str, run) -> subprocess.Popen:
    """`twotower <verb>` on a run, going on; its output, errors included, is piped."""
    return subprocess.Popen(
        [*TWOTOWER, verb, "--run", str(run.path)],
        cwd=run.path.parents[1],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train"], "no run yet; `make run` makes one"),
        (["train", "--run", "nowhere"], "nowhere: not a run folder"),
        (["update", "--data", "."], "no run yet; `make run` makes one"),
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


@pytest.mark.parametrize("module", ["tf2onnx", "merlin.models", "faiss"])
def test_doctor_names_a_missing_package_and_how_to_get_it(tmp_path, module):
    """None in sys.modules is how Python itself marks what cannot be imported."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from pipelines.cli import main; main(['doctor'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [
        line for line in done.stdout.splitlines() if f"{module} " in line and "missing" in line
    ]
    assert "make env" in line


def test_doctor_says_of_optional_things_that_they_are_not_there():
    done = twotower("doctor", cwd=ROOT)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in rows if len(row) == 4}
    mark, found, _ = rows["GPU"]
    assert (mark, found) == ("-", "none; CPU") if mark != "ok" else found
    mark, found, _ = rows["faiss on GPU"]
    assert (mark == "-") == (found == "no")


@pytest.fixture
def server(small_run):
    """`twotower serve` of the small run, once it answers."""
    process = started("serve", small_run)
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
    (small_run.path / "server.json").unlink(missing_ok=True)
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
    assert "version 1 answered" in asked.stdout

    triton = psutil.Process(server.pid).children(recursive=True)
    assert any("tritonserver" in p.name() for p in triton)
    server.send_signal(number)
    assert server.wait(timeout=30) == 0
    assert "stopped" in server.stdout.read()
    _, alive = psutil.wait_procs(triton, timeout=10)
    assert not alive
    assert not (small_run.path / "server.json").exists()


def test_a_triton_that_dies_is_started_again_on_its_ports(server, small_run):
    before = json.loads((small_run.path / "server.json").read_text())
    died = psutil.Process(server.pid).children(recursive=True)
    next(p for p in died if "tritonserver" in p.name()).kill()
    deadline = time.monotonic() + 60
    while (after := json.loads((small_run.path / "server.json").read_text())) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {**after, "key": ""} == {**before, "key": ""}
    with RetrievalClient(after["http"]) as client:
        assert client.recommend([1]).item_ids.shape == (1, 10)
    _, alive = psutil.wait_procs(died, timeout=10)
    assert not alive
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0
    output = server.stdout.read()
    assert "started again Triton ended by SIGKILL" in output and "Traceback" not in output
    assert (small_run.path / "logs" / "serve.log.ended").exists()
    assert not (small_run.path / "server.json").exists()


@pytest.fixture
def titled_run(small_run, tmp_path):
    """A copy of the run without its files but the item table, with titles rich might read."""
    import pandas as pd

    from pipelines.run import Run

    shutil.copy(small_run.path / "config.yaml", tmp_path)
    shutil.copy(small_run.path / "manifest.json", tmp_path)
    (tmp_path / "data").mkdir()
    items = pd.read_parquet(small_run.path / "data" / "items.parquet")
    items.loc[:2, "title"] = ["[rec] (2007)", "[/b]", ":heart: \\"]
    items.to_parquet(tmp_path / "data" / "items.parquet")
    return Run(tmp_path), items["item_id"].to_numpy()[:3]


def test_data_is_printed_as_it_is(titled_run, capsys):
    import numpy as np

    from pipelines.serve import print_recommendations
    from serving.client import Recommendations

    run, item_ids = titled_run
    answer = Recommendations(item_ids[None], np.ones((1, 3), np.float32), version=1)
    print_recommendations(run, [1], {"http": answer})
    printed = capsys.readouterr().out
    for title in ("[rec] (2007)", "[/b]", ":heart: \\"):
        assert f" {title} " in printed


def test_a_column_to_show_that_is_not_there_is_named(titled_run):
    from pipelines.config import to_yaml

    run, _ = titled_run
    run.override(("show=[title, director]",))
    (run.path / "config.yaml").write_text(to_yaml(run.config))
    asked = twotower("query", "--run", str(run.path), "--user", "1", cwd=run.path)
    assert asked.returncode == 1
    assert "error: show: the item table has no column director; it has item_id, " in asked.stderr
    run.override(("show=[item_id]",))
    from pipelines.serve import shown_items

    assert list(shown_items(run)) == ["item_id"]


def test_ctrl_c_in_a_step_leaves_the_run_as_it_was(small_run):
    before = (small_run.path / "manifest.json").read_text()
    process = started("train", small_run)
    deadline = time.monotonic() + 60
    while not (small_run.path / ".twotower-staging").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output
    assert (small_run.path / "manifest.json").read_text() == before
    assert not (small_run.path / ".twotower-staging").exists()
