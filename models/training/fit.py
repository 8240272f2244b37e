"""Fit, validate on the full catalogue, stop early, go on after an interruption, save, reload."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Extra, Field

from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.objective.config import ObjectiveConfig
from twotower.models.training.closed_form import ClosedFormConfig
from twotower.models.two_tower import build_two_tower, example_input, hide_item_ids, history_column

if TYPE_CHECKING:
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.schema import Schema

    from twotower.models.feature_lookup import FeatureLookup
    from twotower.models.training.callbacks import Progress
    from twotower.models.training.mining import MinedNegatives

WEIGHTS, QUERY_TOWER, CANDIDATE_TOWER = "weights", "query_tower", "candidate_tower"
MAX_INT = 2**31 - 1  # of TensorFlow's int32, which its seeds are
COUNTED_AT_ONCE = 1 << 22  # rows; of a file larger than the memory not all can be


class TrainingConfig(BaseModel, extra=Extra.forbid):
    """How the towers are fitted."""

    batch_size: int = Field(
        1024, gt=1, le=1 << 24, description="rows a step; each row's negatives are the rest"
    )
    epochs: int = Field(
        20, gt=0, le=1_000_000, description="at most this many passes over the training part"
    )
    patience: int = Field(
        3, gt=0, le=1_000_000, description="stop after this many epochs without improvement"
    )
    monitor: str = Field("ndcg@10", description="full-catalogue validation metric to maximise")
    optimizer: Literal["adam", "lazy_adam", "adagrad", "rowwise_adagrad"] = Field(
        "lazy_adam",
        description="adam moves every row of every table in every step; the others only the rows "
        "of the batch, so that a step costs the same for a vocabulary of any size",
    )
    learning_rate: float = Field(0.005, gt=0, le=1000, description="initial learning rate")
    learning_rate_decay: float = Field(
        0.85, gt=0, le=1, description="factor on the learning rate after every epoch"
    )
    warmup: int = Field(
        0,
        ge=0,
        le=MAX_INT,
        description="number of steps over which the learning rate rises linearly; 0: none",
    )
    checkpoint_seconds: float = Field(
        30,
        gt=0,
        le=1e9,
        description="seconds between checkpoints, from which an interrupted training resumes",
    )
    start: ClosedFormConfig | None = Field(
        None,
        description="begin with towers solved in closed form, see models/closed_form.py; they "
        "count as the first epoch, which is kept when no other is better. none: begin with random "
        "weights",
    )
    seed: int = Field(42, ge=0, le=MAX_INT, description="of initial weights, shuffling and dropout")
    deterministic: bool = Field(
        True, description="same seed, same machine, same metrics; costs a few percent of speed"
    )


@dataclass(frozen=True)
class TrainingData:
    """What `fit` needs: the two encoded tables and the positives as rows of them.

    A table's columns are int32 [n, 1], int32 [n, length] (multi-hot) or float32 [n, 1] (numbers).
    The rows are int32, in memory or memory-mapped.
    """

    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    user_rows: np.ndarray
    item_rows: np.ndarray

    @cached_property
    def positives_per_item(self) -> np.ndarray:
        """int64 [n_items]: how often each row of the item table is a positive."""
        counts = np.zeros(len(next(iter(self.items.values()))), np.int64)
        for start in range(0, len(self.item_rows), COUNTED_AT_ONCE):
            rows = self.item_rows[start : start + COUNTED_AT_ONCE]
            counts += np.bincount(rows, minlength=len(counts))
        return counts


@dataclass
class TwoTower:
    """A built model with what is needed to fit it."""

    model: mm.RetrievalModelV2
    schema: Schema
    config: TwoTowerConfig
    item_counts: np.ndarray
    history: dict[str, list[float]] = field(default_factory=dict)  # see `fit`


def create(schema: Schema, data: TrainingData, config: TwoTowerConfig, seed: int) -> TwoTower:
    """A fresh model for `schema` whose logQ correction counts the positives of `data`."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    _, _, counts = _hidden_item_ids(schema, data, config)
    model = build_two_tower(schema, counts, config, data.positives_per_item)
    tower = TwoTower(model, schema, config, counts)
    # Calling both towers once creates the variables, so that a checkpoint can be restored.
    tower.model({name: tf.constant(v[:2]) for name, v in {**data.users, **data.items}.items()})
    return tower


def fit(
    tower: TwoTower,
    data: TrainingData,
    config: TrainingConfig,
    validate: Callable[[mm.RetrievalModelV2], Mapping[str, float]],
    folder: Path,
    tensorboard: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    begin: Callable[[], None] | None = None,
    known: TrainingData | None = None,
) -> dict[str, list[float | None]]:
    """Fit until `config.monitor` stops rising; keep the best epoch.

    A training that was interrupted, or that is to have more epochs or patience, goes on from the
    state in `folder`, with the batches and the learning rate that would have come next: the result
    is that of a training without interruption.

    Parameters
    ----------
    validate
        Called after each epoch; returns full-catalogue metrics by name (`ndcg@10`, ...).
    folder
        For the state to go on from and the best epoch's weights; of this model and data alone.
    progress
        Called as (step, steps of all epochs, text).
    begin
        Gives the model what it starts from; that is validated and counts as the first epoch.
    known
        All interactions, where `data` has a sample of them: none is a mined negative, or one where
        `objective.mask_known`.

    Returns
    -------
    The history: per epoch the loss (None of what it started from), the seconds, those of the
    validation and every validation metric as `val_<name>`.
    """
    import tensorflow as tf

    from twotower.models.training.batches import shuffled_batches
    from twotower.models.training.callbacks import (
        LearningRate,
        ReportProgress,
        TrainingState,
        ValidateAndKeep,
    )
    from twotower.models.training.mining import MineEveryEpoch

    if len(data.user_rows) < config.batch_size:
        raise ModelError(
            f"training.batch_size is {config.batch_size} but there are only "
            f"{len(data.user_rows)} training rows; set it to at most that"
        )
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(config.seed)
    model, steps = tower.model, len(data.user_rows) // config.batch_size
    # AutoGraph's translation of Merlin's step takes seconds and changes nothing in it.
    model.train_step = tf.autograph.experimental.do_not_convert(model.train_step)
    model.compile(optimizer=_optimizer(model, config), metrics=[])
    known = data if known is None else known
    mined = _mined(tower.config.objective, known)
    state = TrainingState(model, folder, **({"mined": mined} if mined else {}))
    state.restore()
    keep = ValidateAndKeep(
        state, validate, config.monitor, config.patience, config.checkpoint_seconds
    )
    if begin is not None and not state.progress.epochs:
        keep.count(model, begin)
    callbacks = [
        keep,
        LearningRate(config.learning_rate, config.learning_rate_decay, config.warmup),
    ]
    if mined:
        callbacks.append(MineEveryEpoch(mined, state.progress))
    if tensorboard is not None:
        callbacks.append(tf.keras.callbacks.TensorBoard(str(tensorboard), profile_batch=0))
    if progress is not None:
        done = int(model.optimizer.iterations)
        epochs = config.epochs - (begin is not None)
        callbacks.append(ReportProgress(progress, done, steps * epochs))
    lookup = feature_lookup(tower, data, known, config.seed, mined)
    while not _finished(state.progress, config):
        # First what an interruption has left of an epoch, then all others in one go.
        epoch, done = state.progress.epochs, state.progress.steps
        model.fit(
            shuffled_batches(
                *(data.user_rows, data.item_rows, config.batch_size, config.seed),
                first_step=int(model.optimizer.iterations),
            ),
            steps_per_epoch=steps - done,
            initial_epoch=epoch,
            epochs=epoch + 1 if done else config.epochs,
            pre=lookup,
            callbacks=callbacks,
            verbose=0,
            train_metrics_steps=0,
        )
    state.save()
    state.restore_best(state.progress.best(config.monitor))
    tower.history = state.progress.history
    return tower.history


def feature_lookup(
    tower: TwoTower,
    data: TrainingData,
    known: TrainingData,
    seed: int,
    mined: MinedNegatives | None = None,
) -> FeatureLookup:
    """The layer that looks up the features of a training batch; for the parameters see `fit`.

    The model must have an optimizer, which counts the steps.
    """
    from twotower.models.feature_lookup import FeatureLookup
    from twotower.models.objective.self_supervised import item_views

    item_id, hide, _ = _hidden_item_ids(tower.schema, data, tower.config)
    lists = [column.name for column in tower.schema if column.is_list]
    return FeatureLookup(
        data.users,
        data.items,
        item_id,
        hide,
        tower.config.feature_dropout,
        seed,
        lambda: tower.model.optimizer.iterations,
        lists=lists,
        history=history_column(tower.schema),
        history_dropout=tower.config.history_dropout,
        views=item_views(tower.config.self_supervised, data.items, lists),
        **_for_objective(tower.config.objective, data, known, mined),
    )


def _mined(objective: ObjectiveConfig, known: TrainingData) -> MinedNegatives | None:
    from twotower.models.training.mining import MinedNegatives

    if objective.negatives != "mined":
        return None
    rows = (known.user_rows, known.item_rows)
    given = (objective.mined_ranks, objective.mined_share)
    return MinedNegatives(known.users, known.items, *rows, *given)


def _for_objective(
    objective: ObjectiveConfig,
    data: TrainingData,
    known: TrainingData,
    mined: MinedNegatives | None,
) -> dict[str, Any]:
    """What `FeatureLookup` needs to know for the loss."""
    from twotower.models.objective.sampling import known_pairs

    positives, settings = data.positives_per_item, {}
    if mined:
        n = objective.per_positive * objective.hard
        settings["draw_own"] = lambda users, seed: mined.draw(users, n, seed)
    settings["sampler"] = objective.sampler(positives)
    if objective.mask_known:
        settings["known"] = known_pairs(known.user_rows, known.item_rows, len(positives))
    if objective.loss == "squared":
        n_users = len(next(iter(data.users.values())))
        settings["positives_per_user"] = np.bincount(data.user_rows, minlength=n_users)
    return settings


def _finished(progress: Progress, config: TrainingConfig) -> bool:
    """Whether there were enough epochs, or too many without improvement."""
    if not progress.epochs:
        return False
    stale = progress.epochs - 1 - progress.best(config.monitor)
    return progress.epochs >= config.epochs or stale >= config.patience


def _hidden_item_ids(
    schema: Schema, data: TrainingData, config: TwoTowerConfig
) -> tuple[str, np.ndarray, np.ndarray]:
    """(item id column, probability of hiding each row's id, counts for logQ)."""
    from merlin.schema import Tags

    from twotower.models.batch_keys import OUT_OF_VOCABULARY

    item_id = schema.select_by_tag(Tags.ITEM_ID).first
    return item_id.name, *hide_item_ids(
        data.items[item_id.name][:, 0],
        data.positives_per_item,
        config.cold_count,
        item_id.int_domain.max + 1,
        OUT_OF_VOCABULARY,
    )


def _optimizer(model, config: TrainingConfig):
    """A new one, with its variables made, so that a state can be restored into it."""
    from twotower.models.training.optimizers import OPTIMIZERS

    optimizer = OPTIMIZERS[config.optimizer](config.learning_rate)
    optimizer.build(model.trainable_variables)
    return optimizer


def save(tower: TwoTower, out: Path) -> None:
    """Write both towers as SavedModels, the weights, the schema, the item counts, the history."""
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.models.training.callbacks import weights

    save_tower(tower.model.query_encoder, tower.schema, out / QUERY_TOWER)
    save_tower(tower.model.candidate_encoder, tower.schema, out / CANDIDATE_TOWER)
    weights(tower.model).write(str(out / WEIGHTS))
    TensorflowMetadata.from_merlin_schema(tower.schema).to_proto_text_file(str(out), "schema.pbtxt")
    np.save(out / "item_counts.npy", tower.item_counts)
    (out / "two_tower.json").write_text(tower.config.json(indent=2) + "\n")
    (out / "history.json").write_text(json.dumps(tower.history, indent=2) + "\n")


def save_tower(encoder: mm.Encoder, schema: Schema, path: Path) -> None:
    """Write one tower as a SavedModel of one function, from its encoded columns to its vectors.

    The columns are int32 or float32 [n, 1], lists int32 [n, any length]. Keras's own format traces
    every layer by itself, which takes seconds, and fixes that length.
    """
    import tensorflow as tf

    columns = {}
    for column in schema:
        if column.name in encoder.schema.column_names:
            example = example_input(column, rows=1)
            width = None if column.is_list else 1
            columns[column.name] = tf.TensorSpec([None, width], example.dtype, column.name)

    @tf.function(input_signature=[columns], autograph=False)
    def vectors(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return encoder(features, training=False)

    module = tf.Module()
    module.weights, module.vectors = encoder.weights, vectors
    signature = tf.function(lambda **features: vectors(features), autograph=False)
    tf.saved_model.save(module, str(path), signature.get_concrete_function(**columns))


def load_tower(path: Path) -> Callable[[Mapping[str, tf.Tensor]], tf.Tensor]:
    """A tower of `save_tower`: encoded columns to vectors float32 [n, dim]."""
    import tensorflow as tf

    tower = tf.saved_model.load(str(path))
    return lambda features: tower.vectors(features)  # by itself it would lose its weights


def load(path: Path) -> TwoTower:
    """The model of `save`: it predicts the same.

    Rebuilt from config, schema and weights rather than from a pickled or traced whole:
    Keras's own reload of a ContrastiveOutput forgets its logQ correction.
    """
    import tensorflow as tf
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.models.training.callbacks import weights

    if not (path / "two_tower.json").is_file():
        raise ModelError(f"{path}: no saved model here; run `twotower train` first")
    config = TwoTowerConfig.parse_raw((path / "two_tower.json").read_text())
    schema = TensorflowMetadata.from_proto_text_file(str(path), "schema.pbtxt").to_merlin_schema()
    counts = np.load(path / "item_counts.npy")
    history = json.loads((path / "history.json").read_text())
    tower = TwoTower(build_two_tower(schema, counts, config), schema, config, counts, history)
    tower.model({column.name: tf.constant(example_input(column, rows=2)) for column in schema})
    weights(tower.model).read(str(path / WEIGHTS)).assert_consumed()
    return tower
