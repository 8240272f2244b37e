"""Fitting: train, validate on the full catalogue, stop early, resume after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import tensorflow as tf

from twotower.models.distributed.state import SharedState
from twotower.models.distributed.workers import Workers, join_workers
from twotower.models.errors import ModelError
from twotower.models.feature_lookup import FeatureLookup
from twotower.models.graph.training import GraphTrainer
from twotower.models.objective.config import ObjectiveConfig
from twotower.models.sequence.training import SequenceTrainer
from twotower.models.training.batches import (
    count_steps,
    feature_lookup,
    shuffled_batches,
    training_columns,
)
from twotower.models.training.callbacks import (
    LearningRate,
    ReportProgress,
    Validation,
    WeightAverages,
)
from twotower.models.training.checkpoint import Progress
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.mining import MinedNegatives, MineEveryEpoch
from twotower.models.training.model import History, TwoTower, best_epoch
from twotower.models.training.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    import merlin.models.tf as mm


def fit(
    tower: TwoTower,
    data: TrainingData,
    config: TrainingConfig,
    validate: Callable[[mm.RetrievalModelV2], Mapping[str, float]],
    folder: Path,
    tensorboard: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    initialize: Callable[[], None] | None = None,
    all_data: TrainingData | None = None,
) -> History:
    """Fit until `config.monitor` stops improving, and keep the best epoch.

    If the training was interrupted, or if `config` now allows more epochs or patience, it resumes
    from the state in `folder` with the next batch. The result is that of an uninterrupted training.
    Several workers must all call this; they end with the same weights and history.

    Parameters
    ----------
    tower : TwoTower
    data : TrainingData
    config : TrainingConfig
    validate : callable (model) -> mapping of str to float
        Called after each epoch; returns full-catalogue metrics by name, such as "ndcg@10".
    folder : Path
        For the checkpoint and the best epoch's weights; for this model and these data only.
    tensorboard : Path, optional
        Folder for TensorBoard's logs.
    progress : callable (step, steps of all epochs, text), optional
    initialize : callable (), optional
        Sets the initial weights. These are validated and count as the first epoch.
    all_data : TrainingData, optional
        All interactions, if `data` is a sample of them: none of them becomes a mined negative, or
        any negative if `objective.mask_known` is set.

    Returns
    -------
    History
    """
    workers = join_workers()
    trainer = _trainer(tower, data, config)
    variables = trainer.variables if trainer else tower.model.trainable_variables
    _set_up(tower.model, config, variables, workers)
    n, size = len(data.user_rows), workers.size
    per_epoch = trainer.steps_per_epoch if trainer else count_steps(n, config.batch_size, size)
    averages = WeightAverages(variables, config.average * per_epoch) if config.average else None
    all_data = data if all_data is None else all_data
    mined = _mined_negatives(tower.config.objective, all_data)
    saved = {"mined": mined, "vectors": getattr(trainer, "vectors", None), "averages": averages}
    state = SharedState(workers, tower.model, folder, **saved)
    with workers.watched():
        state.restore()
        finish = trainer.finish_epoch if trainer else None
        full = n / (size * config.batch_size) if size > 1 else None
        validation = Validation(state, workers.of_first(validate), config, averages, finish, full)
        if initialize is not None and not state.progress.epochs:
            validation.run_initial(tower.model, state.initialized(initialize))
        callbacks = [validation, *_other_callbacks(config, state, mined, tensorboard)]
        if progress is not None:
            steps = per_epoch * (config.epochs - (initialize is not None))
            callbacks.append(ReportProgress(progress, state.steps, steps))
        if trainer is not None:
            _train_steps(trainer, tower.model, config, state.progress, callbacks)
        else:
            lookup = feature_lookup(tower, data, all_data, config, mined, workers.rank)
            _train(tower.model, data, config, state.progress, lookup, callbacks, workers)
        tower.history = state.progress.history
        state.save()
        state.restore_best(best_epoch(tower.history, config.monitor))
    return tower.history


def _other_callbacks(
    config: TrainingConfig,
    state: SharedState,
    mined: MinedNegatives | None,
    tensorboard: Path | None,
) -> Iterator[tf.keras.callbacks.Callback]:
    """The callbacks that follow the validation."""
    yield LearningRate(config.learning_rate, config.learning_rate_decay, config.warmup)
    if mined:
        yield MineEveryEpoch(mined, state.progress)
    if tensorboard is not None and state.is_written:
        yield tf.keras.callbacks.TensorBoard(str(tensorboard), profile_batch=0)


class Trainer(Protocol):
    """Trains towers that Keras's `fit` cannot, one step after another."""

    @property
    def variables(self) -> list[tf.Variable]:
        """What the optimizer changes."""

    @property
    def steps_per_epoch(self) -> int:
        """About how many steps an epoch has."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """Return the batches of an epoch, from 0; the same ones whenever it is called."""

    def step(self, batch: Any) -> float:
        """Train on one of the batches, and return its loss."""

    def finish_epoch(self) -> None:
        """Set the weights of the towers that follow from `variables`, before the validation."""


def _trainer(tower: TwoTower, data: TrainingData, config: TrainingConfig) -> Trainer | None:
    """What trains the towers, if Keras does not."""
    if tower.config.graph:
        return GraphTrainer(tower, data, config)
    if tower.config.sequence:
        return SequenceTrainer(tower, data, config)
    if len(data.user_rows) < config.batch_size:
        raise ModelError(
            f"training.batch_size is {config.batch_size} but there are only "
            f"{len(data.user_rows)} training rows; set it to at most that"
        )
    return None


def _set_up(
    model: mm.RetrievalModelV2,
    config: TrainingConfig,
    variables: list[tf.Variable],
    workers: Workers,
) -> None:
    """Seed TensorFlow and compile the model with a new optimizer of `variables`."""
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(config.seed)
    # AutoGraph would spend seconds on Merlin's training step and change nothing in it.
    model.train_step = tf.autograph.experimental.do_not_convert(model.train_step)  # type: ignore[method-assign]  # Keras has no other switch
    optimizer = workers.optimizer(OPTIMIZERS[config.optimizer](config.learning_rate))
    # Its variables must exist before a checkpoint is restored.
    optimizer.build(variables)
    model.compile(optimizer=optimizer, metrics=[])
    for output in model.model_outputs:
        output.workers, output.gather_negatives = workers, config.gather_negatives


def _mined_negatives(objective: ObjectiveConfig, all_data: TrainingData) -> MinedNegatives | None:
    if objective.negatives != "mined":
        return None
    return MinedNegatives(all_data, objective.mined_ranks, objective.mined_share)


def _train(
    model: mm.RetrievalModelV2,
    data: TrainingData,
    config: TrainingConfig,
    progress: Progress,
    lookup: FeatureLookup,
    callbacks: list[tf.keras.callbacks.Callback],
    workers: Workers,
) -> None:
    """Train for all epochs that are left; `callbacks` update `progress`."""
    steps_per_epoch = count_steps(len(data.user_rows), config.batch_size, workers.size)
    while not _is_finished(progress, config):
        # First the rest of an interrupted epoch, then all other epochs in one call.
        batches = shuffled_batches(
            columns=training_columns(data),
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=int(model.optimizer.iterations),
            order=config.order,
            worker=workers.rank,
            workers=workers.size,
        )
        model.fit(
            batches,
            steps_per_epoch=steps_per_epoch - progress.steps,
            initial_epoch=progress.epochs,
            epochs=progress.epochs + 1 if progress.steps else config.epochs,
            pre=lookup,
            callbacks=callbacks,
            verbose=0,
            train_metrics_steps=0,
        )


def _train_steps(
    trainer: Trainer,
    model: mm.RetrievalModelV2,
    config: TrainingConfig,
    progress: Progress,
    callbacks: list[tf.keras.callbacks.Callback],
) -> None:
    """Train for all epochs that are left, as Keras's `fit` does; `callbacks` update `progress`."""
    every = tf.keras.callbacks.CallbackList(callbacks, model=model)
    every.on_train_begin()
    while not _is_finished(progress, config):
        epoch = progress.epochs
        batches = trainer.batches(epoch)[progress.steps :]
        every.set_params({"steps": len(batches), "epochs": config.epochs, "verbose": 0})
        every.on_epoch_begin(epoch)
        total, loss = 0.0, 0.0
        for step, batch in enumerate(batches):
            every.on_train_batch_begin(step)
            total += trainer.step(batch)
            loss = total / (step + 1)
            every.on_train_batch_end(step, {"loss": loss})
        every.on_epoch_end(epoch, {"loss": loss})
    every.on_train_end()


def _is_finished(progress: Progress, config: TrainingConfig) -> bool:
    """Whether all epochs are done, or `patience` of them without improvement."""
    if not progress.epochs:
        return False
    stale = progress.epochs - 1 - best_epoch(progress.history, config.monitor)
    return progress.epochs >= config.epochs or stale >= config.patience
