"""The run folder: steps are written whole, files are checked before they are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.pipelines.run.conftest import write_step, write_two
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import Run


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
    files = {"config.yaml", "data", "manifest.json", ".twotower.lock"}
    assert {p.name for p in run.path.iterdir()} == files


def test_a_changed_file_does_not_match_its_hash(run):
    write_step(run, "ingest", "data")
    (run.path / "data" / "file").write_text("y")
    with pytest.raises(RunError, match=r"data/file: does not match its hash in the manifest"):
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


def test_the_same_data_again_keep_later_steps_valid(run):
    write_step(run, "ingest", "data", "one")
    write_step(run, "preprocess", "processed")
    write_step(run, "ingest", "data", "one")
    assert run.verified("preprocess") == run.path


def test_a_step_out_of_order_says_what_to_run(run):
    with pytest.raises(RunError, match="`ingest` has not run yet; run `twotower ingest`"):
        write_step(run, "preprocess", "processed")


def test_several_steps_are_written_together_or_not_at_all(run):
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


def test_a_failed_step_does_not_change_the_configuration(two):
    before = (two.path / "config.yaml").read_bytes()
    other = load_config(CONFIGS / "synthetic.yaml", ("training.epochs=3",))
    run = Run.create(other, two.path)
    with pytest.raises(KeyError), run.step("ingest"):
        raise KeyError
    assert (two.path / "config.yaml").read_bytes() == before
    write_step(run, "ingest", "data")
    assert Run(two.path).config.training.epochs == 3


def test_a_folder_whose_first_step_failed_is_not_a_run(tmp_path):
    run = Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path / "new")
    with pytest.raises(KeyError), run.step("ingest"):
        raise KeyError
    assert [path.name for path in run.path.iterdir()] == [".twotower.lock"]
    with pytest.raises(RunError, match="not a run folder"):
        Run(run.path)
    write_step(Run.create(run.config, run.path), "ingest", "data")
    assert Run(run.path).verified("ingest")


def test_overrides_are_applied_to_the_current_configuration(two):
    two.override(("training.epochs=3",))
    other = Run(two.path)
    other.override(("training.patience=4",))
    write_step(other, "ingest", "data", "one")
    write_step(two, "ingest", "data", "two")
    kept = Run(two.path).config.training
    assert (kept.epochs, kept.patience) == (3, 4)
    assert two.config.training.patience == 4
    write_step(other, "ingest", "data", "three")
    other.override(("training.epochs=5",))
    write_step(other, "ingest", "data", "four")
    write_step(two, "ingest", "data", "five")
    assert Run(two.path).config.training.epochs == 5, "kept once, not for ever"


def test_stored_paths_work_from_any_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    parquet = "{interactions: a.parquet}"
    overrides = ("ingest.source=files", f"ingest.files={parquet}", "split.path=s.parquet")
    run = Run.create(load_config(CONFIGS / "synthetic.yaml", overrides), tmp_path / "run")
    write_step(run, "ingest", "data")
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run")
    assert run.config.ingest.path == tmp_path / "here"
    assert run.config.split.path == tmp_path / "here" / "s.parquet"
    assert run.config.ingest.files.interactions == Path("a.parquet"), "starts from the folder"
    run.override(("ingest.path=there", "training.epochs=3"))
    write_step(run, "ingest", "data")
    monkeypatch.chdir("/")
    run = Run(tmp_path / "run")
    assert run.config.ingest.path == tmp_path / "there"
    assert run.config.split.path == tmp_path / "here" / "s.parquet"


def test_a_wrong_override_is_not_stored(two):
    with pytest.raises(ConfigError):
        two.override(("training.epochs=many",))
    write_step(two, "ingest", "data")


def test_the_last_run_is_found_and_a_missing_one_explained(run, tmp_path, monkeypatch):
    write_step(run, "ingest", "data")
    run.remember()
    assert Run.last().path == run.path
    monkeypatch.chdir(tmp_path / "runs")
    with pytest.raises(RunError, match="no run yet; `make run` makes one"):
        Run.last()
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path)


def test_overrides_are_stored_once_a_step_has_succeeded_if_wanted(run):
    run.override(("training.epochs=3",))
    run.override(("serving.http_port=8000",), keep=False)
    assert (run.config.training.epochs, run.config.serving.http_port) == (3, 8000)
    with pytest.raises(ZeroDivisionError), run.step("ingest"):
        1 / 0  # noqa: B018
    assert not (run.path / "config.yaml").exists()
    write_step(run, "ingest", "data")
    kept = Run(run.path).config
    assert (kept.training.epochs, kept.serving.http_port) == (3, 0)


@pytest.mark.parametrize("where", ["file", "file/deeper"])
def test_a_file_where_the_run_folder_should_be_is_named(run, tmp_path, where):
    (tmp_path / "file").write_text("")
    message = rf"{where}: a file is in the way of this folder; name another"
    with pytest.raises(RunError, match=message):
        Run.create(run.config, tmp_path / where)
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path / where)


@pytest.mark.parametrize("sign", "[]*?")
def test_a_path_that_tensorflow_takes_for_a_pattern_is_refused_first(run, tmp_path, sign):
    write_step(run, "ingest", "data")
    moved = tmp_path / f"a{sign}b" / "run"
    shutil.copytree(run.path, moved)
    other = Run(moved)
    with pytest.raises(RunError, match=r"run: has one of \[ \] \* \? in its path"):
        write_step(other, "ingest", "data")
    assert other.verified("ingest") == moved
    (tmp_path / "link").symlink_to(moved)  # by this path TensorFlow finds its files
    write_step(Run(tmp_path / "link"), "ingest", "data")


def test_a_name_that_is_too_long_for_the_disk_is_not_a_run_folder(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path / ("a" * 300))


@pytest.mark.parametrize("pointer", ["runs", "runs/last"])
def test_a_read_only_working_directory_is_only_a_warning(
    run, tmp_path, monkeypatch, capsys, pointer
):
    write_step(run, "ingest", "data")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / pointer).parent.mkdir(parents=True)
    # Not by permissions, which root ignores: by a file instead of a folder, and the reverse.
    if pointer == "runs":
        (elsewhere / "runs").write_text("")
    else:
        (elsewhere / "runs" / "last").mkdir()
    monkeypatch.chdir(elsewhere)
    Run(tmp_path / run.path).remember()
    assert f"Until then name the run: --run {tmp_path / run.path}" in capsys.readouterr().err


def test_a_last_run_that_was_removed_is_named(run):
    run.remember()
    shutil.rmtree(run.path)
    with pytest.raises(
        RunError, match=r"runs/last: the run used last, runs/synthetic, no longer ex"
    ):
        Run.last()
