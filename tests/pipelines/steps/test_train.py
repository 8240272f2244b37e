"""The training step: resumed after a kill, continued with more epochs, repeated."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy.sparse import csr_matrix

from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.experiments.trial import prepare
from twotower.pipelines.job import refit_on_valid
from twotower.pipelines.run import Run, write_atomically
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.preprocess import load_split, load_training_data
from twotower.pipelines.steps.train import FINISHED, summary, train, validation

TWOTOWER = str(Path(sys.executable).with_name("twotower"))


def copy_of(run: Run, to: Path) -> Run:
    """A copy of the run folder."""
    return Run(Path(shutil.copytree(run.path, to)))


def outcome(run: Run) -> tuple[dict, dict]:
    """Test metrics and validation history; a resumed epoch sums its loss in other parts."""
    evaluate(run)
    history = json.loads((run.path / "model" / "history.json").read_text())
    metrics = json.loads((run.path / "reports" / "metrics.json").read_text())["metrics"]
    return metrics, {name: v for name, v in history.items() if name.startswith("val_")}


def test_a_killed_training_that_is_repeated_ends_as_an_undisturbed_one(small_run, tmp_path):
    run = copy_of(small_run, tmp_path / "run")
    shutil.rmtree(run.path / "training")
    command = [TWOTOWER, "train", "--run", str(run.path), "--set", "training.checkpoint_seconds=.2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not list((run.path / "training").glob("*/state/checkpoint")):
            assert process.poll() is None, "nothing was saved"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = Run(run.path)
    train(run)
    assert outcome(run) == outcome(copy_of(small_run, tmp_path / "undisturbed"))


@pytest.mark.slow
def test_a_finished_training_continues_with_resume_and_else_starts_again(small_run, tmp_path):
    run = copy_of(small_run, tmp_path / "run")
    history = json.loads((run.path / "model" / "history.json").read_text())
    run.override(("training.epochs=6", "training.patience=6"))
    train(run, resume=True)
    longer = json.loads((run.path / "model" / "history.json").read_text())
    assert longer["seconds"][:4] == history["seconds"], "the first epochs are not repeated"
    assert len(longer["seconds"]) == 6
    train(run)
    anew = json.loads((run.path / "model" / "history.json").read_text())
    assert anew["seconds"][:4] != history["seconds"]
    assert anew["val_ndcg@10"] == longer["val_ndcg@10"], "6 epochs at once equal 4 and then 2"
    assert len(list((run.path / "training").glob(f"*/{FINISHED}"))) == 1


def test_a_training_interrupted_before_the_commit_can_be_resumed(small_run, tmp_path, monkeypatch):
    """All epochs are done and the towers are saved; only the commit is missing."""
    run = copy_of(small_run, tmp_path / "run")
    (finished,) = (run.path / "training").glob(f"*/{FINISHED}")
    finished.unlink()  # the step creates it last
    write = write_atomically

    def interrupted(path, text):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr("twotower.pipelines.run.commit.write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert not finished.exists()
    monkeypatch.undo()
    before = (run.path / "model" / "history.json").read_bytes()
    train(Run(run.path))
    assert (run.path / "model" / "history.json").read_bytes() == before, "nothing is repeated"
    assert finished.exists()


def test_with_other_settings_there_is_nothing_to_resume(small_run, tmp_path):
    run = copy_of(small_run, tmp_path / "run")
    run.override(("model.temperature=0.3",))
    with pytest.raises(RunError, match=r"no training to resume.*train without --resume"):
        train(run, resume=True)
    assert list((run.path / "training").glob("*")), "the earlier state is kept"


@pytest.mark.slow
def test_a_refit_trains_on_valid_for_the_epochs_that_were_best_on_it(small_run, tmp_path):
    run = copy_of(small_run, tmp_path / "run")
    run.override(("training.epochs=2", "training.patience=2"))
    train(run)
    chosen, parts = run.notes("train"), load_split(run.path / "processed")
    refit_on_valid(run)
    run = Run(run.path)
    again, notes = load_split(run.path / "processed"), run.notes("train")
    assert len(again["train"]) == len(parts["train"]) + len(parts["valid"])
    assert len(again["valid"]) == 0
    assert again["test"][["user_id", "item_id"]].equals(parts["test"][["user_id", "item_id"]])
    assert len(load_training_data(run).user_rows) == len(again["train"])
    assert notes["epochs"] == notes["best_epoch"] == chosen["best_epoch"]
    assert notes["chosen"] == chosen
    assert notes["valid_users"] == 0
    evaluate(run)
    report = json.loads((run.path / "reports" / "metrics.json").read_text())
    assert report["protocol"]["chosen_on"].endswith("users, then trained on train and valid")
    with pytest.raises(ConfigError, match="train_on_valid is true, but settings are compared"):
        prepare(run.config, tmp_path)


def test_without_a_valid_part_the_last_epoch_is_kept(small_run, monkeypatch):
    nobody = SimpleNamespace(relevant=csr_matrix((3, 4), dtype=bool))
    monkeypatch.setattr("twotower.pipelines.steps.train.Evaluator", lambda run, part: nobody)
    measured = validation(small_run, data=None)(model=None)
    history = {f"val_{name}": [value] * 3 for name, value in measured.items()}
    history |= {"loss": [3.0, 2.0, 2.5], "seconds": [1.0] * 3, "validation_seconds": [0.0] * 3}
    notes = summary(history, "ndcg@10", rows=7)
    assert (notes["best_epoch"], notes["valid_users"]) == (3, 0)
    history["val_users"] = [5] * 3
    assert summary(history, "ndcg@10", rows=7)["best_epoch"] == 1, "the first of equal ones"
