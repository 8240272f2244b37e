"""Fit the two towers, choose the epoch on the full-catalogue validation metric."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.pipelines.console import ShowProgress, stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, writes
from twotower.pipelines.steps.evaluate import Judge
from twotower.pipelines.steps.preprocess import SCHEMA, load_split, load_training_data

if TYPE_CHECKING:
    import pandas as pd

    from twotower.models.training.fit import TrainingConfig, TrainingData, TwoTower
    from twotower.pipelines.config import Config

TRAINING, FINISHED = "training", "finished"


def _ignore(*told: Any, **more: Any) -> None:
    """No-op callback."""


def validation(run: Run, data: TrainingData) -> Callable[..., dict[str, float]]:
    """A function from a model to its full-catalogue metrics on the valid part.

    They are of all users of the part or of a sample, see `evaluation.valid_users`; `users` among
    them says of how many. Its second argument is the `progress` of
    `models.evaluation.metrics.evaluate`.
    """
    from twotower.models.evaluation.metrics import valid_users
    from twotower.models.two_tower import TowerScorer

    judge = Judge(run, "valid")
    n_users = np.count_nonzero(np.diff(judge.relevant.indptr))
    count = valid_users(
        run.config.evaluation.valid_users,
        users=n_users,
        items=judge.relevant.shape[1],
        rows=len(data.user_rows),
    )
    if count < n_users:
        judge.sample(count)
    users = {name: column[judge.users] for name, column in data.users.items()}

    def measure(model: Any, progress: Callable[[int, int], None] = _ignore) -> dict[str, float]:
        metrics = judge.judge(TowerScorer.of(model, users, data.items), progress)
        return {**metrics.values, "users": metrics.users}

    return measure


@writes
def train(run: Run, resume: bool = False) -> dict:
    """Fit, keep the best epoch, save both towers to model/.

    A training that was interrupted goes on by itself when data and settings are still the same.
    With `resume` one that had come to its end does so, too, with other epochs or patience.
    """
    run.verified("ingest", "preprocess")
    check_training(run.config, load_split(run.path / "processed")["train"])
    with stage("train") as (report, result), run.step("train") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        from twotower.models.training.fit import save

        monitor = run.config.training.monitor
        folder = state_folder(run, resume)
        again = "went on from the saved state; " if any(folder.iterdir()) else ""
        tower, data = fit_towers(run, folder, run.path / "logs" / "tensorboard", report)
        report(phase="save the towers")
        save(tower, out / "model")
        notes |= summary(tower.history, monitor, len(data.user_rows))
        best = f"best {notes['best_epoch']} with valid {monitor}"
        speed = f"{notes['rows_per_second']:,} rows/s" if notes["rows_per_second"] else "solved"
        result(
            f"{again}{notes['epochs']} epochs, {best} {notes[f'valid_{monitor}']:.4f} of "
            f"{notes['valid_users']:,} users; {speed}, "
            f"validation {notes['validation_share']:.0%} of the time"
        )
    # Only now: until the step is committed, a training that is interrupted must go on from here.
    (folder / FINISHED).touch()
    return notes


def check_training(config: Config, train: pd.DataFrame) -> None:
    """Refuse, before the slow imports, settings that the rows of the training part do not allow.

    Raises ConfigError naming the setting.
    """
    training, rows = config.training, len(train)
    if rows < training.batch_size:
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, but there are only {rows} training "
            "rows; set it to at most that"
        )
    if training.start and not train[config.features.user_id].duplicated().any():
        raise ConfigError(
            "training.start solves for items that have users in common, but no user has two items "
            "in the training part; leave it out"
        )


def fit_towers(
    run: Run,
    folder: Path,
    logs: Path | None = None,
    report: ShowProgress = _ignore,
    heard: Callable[[dict[str, float]], None] = _ignore,
) -> tuple[TwoTower, TrainingData]:
    """A model of the run's settings, fitted on its training part; and that part.

    Parameters
    ----------
    folder
        For the state from which an interrupted training goes on.
    logs
        For TensorBoard.
    heard
        Called after each epoch with its metrics on the valid part.
    """
    report(0, 1, "build the model")
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.models.training.fit import create, fit

    data = load_training_data(run)
    config = run.config.training
    schema = TensorflowMetadata.from_proto_text_file(
        str(run.path / "processed"), SCHEMA
    ).to_merlin_schema()
    tower = create(schema, data, run.config.model, config.seed)
    measure = validation(run, data)

    def validate(model):
        report(phase="validation")
        metrics = measure(model, validated)
        heard(metrics)
        report(phase="training")
        return metrics

    def validated(done, total):
        report(phase="validation", detail=f"{done:,} of {total:,} users")

    def progress(done, total, text):
        report(done, total, "training", text)

    report(phase="training")
    begin = starting(tower, data, config, report)
    fit(tower, data, config, validate, folder, logs, progress, begin)
    return tower, data


def starting(
    tower: TwoTower,
    data: TrainingData,
    config: TrainingConfig,
    report: ShowProgress,
    turned: bool = False,
) -> Callable[[], None] | None:
    """What `fit` begins with by `config.start`, told to `report`; see `closed_form.start`."""
    if config.start is None:
        return None
    from twotower.models.training.closed_form import start

    def begin() -> None:
        report(phase="closed form")
        start(tower, data, config.start, turned)
        report(phase="training")

    return begin


def summary(history: Mapping[str, list[float | None]], monitor: str, rows: int) -> dict[str, Any]:
    """What the manifest notes of a training over `rows` interactions."""
    scores = history[f"val_{monitor}"]
    best = max(range(len(scores)), key=scores.__getitem__)
    fitting, validating = sum(history["seconds"]), sum(history["validation_seconds"])
    fitted = sum(loss is not None for loss in history["loss"])
    return {
        "epochs": len(scores),
        "best_epoch": best + 1,
        f"valid_{monitor}": scores[best],
        "valid_users": int(history["val_users"][best]),
        "rows_per_second": round(rows * fitted / fitting),
        "validation_share": round(validating / (fitting + validating), 3),
    }


def state_folder(run: Run, resume: bool) -> Path:
    """Where the state of this training is kept: training/<what it depends on>.

    The folder of an interrupted training is taken up; one of a finished training only to
    `resume`, else it is emptied. Those of other data or settings are removed.
    """
    read = {"model": ..., "training": ..., "evaluation": {"valid_users"}}
    settings = json.loads(run.config.json(include=read))
    for key in ("epochs", "patience", "checkpoint_seconds"):
        del settings["training"][key]
    depends = json.dumps([run.identity("preprocess"), settings], sort_keys=True)
    folder = run.path / TRAINING / hashlib.sha256(depends.encode()).hexdigest()[:12]
    finished = folder / FINISHED
    if resume and not folder.is_dir():
        raise RunError(
            f"{run.path}: there is no training to go on with: none has begun, or the data or the "
            "settings (but training.epochs, patience) have changed; train without --resume"
        )
    for other in (run.path / TRAINING).glob("*"):
        if other != folder or (finished.exists() and not resume):
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    finished.unlink(missing_ok=True)
    return folder
