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
from twotower.models.training.config import BY_USER, TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.mining import MinedNegatives
from twotower.models.training.model import TwoTower, item_id_hiding
from twotower.models.two_tower import history_column


def count_steps(n: int, batch_size: int, workers: int = 1) -> int:
    """Count the steps of an epoch.

    Parameters
    ----------
    n : int
        Number of positives.
    batch_size : int
        Positives per step of each worker.
    workers : int

    Returns
    -------
    int
        One process drops the last `n % batch_size` positives of an epoch. Several workers also
        train on the rest, see `shuffled_batches`.
    """
    return n // batch_size if workers == 1 else -(-n // (workers * batch_size))


def shuffled_batches(
    columns: Mapping[str, np.ndarray],
    batch_size: int,
    seed: int,
    first_step: int = 0,
    order: str = "shuffled",
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    """Create endless batches of shuffled positives, one epoch after another.

    Every epoch has its own order of all positives and drops the last `n % batch_size`. A batch
    depends only on the seed and the number of its step, so a resumed training continues with the
    batches that it would have had without the interruption.

    Together, several workers have the batch of one process with `workers * batch_size`. The last
    batches of an epoch are filled up with its first positives: of weight 0, so only as negatives.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        What a batch is read as, see `training_columns`. Only the rows of the batch are read, so the
        arrays may be memory-mapped.
    batch_size : int
    seed : int
    first_step : int
        Number of the first step, counted from 0 over all epochs.
    order : str
        "shuffled", or "by_user": the positives of a user are side by side, and users are shuffled.
    worker, workers : int
        Number of this worker, from 0, and number of workers.

    Returns
    -------
    tf.data.Dataset
        Of dicts of Tensors of shape (batch_size,): `columns`, and WEIGHT if batches are filled up.
    """
    n = len(next(iter(columns.values())))
    steps_per_epoch = count_steps(n, batch_size, workers)
    is_filled = workers > 1 and n % (workers * batch_size) > 0
    types = [tf.as_dtype(values.dtype) for values in columns.values()]
    users = UserOrder(columns[USER_ROW], seed) if order == BY_USER else None

    def rows(epoch: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        if users is not None:
            positions = users.rows(int(epoch), positions)
        return [values[positions] for values in columns.values()]

    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        epoch = step // steps_per_epoch
        first = (step % steps_per_epoch * workers + worker) * batch_size
        place = first + tf.range(batch_size, dtype=tf.int64)
        positions = place % n if is_filled else place
        if users is None:
            # The permutation is computed for these positions only; it is never stored.
            positions = tf.random.experimental.index_shuffle(
                positions, [seed, epoch], tf.constant(n - 1, tf.int64)
            )
        read = tf.numpy_function(rows, [epoch, positions], types, stateful=False)
        # AutoGraph knows no zip(strict=True).
        found = {name: tf.ensure_shape(read[i], [batch_size]) for i, name in enumerate(columns)}
        if is_filled:
            found[WEIGHT] = tf.where(place < n, found.get(WEIGHT, 1.0), 0.0)
        return found

    options = tf.data.Options()
    # The autotune thread wakes up only once a minute, and the end of training waits for it.
    options.autotune.enabled = False
    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return steps.map(batch).prefetch(2).with_options(options)


class UserOrder:
    """The positives in an order of their own per epoch, in which those of a user are neighbours.

    Parameters
    ----------
    user_rows : ndarray of int, shape (n,)
    seed : int
    """

    def __init__(self, user_rows: np.ndarray, seed: int):
        self.seed, self.epoch = seed, -1
        self.by_user = np.argsort(user_rows, kind="stable")
        self.counts = np.bincount(user_rows)
        self.begins = np.cumsum(self.counts) - self.counts

    def rows(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the positives, int64 [m], at the positions int64 [m] of an epoch."""
        if epoch != self.epoch:
            users = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
            self.epoch, self.users, self.ends = epoch, users, np.cumsum(self.counts[users])
        place = np.searchsorted(self.ends, positions, side="right")
        user = self.users[place]
        within = positions - (self.ends[place] - self.counts[user])
        return self.by_user[self.begins[user] + within]


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
    config: TrainingConfig,
    mined: MinedNegatives | None = None,
    worker: int = 0,
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
    config : TrainingConfig
        For the seed and the order of the interactions.
    mined : MinedNegatives, optional
        For `objective.negatives: mined`.
    worker : int
        Number of the worker, from 0.

    Returns
    -------
    FeatureLookup
    """
    model, schema = tower.config, tower.schema
    vectors = schema.select_by_tag(Tags.EMBEDDING).column_names
    lists = [column.name for column in schema if column.is_list and column.name not in vectors]
    hide_probability, _ = item_id_hiding(schema, data, model)
    return FeatureLookup(
        users=data.users,
        items=data.items,
        contexts=data.contexts,
        item_id=schema.select_by_tag(Tags.ITEM_ID).first.name,
        hide_item_id=hide_probability,
        dropout=model.feature_dropout,
        seed=config.seed,
        worker=worker,
        step=lambda: tower.model.optimizer.iterations,
        lists=lists,
        history=history_column(schema),
        history_dropout=model.history_dropout,
        whole_histories=config.order == BY_USER,
        views=item_views(model.self_supervised, data.items, lists),
        **_objective_inputs(model.objective, data, all_data, mined),
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
