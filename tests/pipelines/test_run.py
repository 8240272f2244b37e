"""The run folder: whole steps or nothing, and nothing unvouched for is read."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest

from pipelines.config import CONFIGS, load_config
from pipelines.errors import ConfigError, RunError
from pipelines.run import Run, write_atomically


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run.create(load_config(CONFIGS / "synthetic.yaml"))


def write_step(run: Run, name: str, folder: str, text: str = "x") -> None:
    with run.step(name) as (out, notes):
        (out / folder / "file").write_text(text)
        notes["text"] = text


def test_a_step_leaves_its_files_and_an_entry(run):
    write_step(run, "ingest", "data", "hello")
    assert (run.path / "data" / "file").read_text() == "hello"
    entry = json.loads((run.path / "manifest.json").read_text())["steps"]["ingest"]
    assert entry["notes"] == {"text": "hello"}
    assert list(entry["files"]) == ["data/file"]
    assert run.verified("ingest") == run.path


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_step_changes_nothing(run, error):
    write_step(run, "ingest", "data", "old")
    before = (run.path / "manifest.json").read_text()
    with pytest.raises(error), run.step("ingest") as (out, _):
        (out / "data" / "file").write_text("half")
        raise error
    assert (run.path / "data" / "file").read_text() == "old"
    assert (run.path / "manifest.json").read_text() == before
    assert {p.name for p in run.path.iterdir()} == {"config.yaml", "data", "manifest.json"}


def test_a_changed_file_is_not_vouched_for(run):
    write_step(run, "ingest", "data")
    (run.path / "data" / "file").write_text("y")
    with pytest.raises(RunError, match=r"data/file: not the file the manifest vouches for"):
        run.verified("ingest")


def test_a_missing_file_says_which_step_makes_it(run):
    write_step(run, "ingest", "data")
    (run.path / "data" / "file").unlink()
    with pytest.raises(RunError, match=r"data/file: missing; run `twotower ingest` again"):
        run.verified("ingest")


def test_a_step_made_from_older_data_is_refused(run):
    write_step(run, "ingest", "data", "one")
    write_step(run, "preprocess", "processed")
    run.verified("preprocess")
    write_step(run, "ingest", "data", "two")
    with pytest.raises(RunError, match="`preprocess` was made from another `ingest`"):
        run.verified("preprocess")


def test_the_same_data_again_is_not_another_data(run):
    write_step(run, "ingest", "data", "one")
    write_step(run, "preprocess", "processed")
    write_step(run, "ingest", "data", "one")
    assert run.verified("preprocess") == run.path


def test_a_step_out_of_order_says_what_to_run(run):
    with pytest.raises(RunError, match="`ingest` has not run yet; run `twotower ingest`"):
        write_step(run, "preprocess", "processed")


def test_a_changed_setting_is_named_with_the_step_that_reads_it(run):
    write_step(run, "ingest", "data")
    write_step(run, "preprocess", "processed")
    run.override(("split.seed=7", "positives.at_least=4"))
    run.verified("ingest")
    with pytest.raises(RunError, match=r"with another positives\.at_least, split\.seed; run"):
        run.verified("preprocess")
    assert run.verified("preprocess", settings=False) == run.path


def test_a_setting_that_an_older_run_did_not_have_was_at_its_default(run):
    write_step(run, "ingest", "data")
    write_step(run, "preprocess", "processed")
    manifest = run.manifest
    features = manifest["steps"]["preprocess"]["made_with"]["features"]
    del features["user_numeric"], features["user_multi_hot"], features["min_frequency"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    run.verified("preprocess")
    run.override(("features.min_frequency=7",))
    with pytest.raises(RunError, match=r"with another features\.min_frequency; run"):
        run.verified("preprocess")


def test_where_a_server_listens_does_not_age_an_export(run):
    for name, folder in (("ingest", "data"), ("preprocess", "processed"), ("train", "model")):
        write_step(run, name, folder)
    write_step(run, "export", "index")
    run.override(("serving.http_port=8000", "serving.keep_versions=9"))
    assert run.verified("export") == run.path


def test_what_a_killed_step_left_is_swept_away(run):
    dead, alive = run.path / ".train-999999999", run.path / f".ingest-{os.getppid()}"
    dead.mkdir()
    alive.mkdir()
    write_step(run, "ingest", "data")
    assert not dead.exists() and alive.exists()


def write_two(run: Run, text: str) -> None:
    with run.steps("both", "ingest", "preprocess") as (out, notes):
        for folder in ("data", "workflow", "processed"):
            (out / folder / "file").write_text(text)
        notes["preprocess"]["text"] = text


def test_steps_that_belong_together_happen_together(run):
    write_two(run, "old")
    assert run.verified("ingest", "preprocess") == run.path
    assert (run.notes("ingest"), run.notes("preprocess")) == ({}, {"text": "old"})
    with pytest.raises(KeyError), run.steps("both", "ingest", "preprocess") as (out, _):
        (out / "data" / "file").write_text("new")
        raise KeyError
    assert run.verified("ingest", "preprocess") == run.path
    assert (run.path / "data" / "file").read_text() == "old"
    write_step(run, "ingest", "data", "another")
    with pytest.raises(RunError, match="`preprocess` was made from another `ingest`"):
        run.verified("preprocess")


@pytest.fixture
def killed(run, tmp_path):
    """A run whose last steps were killed when one of three folders was in its place."""
    write_two(run, "old")
    other = Run(shutil.copytree(run.path, tmp_path / "other"))
    write_two(other, "new")
    staging = run.path / ".both-999999999"
    staging.mkdir()
    shutil.rmtree(run.path / "data")
    shutil.move(other.path / "data", run.path)
    for name in ("workflow", "processed", "manifest.json"):
        shutil.move(other.path / name, staging)
    return run


def test_what_a_kill_left_half_in_place_is_finished(killed):
    with pytest.raises(RunError, match="not the file the manifest vouches for"):
        killed.verified("ingest")
    again = Run(killed.path)
    assert again.verified("ingest", "preprocess") == killed.path
    texts = {p: (killed.path / p / "file").read_text() for p in ("data", "workflow", "processed")}
    assert set(texts.values()) == {"new"}
    assert not list(killed.path.glob(".*-*"))


def test_what_is_older_than_the_manifest_is_not_finished(killed):
    os.utime(killed.path / "manifest.json", (2e9, 2e9))
    Run(killed.path)
    assert (killed.path / "workflow" / "file").read_text() == "old"
    assert not list(killed.path.glob(".*-*"))


def test_the_last_run_is_found_and_no_run_is_explained(run, tmp_path, monkeypatch):
    run.remember()
    assert Run.last().path == run.path
    monkeypatch.chdir(tmp_path / "runs")
    with pytest.raises(RunError, match="no run yet; `make run` makes one"):
        Run.last()
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path)


def test_overrides_are_kept_once_a_step_has_succeeded_unless_told_otherwise(run):
    run.override(("training.epochs=3",))
    run.override(("serving.http_port=8000",), keep=False)
    assert (run.config.training.epochs, run.config.serving.http_port) == (3, 8000)
    with pytest.raises(ZeroDivisionError), run.step("ingest"):
        1 / 0  # noqa: B018
    assert Run(run.path).config.training.epochs != 3
    write_step(run, "ingest", "data")
    kept = Run(run.path).config
    assert (kept.training.epochs, kept.serving.http_port) == (3, 0)


def test_what_the_disk_refuses_is_told_and_changes_nothing(run):
    write_step(run, "ingest", "data", "old")
    message = r"data/file: No space left on device; nothing has changed\. .*twotower ingest"
    with pytest.raises(RunError, match=message), run.step("ingest") as (out, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "data" / "file"))
    assert (run.path / "data" / "file").read_text() == "old"
    with pytest.raises(FileNotFoundError), run.step("ingest") as (out, _):
        (out / "nowhere" / "file").write_text("a bug, not the disk")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere/a\.txt: No such file.*; make room or make it wri"):
        write_atomically(tmp_path / "nowhere" / "a.txt", "one")


def test_a_secret_is_never_readable_by_others(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(os, "fsync", lambda file: modes.append(os.fstat(file).st_mode & 0o777))
    write_atomically(tmp_path / "a.txt", "secret", mode=0o600)
    assert modes == [0o600]
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"steps": {"ing', "Unterminated string"),
        ("", "Expecting value: line 1 column 1"),
        ("[]", "it has no `steps`"),
        ("{}", "it has no `steps`"),
        ('{"steps": 3}', "its `steps` are no section"),
    ],
)
def test_a_damaged_manifest_is_explained_and_its_advice_leads_on(run, text, problem):
    write_step(run, "ingest", "data")
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(RunError) as error:
        run.verified("ingest")
    told = str(error.value)
    assert told.startswith("runs/synthetic/manifest.json: damaged (") and problem in told
    with pytest.raises(RunError, match="damaged"), run.step("ingest"):
        raise AssertionError("the work began")
    assert "`twotower run --config runs/synthetic/config.yaml --run runs/synthetic`" in told
    # As told: the file is removed, and the configuration of the run makes it anew.
    (run.path / "manifest.json").unlink()
    again = Run.create(load_config(run.path / "config.yaml"), run.path)
    write_step(again, "ingest", "data")
    assert again.verified("ingest")


def test_what_another_version_recorded_is_explained(run):
    write_step(run, "ingest", "data")
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["steps"]["ingest"]["made_with"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        RunError, match=r"another version .* recorded `ingest`, without 'made_with'"
    ):
        run.verified("ingest")
    with pytest.raises(
        RunError, match=r"`ingest` noted no 'summary', .* run `twotower ingest` aga"
    ):
        run.notes("ingest")["summary"]
    write_step(run, "ingest", "data")  # as told
    assert run.verified("ingest")


def test_a_damaged_configuration_is_named_with_its_place(run):
    path = run.path / "config.yaml"
    path.write_text(path.read_text() + "model: [\n")
    with pytest.raises(
        ConfigError, match=r"runs/synthetic/config\.yaml, line \d+, column 1: not Y"
    ):
        Run(run.path)


def test_a_configuration_of_another_version_is_explained(run):
    write_step(run, "ingest", "data")
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("training:\n", "training:\n  flavour: 3\n"))
    with pytest.raises(ConfigError, match=r"(?s)training\.flavour: no such key.*another version"):
        Run(run.path)


@pytest.mark.parametrize("where", ["file", "file/deeper"])
def test_a_file_where_the_run_folder_should_be_is_named(run, tmp_path, where):
    (tmp_path / "file").write_text("")
    message = rf"{where}: a file is in the way of this folder; name another"
    with pytest.raises(RunError, match=message):
        Run.create(run.config, tmp_path / where)
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path / where)


def test_a_name_that_is_too_long_for_the_disk_is_no_run_folder(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path / ("a" * 300))


@pytest.mark.parametrize("pointer", ["runs", "runs/last"])
def test_a_working_directory_that_cannot_be_written_is_told_and_no_error(
    run, tmp_path, monkeypatch, capsys, pointer
):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / pointer).parent.mkdir(parents=True)
    # Nobody is refused a file where a folder should be, or the reverse, but neither is root.
    if pointer == "runs":
        (elsewhere / "runs").write_text("")
    else:
        (elsewhere / "runs" / "last").mkdir()
    monkeypatch.chdir(elsewhere)
    Run(tmp_path / run.path).remember()
    assert f"Until then name the run: --run {tmp_path / run.path}" in capsys.readouterr().err


def test_the_last_run_that_is_gone_is_named(run):
    run.remember()
    shutil.rmtree(run.path)
    with pytest.raises(
        RunError, match=r"runs/last: the run used last, runs/synthetic, is no longer"
    ):
        Run.last()
