"""`twotower train` by two workers: result, kills, mistakes. Needs Horovod."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.models.distributed.launch import run as launched
from tests.models.distributed.launch import started
from tests.pipelines.conftest import small_config
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_training_data, preprocess
from twotower.pipelines.steps.train import FINISHED, TRAINING, check_training, validation

needs_horovod = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="needs Horovod: make test-horovod"
    ),
]
TRAIN = [sys.executable, "-m", "twotower.pipelines.cli", "train", "--run"]
SECONDS = 300


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Run:
    """A run that can be trained, in a folder of its own."""
    root = tmp_path_factory.mktemp("workers")
    run = Run.create(small_config("training.epochs=3"), root / "run")
    ingest(run)
    preprocess(run)
    return run


def test_a_model_that_workers_cannot_train_is_refused(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    config = small_config("model.objective.negatives=cross_batch")
    with pytest.raises(ConfigError, match="cross_batch cannot be trained by several workers"):
        check_training(config, pd.DataFrame({"user_id": range(1000)}))


class TestWithHorovod:
    pytestmark = needs_horovod

    def test_the_first_worker_saves_what_one_process_measures(self, preprocessed, tmp_path):
        from twotower.models.training.saving import load

        first, second = launched(2, [*TRAIN, str(preprocessed.path)], tmp_path, SECONDS)
        assert "3 epochs, best" in first
        assert second == ""
        run = Run(preprocessed.path)
        notes, data = run.notes("train"), load_training_data(run)
        tower = load(run.verified("train") / "model")
        metrics = validation(run, data)(tower.model)
        assert notes["valid_ndcg@10"] == pytest.approx(metrics["ndcg@10"], abs=1e-6)
        assert notes["valid_users"] == metrics["users"]
        history = json.loads((run.path / "model" / "history.json").read_text())
        assert history["loss"][-1] < history["loss"][0]

    @pytest.mark.parametrize("victim", [0, 1])
    def test_a_killed_worker_ends_the_other_with_a_message(self, preprocessed, tmp_path, victim):
        settings = [f"training.seed={50 + victim}", "training.patience=100000"]
        options = [part for each in settings for part in ("--set", each)]
        train = [*TRAIN, str(preprocessed.path), *options]
        endless = [*train, "--set", "training.epochs=100000"]
        other = 1 - victim
        with started(2, endless, tmp_path) as workers:
            _wait_for_checkpoint(preprocessed.path)
            workers[victim].send_signal(signal.SIGKILL)
            assert workers[other].wait(60) == 1
        printed = (tmp_path / f"worker-{other}.log").read_text()
        assert f"error: worker {other} of 2 has lost the others: another worker has ended" in (
            printed
        )
        assert "Traceback" not in printed
        assert "uncaught exception" not in printed
        first, _ = launched(2, [*train, "--set", "training.epochs=1"], tmp_path, SECONDS)
        assert "resumed from the saved state" in first

    def test_workers_with_other_settings_are_refused(self, preprocessed, tmp_path):
        command = " ".join([*TRAIN, str(preprocessed.path), "--set training.seed=$HOROVOD_RANK"])
        with started(2, ["sh", "-c", f"exec {command}"], tmp_path) as workers:
            assert workers[1].wait(SECONDS) == 1
            assert workers[0].wait(60) == 1
        printed = (tmp_path / "worker-1.log").read_text()
        assert "worker 1 has other data or settings than worker 0" in printed


def _wait_for_checkpoint(run: Path) -> None:
    """Wait for the state of a training that has not finished."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for folder in (run / TRAINING).glob("*"):
            if not (folder / FINISHED).exists() and list(folder.glob("state/checkpoint")):
                return
        time.sleep(0.2)
    raise AssertionError("no checkpoint")
