"""Export, publish and roll back on the command line, with and without a running server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from twotower.pipelines.cli import main
from twotower.pipelines.errors import RunError
from twotower.pipelines.lock import writing
from twotower.pipelines.run import Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.publish import publish, rollback, versions
from twotower.pipelines.steps.query import ask, example_users, query
from twotower.pipelines.steps.serve import SERVE_LOCK, running_server, serving
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.installation import Triton

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    """A copy of the small run with version 1 published."""
    return Run(shutil.copytree(small_run.path, tmp_path / "run"))


@pytest.fixture
def twotower(run, monkeypatch):
    """A function that runs a command on the run in this process and returns its output."""
    monkeypatch.chdir(run.path.parent)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, [*arguments, "--run", str(run.path)])
        assert done.exit_code == status, done.output
        return done.output

    return call


@pytest.fixture
def serve(run):
    """`twotower serve` of the run, once it answers."""
    script = "from twotower.pipelines.cli import main; main(['serve', '--run', 'run'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=run.path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (run.path / "server.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.1)
    yield process
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def rows(output: str) -> dict[int, list[str]]:
    """The rows of the table of versions by number."""
    lines = (line.split() for line in output.splitlines())
    return {int(words[0]): words[1:] for words in lines if words and words[0].isdigit()}


@pytest.mark.slow
def test_without_a_server_the_next_one_serves_what_was_published(run, twotower):
    assert "version 2: compiled runtime" in twotower("export")
    assert list(rows(twotower("versions"))) == [1, 2]
    with serving(run) as addresses:  # exported, not published
        assert ask(addresses, example_users(run), 5, ["grpc"])["grpc"].version == 1
    assert "version 2: the next `twotower serve` will serve it" in twotower("publish")
    first, second = rows(twotower("versions")).values()
    assert ("yes" in first, "yes" in second) == (False, True)
    assert run.identity("train")[:12] in first
    with serving(run) as addresses:
        assert ask(addresses, example_users(run), 5, ["http"])["http"].version == 2
    assert "version 1: the next" in twotower("rollback")
    told = twotower("rollback", status=1)
    assert "error: " in told and "nothing to roll back to" in told and "Traceback" not in told
    assert "no version 9; there are 1, 2" in twotower("publish", "--version", "9", status=1)


def test_a_running_server_loads_what_is_published(run, twotower, serve):
    server = running_server(run)
    assert server.pid == serve.pid
    assert (run.path / "server.json").stat().st_mode & 0o777 == 0o600
    user = str(example_users(run, 1)[0])
    assert "version 1 answered" in twotower("query", "--user", user)
    export(run)
    assert "version 2: the running server loaded it in" in twotower("publish")
    assert "version 2 answered" in twotower("query", "--user", user, "--protocol", "grpc")
    table = twotower("versions")
    assert rows(table)[2][-2:] == ["yes", "yes"]
    assert f"served by process {serve.pid}: http {server.http}" in table
    assert rollback(run) == 1
    assert "version 1 answered" in twotower("query", "--user", user)
    assert publish(run, 2) == 2
    # `publish` would not find a second server.
    assert f"process {serve.pid} already serves this run" in twotower("serve", status=1)


def test_the_old_version_keeps_answering_if_a_new_one_does_not_load(run, serve):
    from twotower.serving.runtime.manifest import write_manifest

    folder = run.path / "triton" / "retrieval" / "2"
    shutil.copytree(folder.with_name("1"), folder)
    (folder / "model.py").write_text("raise ValueError('spoilt')\n")
    write_manifest(folder, created="", towers_sha256="", runtime="")
    with pytest.raises(
        ServingError, match=r"2: not loaded: .*spoilt; the version published before"
    ):
        publish(run)
    with RetrievalClient(running_server(run).http) as client:
        assert client.version() == 1


def test_a_server_that_cannot_load_says_what_to_do(run, monkeypatch, capsys):
    """A Triton before 2.40 has no key, so it cannot load another version after its start."""
    import json
    from dataclasses import asdict

    from twotower.pipelines.steps.serve import RunningServer

    monkeypatch.setattr(Triton, "restricts_http", False)
    with serving(run) as addresses:
        server = RunningServer(**asdict(addresses), key=None, pid=os.getpid())
        (run.path / "server.json").write_text(json.dumps(asdict(server)))
        assert running_server(run) is None, "nobody holds the lock of a server, whatever answers"
        with writing(run.path, "serve", SERVE_LOCK):
            export(run)
            publish(run)
            query(run, example_users(run, 1), 3)
    told = capsys.readouterr().out
    assert "version 2: the running server's Triton cannot load it; restart `twotower serve`" in told
    assert "version 1 answered; 2 is published: restart `twotower serve`" in told


def test_a_damaged_version_is_named_and_the_earlier_one_served(run, capsys):
    export(run)
    publish(run)
    index = run.path / "triton" / "retrieval" / "2" / "FaissTopK" / "index.faiss"
    index.write_bytes(index.read_bytes()[:-1])
    capsys.readouterr()
    with serving(run) as addresses:
        assert ask(addresses, example_users(run), 5, ["http"])["http"].version == 1
    told = capsys.readouterr().out
    assert f"damaged {index}: differs from the file in the manifest" in told
    assert "version 1 is published now" in told


def test_the_error_of_a_version_that_does_not_start_advises_a_rollback(run):
    from twotower.serving.runtime.manifest import write_manifest

    folder = run.path / "triton" / "retrieval" / "2"
    shutil.copytree(folder.with_name("1"), folder)
    (folder / "model.py").write_text("raise ValueError('spoilt')\n")
    write_manifest(folder, created="", towers_sha256="", runtime="")
    publish(run)
    message = "version 2 did not start: .*spoilt.*`twotower rollback` publishes the one before"
    with pytest.raises(ServingError, match=message), serving(run):
        pass
    rollback(run)
    with serving(run) as addresses:
        assert ask(addresses, example_users(run), 5, ["http"])["http"].version == 1


def test_a_version_is_added_when_the_export_is_committed(run, monkeypatch):
    """An export that fails at its end leaves no version."""

    def fails(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("twotower.pipelines.run.commit.write_atomically", fails)
    with pytest.raises(KeyboardInterrupt):
        export(run)
    assert [each.number for each in versions(run)] == [1]
    monkeypatch.undo()
    assert export(run)["version"] == 2
    assert [each.number for each in versions(run)] == [1, 2]


def test_a_version_replaces_only_the_one_that_it_was_compared_with(run):
    export(run)
    with pytest.raises(RunError, match=r"compared with version 7, but version 1 has been"):
        publish(run, 2, replaces=7)
    assert [each.number for each in versions(run) if each.published] == [1]
    assert publish(run, 2, replaces=1) == 2


def test_old_versions_are_removed_when_one_is_published(run):
    folder = run.path / "triton" / "retrieval"
    for number in (2, 3, 4, 5):
        shutil.copytree(folder / "1", folder / str(number))
    publish(run)
    assert [each.number for each in versions(run)] == [1, 3, 4, 5]  # 1 was published before


def test_a_version_that_a_baseline_beats_is_published_only_on_request(run, twotower, capsys):
    manifest = json.loads((run.path / "manifest.json").read_text())
    verdict = manifest["steps"]["evaluate"]["notes"]["verdict"]
    verdict["objection"] = "the model is worse than popularity"
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    export(run)
    refused = twotower("publish", status=1)
    assert "the model is worse than popularity. `twotower publish --anyway`" in refused
    assert [each.number for each in versions(run) if each.published] == [1]
    told = twotower("publish", "--anyway")
    assert "warning the model is worse than popularity; it is published anyway" in told
    assert [each.number for each in versions(run) if each.published] == [2]
    # The verdict is about the towers that were evaluated, not about other ones.
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["steps"]["evaluate"]["made_from"]["train"] = "other towers"
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert '"version": 1' in twotower("publish", "--version", "1", "--json")
