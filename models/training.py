"""Fit, validate on the full catalogue, stop early, save, reload, continue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Extra, Field

from models.errors import ModelError
from models.two_tower import TwoTowerConfig, build_two_tower, example_input, hide_item_ids

if TYPE_CHECKING:
    import merlin.models.tf as mm
    from merlin.schema import Schema

CHECKPOINT, QUERY_TOWER, CANDIDATE_TOWER = "checkpoint", "query_tower", "candidate_tower"


class TrainingConfig(BaseModel, extra=Extra.forbid):
    """How the towers are fitted."""

    batch_size: int = Field(
        1024, gt=1, description="rows a step; each row's negatives are the rest"
    )
    epochs: int = Field(20, gt=0, description="at most this many passes over the training part")
    patience: int = Field(2, gt=0, description="stop after this many epochs without improvement")
    monitor: str = Field("ndcg@10", description="full-catalogue validation metric to maximise")
    optimizer: Literal["adam", "adagrad"] = Field("adam", description="Keras optimizer")
    learning_rate: float = Field(0.005, gt=0, description="initial learning rate")
    learning_rate_decay: float = Field(
        0.85, gt=0, le=1, description="factor on the learning rate after every epoch"
    )
    seed: int = Field(42, description="of initial weights, shuffling and dropout")
    deterministic: bool = Field(
        True, description="same seed, same machine, same metrics; costs a few percent of speed"
    )


@dataclass(frozen=True)
class TrainingData:
    """What `fit` needs: the two encoded tables and the positives as rows of them.

    A table's columns are int32 [n, 1], int32 [n, length] (multi-hot) or float32 [n, 1] (numbers).
    """

    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    user_rows: np.ndarray
    item_rows: np.ndarray

    def positives_per_item(self) -> np.ndarray:
        """int64 [n_items]: how often each row of the item table is a positive."""
        return np.bincount(self.item_rows, minlength=len(next(iter(self.items.values()))))


@dataclass
class TwoTower:
    """A built model with what is needed to fit it further."""

    model: mm.RetrievalModelV2
    schema: Schema
    config: TwoTowerConfig
    item_counts: np.ndarray
    history: dict[str, list[float]] = field(default_factory=dict)  # of the epochs before


def create(schema: Schema, data: TrainingData, config: TwoTowerConfig, seed: int) -> TwoTower:
    """A fresh model for `schema` whose logQ correction counts the positives of `data`."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    _, _, counts = _hidden_item_ids(schema, data, config)
    tower = TwoTower(build_two_tower(schema, counts, config), schema, config, counts)
    # Calling both towers once creates the variables, so that a checkpoint can be restored.
    tower.model({name: tf.constant(v[:2]) for name, v in {**data.users, **data.items}.items()})
    return tower


def fit(
    tower: TwoTower,
    data: TrainingData,
    config: TrainingConfig,
    validate: Callable[[mm.RetrievalModelV2], Mapping[str, float]],
    out: Path,
    tensorboard: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, list[float]]:
    """Fit with in-batch negatives until `config.monitor` stops rising; keep the best epoch.

    A loaded model goes on where it stopped: epochs count on from its history, the learning rate
    with them, and its weights stay unless an epoch is better.

    Parameters
    ----------
    validate
        Called after each epoch; returns full-catalogue metrics by name (`ndcg@10`, ...).
    out
        Folder for the checkpoint (best weights and the optimizer's state at that epoch).
    progress
        Called as (step, steps of all epochs, text).

    Returns
    -------
    The history, earlier epochs included: per epoch the loss, the seconds and every validation
    metric as `val_<name>`.
    """
    import tensorflow as tf

    from models.batches import shuffled_batches
    from models.callbacks import FullCatalogueValidation, ReportProgress
    from models.layers import FeatureLookup

    if len(data.user_rows) < config.batch_size:
        raise ModelError(
            f"training.batch_size is {config.batch_size} but there are only "
            f"{len(data.user_rows)} training rows; set it to at most that"
        )
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(config.seed)
    steps = len(data.user_rows) // config.batch_size
    item_id, hide, _ = _hidden_item_ids(tower.schema, data, tower.config)
    model = tower.model
    model.compile(optimizer=_optimizer(model, config), metrics=[])
    validation = FullCatalogueValidation(validate, config.monitor, out / CHECKPOINT)
    validation.set_model(model)
    done = len(tower.history.get("loss", []))
    if done:
        validation.measure()
    callbacks = [
        validation,
        tf.keras.callbacks.EarlyStopping(
            f"val_{config.monitor}",
            mode="max",
            patience=config.patience,
            baseline=validation.best if done else None,
        ),
        tf.keras.callbacks.LearningRateScheduler(
            lambda epoch: config.learning_rate * config.learning_rate_decay**epoch
        ),
    ]
    if tensorboard is not None:
        callbacks.append(tf.keras.callbacks.TensorBoard(str(tensorboard), profile_batch=0))
    if progress is not None:
        callbacks.append(ReportProgress(progress, steps, config.epochs, done))
    history = model.fit(
        shuffled_batches(
            data.user_rows, data.item_rows, config.batch_size, config.seed, done * steps
        ),
        steps_per_epoch=steps,
        initial_epoch=done,
        epochs=done + config.epochs,
        pre=FeatureLookup(
            data.users,
            data.items,
            *(item_id, hide, tower.config.feature_dropout),
            *(config.seed, model.optimizer.iterations),
        ),
        callbacks=callbacks,
        verbose=0,
        train_metrics_steps=0,
    )
    validation.restore_best()
    tower.history = {
        name: tower.history.get(name, []) + [float(value) for value in values]
        for name, values in history.history.items()
    }
    return tower.history


def _hidden_item_ids(
    schema: Schema, data: TrainingData, config: TwoTowerConfig
) -> tuple[str, np.ndarray, np.ndarray]:
    """(item id column, probability of hiding each row's id, counts for logQ)."""
    from merlin.schema import Tags

    from models.layers import OUT_OF_VOCABULARY

    item_id = schema.select_by_tag(Tags.ITEM_ID).first
    return item_id.name, *hide_item_ids(
        data.items[item_id.name][:, 0],
        data.positives_per_item(),
        config.cold_count,
        item_id.int_domain.max + 1,
        OUT_OF_VOCABULARY,
    )


def _optimizer(model, config: TrainingConfig):
    """The compiled optimizer of a model that is continued, else a new one."""
    import tensorflow as tf

    current = getattr(model, "optimizer", None)
    if current is not None:
        return current
    kinds = {"adam": tf.keras.optimizers.Adam, "adagrad": tf.keras.optimizers.Adagrad}
    optimizer = kinds[config.optimizer](config.learning_rate)
    optimizer.build(model.trainable_variables)
    return optimizer


def save(tower: TwoTower, history: Mapping[str, list[float]], out: Path) -> None:
    """Write both towers as SavedModels, the schema, the item counts and the history.

    The checkpoint that `fit` left in `out` belongs to them; `load` needs all of it.
    """
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    tower.model.query_encoder.save(str(out / QUERY_TOWER), include_optimizer=False)
    tower.model.candidate_encoder.save(str(out / CANDIDATE_TOWER), include_optimizer=False)
    TensorflowMetadata.from_merlin_schema(tower.schema).to_proto_text_file(str(out), "schema.pbtxt")
    np.save(out / "item_counts.npy", tower.item_counts)
    (out / "two_tower.json").write_text(tower.config.json(indent=2) + "\n")
    (out / "history.json").write_text(json.dumps(dict(history), indent=2) + "\n")


def load(path: Path, training: TrainingConfig) -> TwoTower:
    """The model of `save`, with its optimizer: it predicts the same and can be fitted further.

    Rebuilt from config, schema and checkpoint rather than from a pickled or traced whole:
    Keras's own reload of a ContrastiveOutput forgets its logQ correction.
    """
    import tensorflow as tf
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    if not (path / "two_tower.json").is_file():
        raise ModelError(f"{path}: no saved model here; run `twotower train` first")
    config = TwoTowerConfig.parse_raw((path / "two_tower.json").read_text())
    schema = TensorflowMetadata.from_proto_text_file(str(path), "schema.pbtxt").to_merlin_schema()
    counts = np.load(path / "item_counts.npy")
    history = json.loads((path / "history.json").read_text())
    tower = TwoTower(build_two_tower(schema, counts, config), schema, config, counts, history)
    tower.model({column.name: tf.constant(example_input(column, rows=2)) for column in schema})
    optimizer = _optimizer(tower.model, training)
    tower.model.compile(optimizer=optimizer, metrics=[])
    checkpoint = tf.train.Checkpoint(model=tower.model, optimizer=optimizer)
    try:
        status = checkpoint.read(str(path / CHECKPOINT)).expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise ModelError(
            f"{path}: the checkpoint does not fit training.optimizer={training.optimizer}; "
            "set it to the one the model was fitted with"
        ) from error
    return tower
