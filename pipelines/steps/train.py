"""The training step: fit the two towers and choose the epoch on the valid part."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.models.distributed.launcher import place, unsupported
from twotower.pipelines.console import ShowProgress, stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_split, load_training_data
from twotower.pipelines.steps.processed import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

    from twotower.models.distributed.workers import Workers
    from twotower.models.training.config import TrainingConfig
    from twotower.models.training.data import TrainingData
    from twotower.models.training.model import History, TwoTower
    from twotower.pipelines.config import Config

TRAINING, FINISHED = "training", "finished"


def _no_op(*args: Any, **kwargs: Any) -> None:
    """No-op callback."""


def train(run: Run, resume: bool = False, chosen: dict[str, Any] | None = None) -> dict:
    """Fit the towers and save those of the best epoch to model/.

    An interrupted training resumes if data, settings and the number of workers are unchanged. All
    workers that `horovodrun` has started call this; only the first one writes the run.

    Parameters
    ----------
    run : Run
        With the steps `ingest` and `preprocess` done.
    resume : bool
        Also continue a finished training, with more epochs or patience.
    chosen : dict, optional
        The notes of the training that chose the settings on valid, to be kept in those of this one.

    Returns
    -------
    dict
        The notes of the step, see `summary`; empty for another worker than the first.
    """
    if place().rank:
        return _join(run)
    with run.writing("train"):
        return _fit_and_save(run, resume, chosen)


def _join(run: Run) -> dict:
    """Train as a worker that writes nothing."""
    _check(run)
    load_libraries()
    # Only the first worker reads and writes the folder of the state.
    fit_towers(run, run.path / TRAINING / state_name(run))
    return {}


def _check(run: Run) -> None:
    run.verified("ingest", "preprocess")
    check_training(run.config, load_split(run.path / "processed")["train"])


def _fit_and_save(run: Run, resume: bool, chosen: dict[str, Any] | None) -> dict:
    _check(run)
    with stage("train") as (report, result), run.step("train") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        from twotower.models.training.saving import save

        monitor = run.config.training.monitor
        folder = state_folder(run, resume)
        resumed = "resumed from the saved state; " if any(folder.iterdir()) else ""
        tower, data = fit_towers(run, folder, run.path / "logs" / "tensorboard", report)
        report(phase="save the towers")
        save(tower, out / "model")
        notes |= summary(tower.history, monitor, len(data.user_rows))
        if chosen is not None:
            notes["chosen"] = chosen
        best = f"best {notes['best_epoch']} with valid {monitor}"
        speed = f"{notes['rows_per_second']:,} rows/s" if notes["rows_per_second"] else "solved"
        validated = (
            f"{best} {notes[f'valid_{monitor}']:.4f} of {notes['valid_users']:,} users"
            if notes["valid_users"]
            else "the last is kept because valid is empty"
        )
        result(
            f"{resumed}{notes['epochs']} epochs, {validated}; {speed}, "
            f"validation {notes['validation_share']:.0%} of the time"
        )
    # Only now: until the step is committed, an interrupted training must resume from here.
    (folder / FINISHED).touch()
    return notes


def check_training(config: Config, train: pd.DataFrame) -> None:
    """Check, before the slow imports, that the settings fit the training part.

    Parameters
    ----------
    config : Config
    train : DataFrame
        The training part of the split.

    Raises
    ------
    ConfigError
        Naming the setting.
    """
    training, rows = config.training, len(train)
    if place().size > 1 and (wrong := unsupported(config.model)):
        raise ConfigError(wrong)
    own_batches = config.model.graph or config.model.sequence
    if rows < training.batch_size and not own_batches:
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, but there are only {rows} training "
            "rows; set it to at most that"
        )
    if training.start and not train[config.features.user_id].duplicated().any():
        raise ConfigError(
            "training.start solves for items that have users in common, but no user has two items "
            "in the training part; remove this setting"
        )


def fit_towers(
    run: Run,
    folder: Path,
    logs: Path | None = None,
    report: ShowProgress = _no_op,
    on_metrics: Callable[[dict[str, float]], None] = _no_op,
) -> tuple[TwoTower, TrainingData]:
    """Create a model with the run's settings and fit it on the training part.

    Parameters
    ----------
    run : Run
        With the steps `ingest` and `preprocess` done.
    folder : Path
        For the state from which an interrupted training resumes.
    logs : Path, optional
        Folder for TensorBoard's logs.
    report : Report
        Shows the progress.
    on_metrics : callable (metrics)
        Called after each epoch with its metrics on the valid part.

    Returns
    -------
    tower : TwoTower
    data : TrainingData
        The training part.
    """
    report(0, 1, "build the model")
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.models.distributed.workers import join_workers
    from twotower.models.training.fit import fit
    from twotower.models.training.model import create

    _check_same(join_workers(), run)
    data = load_training_data(run)
    config = run.config.training
    text = TensorflowMetadata.from_proto_text_file(str(run.path / "processed"), SCHEMA)
    tower = create(text.to_merlin_schema(), data, run.config.model, config.seed)
    measure = validation(run, data)

    def validate(model: Any) -> dict[str, float]:
        report(phase="validation")
        metrics = measure(model, validated)
        on_metrics(metrics)
        report(phase="training")
        return metrics

    def validated(done: int, total: int) -> None:
        report(phase="validation", detail=f"{done:,} of {total:,} users")

    def progress(done: int, total: int, text: str) -> None:
        report(done, total, "training", text)

    report(phase="training")
    fit(
        tower=tower,
        data=data,
        config=config,
        validate=validate,
        folder=folder,
        tensorboard=logs,
        progress=progress,
        initialize=closed_form_start(tower, data, config, report),
    )
    return tower, data


def _check_same(workers: Workers, run: Run) -> None:
    """Check that this worker has the data and the settings of the first one."""
    with workers.watched():
        of_first = workers.of_first(state_name)(run)
    if of_first != state_name(run):
        raise RunError(
            f"{run.path}: worker {workers.rank} has other data or settings than worker 0; all "
            "workers need the same run folder, and the same options"
        )


def validation(run: Run, data: TrainingData) -> Callable[..., dict[str, float]]:
    """Create the function that measures a model on the valid part.

    Parameters
    ----------
    run : Run
    data : TrainingData
        The training part.

    Returns
    -------
    callable (model, progress) -> dict of str to float
        Computes the metrics of all users of the part, or of a sample of them (see
        `evaluation.valid_users`); their number is the metric "users". `progress` is optional, as in
        `twotower.models.evaluation.metrics.evaluate`.
    """
    from twotower.models.evaluation.config import count_valid_users

    evaluator = Evaluator(run, "valid")
    n_users = np.count_nonzero(np.diff(evaluator.relevant.indptr))
    if not n_users:  # split.train_on_valid: the last epoch is kept
        return lambda model, progress=_no_op: {run.config.training.monitor: 0.0, "users": 0}
    count = count_valid_users(
        setting=run.config.evaluation.valid_users,
        users=n_users,
        items=evaluator.relevant.shape[1],
        rows=len(data.user_rows),
    )
    if count < n_users:
        evaluator.sample(count)

    def measure(model: Any, progress: Callable[[int, int], None] = _no_op) -> dict[str, float]:
        scorer = evaluator.tower_scorer(model, data.users, data.items)
        metrics = evaluator.evaluate(scorer, progress)
        return {**metrics.values, "users": metrics.users}

    return measure


def closed_form_start(
    tower: TwoTower,
    data: TrainingData,
    config: TrainingConfig,
    report: ShowProgress,
    align: bool = False,
) -> Callable[[], None] | None:
    """Create the `initialize` argument of `fit`, for `training.start` or `model.sequence.start`.

    `training.start` is followed by the prediction of items and users that it does not solve for.

    Parameters
    ----------
    tower : TwoTower
    data : TrainingData
    config : TrainingConfig
    report : Report
        Shows the progress.
    align : bool
        See `set_closed_form_weights`.

    Returns
    -------
    callable () or None
        None if neither is set.
    """
    start, sequence = config.start, tower.config.sequence
    if start is None and (sequence is None or sequence.start is None):
        return None

    def progress(done: int, total: int, text: str) -> None:
        report(done, total, "closed form", text)

    def initialize() -> None:
        report(phase="closed form")
        if start is not None:
            from twotower.models.cold_items import fill_cold_items, put_vectors_into_ids
            from twotower.models.cold_users import fill_cold_users
            from twotower.models.training.closed_form.towers import set_closed_form_weights

            if align:
                put_vectors_into_ids(tower, data)
            set_closed_form_weights(tower, data, start, align, progress)
            fill_cold_items(tower, data)
            fill_cold_users(tower, data)
        else:
            from twotower.models.sequence.regression import set_next_item_weights

            set_next_item_weights(tower, data, align)
        report(phase="training")

    return initialize


def summary(history: History, monitor: str, rows: int) -> dict[str, Any]:
    """Summarise a training for the manifest.

    Parameters
    ----------
    history : History
    monitor : str
        The metric that chose the best epoch.
    rows : int
        Number of training interactions.

    Returns
    -------
    dict of str to Any
    """
    from twotower.models.training.model import best_epoch

    best = best_epoch(history, monitor)
    fitting, validating = sum(history["seconds"]), sum(history["validation_seconds"])
    trained_epochs = sum(loss is not None for loss in history["loss"])
    return {
        "epochs": len(history["loss"]),
        "best_epoch": best + 1,
        f"valid_{monitor}": history[f"val_{monitor}"][best],
        "valid_users": int(history["val_users"][best]),
        "rows_per_second": round(rows * trained_epochs / fitting),
        "validation_share": round(validating / (fitting + validating), 3),
    }


def state_folder(run: Run, resume: bool) -> Path:
    """Choose the folder for the state of this training: training/<hash of its data and settings>.

    The folder of an interrupted training is kept. That of a finished training is kept only if
    `resume` is set, and emptied otherwise. Folders of other data or settings are removed.

    Parameters
    ----------
    run : Run
    resume : bool
        Continue a finished training.

    Returns
    -------
    Path

    Raises
    ------
    RunError
        If `resume` is set and there is no training with these data and settings.
    """
    folder = run.path / TRAINING / state_name(run)
    finished = folder / FINISHED
    if resume and not folder.is_dir():
        raise RunError(
            f"{run.path}: there is no training to resume: none was started, or the data or the "
            "settings (except training.epochs, patience) have changed; train without --resume"
        )
    for other in (run.path / TRAINING).glob("*"):
        if other != folder or (finished.exists() and not resume):
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    finished.unlink(missing_ok=True)
    return folder


def state_name(run: Run) -> str:
    """Return the name of the folder for the state of a training with the run's data and settings.

    It depends on the number of workers, too: with another number, batches are others.

    Parameters
    ----------
    run : Run
        With the steps `ingest` and `preprocess` done.

    Returns
    -------
    str
    """
    relevant: Any = {"model": ..., "training": ..., "evaluation": {"valid_users"}}
    settings = json.loads(run.config.json(include=relevant))
    for key in ("epochs", "patience", "checkpoint_seconds"):
        del settings["training"][key]
    settings["workers"] = place().size
    identity = json.dumps([run.identity("preprocess"), settings], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
