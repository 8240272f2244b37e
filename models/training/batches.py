"""Training batches: shuffled rows of positives, and the layer that looks up their features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from merlin.schema import Tags

from twotower.models.batch_keys import CONTEXT_ROW, ITEM_ROW, USER_ROW, WEIGHT
from twotower.models.feature_lookup import FeatureLookup
from twotower.models.objective.config import ObjectiveConfig
from twotower.models.objective.sampling import known_pairs
from twotower.models.objective.self_supervised import item_views
from twotower.models.training.data import TrainingData
from twotower.models.training.mining import MinedNegatives
from twotower.models.training.model import TwoTower, item_id_hiding
from twotower.models.two_tower import history_column


def shuffled_batches(
    columns: Mapping[str, np.ndarray], batch_size: int, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Create endless batches of shuffled positives, one epoch after another.

    Every epoch has its own order of all positives and drops the last `n % batch_size`. A batch
    depends only on the seed and the number of its step, so a resumed training continues with the
    batches that it would have had without the interruption.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        What a batch is read as, see `training_columns`. Only the rows of the batch are read, so the
        arrays may be memory-mapped.
    batch_size : int
    seed : int
    first_step : int
        Number of the first step, counted from 0 over all epochs.

    Returns
    -------
    tf.data.Dataset
        Of dicts with the names of `columns`, each of shape (batch_size,).
    """
    n = len(next(iter(columns.values())))
    last, steps_per_epoch = n - 1, n // batch_size
    types = [tf.as_dtype(values.dtype) for values in columns.values()]

    def rows(positions: np.ndarray) -> list[np.ndarray]:
        return [values[positions] for values in columns.values()]

    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        positions = step % steps_per_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        # The permutation is computed for these positions only; it is never stored.
        shuffled = tf.random.experimental.index_shuffle(
            positions, [seed, step // steps_per_epoch], tf.constant(last, tf.int64)
        )
        read = tf.numpy_function(rows, [shuffled], types, stateful=False)
        # AutoGraph knows no zip(strict=True).
        return {
            name: tf.ensure_shape(read[place], [batch_size]) for place, name in enumerate(columns)
        }

    options = tf.data.Options()
    # The autotune thread wakes up only once a minute, and the end of training waits for it.
    options.autotune.enabled = False
    endless = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return endless.map(batch).prefetch(2).with_options(options)


def training_columns(data: TrainingData) -> dict[str, np.ndarray]:
    """Return the columns [n] of the positives that `FeatureLookup` reads, by their batch keys."""
    columns = {USER_ROW: data.user_rows, ITEM_ROW: data.item_rows}
    if data.context_rows is not None:
        columns[CONTEXT_ROW] = data.context_rows
    if data.weights is not None:
        columns[WEIGHT] = data.weights
    return columns


def feature_lookup(
    tower: TwoTower,
    data: TrainingData,
    all_data: TrainingData,
    seed: int,
    mined: MinedNegatives | None = None,
) -> FeatureLookup:
    """Create the layer that looks up the features of a training batch.

    Parameters
    ----------
    tower : TwoTower
        Its model must have an optimizer, which counts the steps.
    data : TrainingData
        The data to train on.
    all_data : TrainingData
        All interactions, if `data` is a sample of them; else `data`.
    seed : int
    mined : MinedNegatives, optional
        For `objective.negatives: mined`.

    Returns
    -------
    FeatureLookup
    """
    config, schema = tower.config, tower.schema
    vectors = schema.select_by_tag(Tags.EMBEDDING).column_names
    lists = [column.name for column in schema if column.is_list and column.name not in vectors]
    hide_probability, _ = item_id_hiding(schema, data, config)
    return FeatureLookup(
        users=data.users,
        items=data.items,
        contexts=data.contexts,
        item_id=schema.select_by_tag(Tags.ITEM_ID).first.name,
        hide_item_id=hide_probability,
        dropout=config.feature_dropout,
        seed=seed,
        step=lambda: tower.model.optimizer.iterations,
        lists=lists,
        history=history_column(schema),
        history_dropout=config.history_dropout,
        views=item_views(config.self_supervised, data.items, lists),
        **_objective_inputs(config.objective, data, all_data, mined),
    )


def _objective_inputs(
    objective: ObjectiveConfig,
    data: TrainingData,
    all_data: TrainingData,
    mined: MinedNegatives | None,
) -> dict[str, Any]:
    """Arguments of `FeatureLookup` for what the loss needs: negatives and known positives."""
    inputs: dict[str, Any] = {"sampler": objective.sampler(data.positives_per_item)}
    if mined:
        n = objective.per_positive * objective.hard
        inputs["draw_own"] = lambda users, seed: mined.draw(users, n, seed)
    if objective.mask_known:
        inputs["known"] = known_pairs(all_data.user_rows, all_data.item_rows, data.n_items)
    if objective.loss == "squared":
        inputs["positives_per_user"] = np.bincount(data.user_rows, minlength=data.n_users)
    return inputs
