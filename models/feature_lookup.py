"""The layer that turns a batch of row numbers into features, in the training graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.random.experimental import stateless_fold_in

from twotower.models.batch_keys import (
    CONTEXT_ROW,
    COUNT,
    ITEM_ROW,
    KNOWN,
    NEGATIVE_OF,
    OUT_OF_VOCABULARY,
    PADDING,
    POSITIVE_OF,
    QUERY_OF,
    ROW,
    SEED,
    SHARE,
    USER_ROW,
    WEIGHT,
)
from twotower.models.objective.negatives import Sampler
from twotower.models.objective.sampling import false_negatives

Features = dict[str, tf.Tensor]
NO_CONTEXTS: Mapping[str, np.ndarray] = {}


class FeatureLookup(tf.keras.layers.Layer):
    """Looks up features: {user_row, item_row} int [n] -> every encoded column [n, width].

    Passed to `fit(pre=...)`, so that a batch is read as two integers per interaction; the saved
    towers do not contain it. In training the columns have one row per distinct user or item of the
    batch, and the keys of `batch_keys` are added. If there are contexts, a batch also has the rows
    of these, and the columns of the query tower have one row per distinct user and context. The
    weights of the interactions, if the batch has
    any, are passed on.

    In training it also hides values, by replacing them with the out-of-vocabulary code, which
    trains the embeddings of unknown users, cold items and unseen values. Item ids are hidden with
    the probabilities `hide_item_id`, other single codes with the probability `dropout`. Numbers
    (float32) and the columns `lists` are not hidden. From the column `history` the user's positives
    in the batch are removed, to avoid target leakage (unless `whole_histories`), and its other
    items are hidden with the probability `history_dropout`.

    Parameters
    ----------
    users, items : mapping of str to ndarray
        The encoded tables: columns int or float32, shape (n_rows, width).
    item_id : str
        The column of `items` with the item's id.
    hide_item_id : ndarray of float32, shape (n_items,)
        The probability of hiding the id of each row of `items`.
    dropout : float
        The probability of hiding any other single code.
    seed : int
    step : callable
        Returns the number of the training step, a scalar Tensor of int. All random draws depend on
        it and on `seed` alone.
    contexts : mapping of str to ndarray
        The encoded contexts, which replace the columns of `users` with the same names.
    lists : collection of str
        The columns that are lists. A list may have a width of 1, so shapes do not tell.
    history : str, optional
        The column that lists a user's items.
    history_dropout : float
    whole_histories : bool
        Keep the positives of the batch in the histories. If a batch has all positives of its users,
        nothing else would be left of the histories.
    sampler : Sampler, optional
        The negatives of a step; by default the positives of the batch.
    draw_own : callable, optional
        Draws negatives for each interaction: user rows int [n] and a seed int32 [2] -> item rows
        int32 [n, m]. It replaces those of `sampler`.
    known : ndarray of int64, optional
        All training positives (see `known_pairs`), to find the batch's false negatives.
    positives_per_user : ndarray of float, shape (n_users,), optional
        Number of positives, to find the fraction of each user's positives that is in the batch.
    worker : int
        Number of the worker, for random draws of its own.
    views : callable, optional
        Computes additional features from the columns of `items` and a seed (see `item_views`).
    """

    def __init__(
        self,
        users: Mapping[str, np.ndarray],
        items: Mapping[str, np.ndarray],
        item_id: str,
        hide_item_id: np.ndarray,
        dropout: float,
        seed: int,
        step: Callable[[], tf.Tensor],
        *,
        contexts: Mapping[str, np.ndarray] = NO_CONTEXTS,
        lists: Collection[str] = (),
        history: str | None = None,
        history_dropout: float = 0.0,
        whole_histories: bool = False,
        sampler: Sampler | None = None,
        draw_own: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        known: np.ndarray | None = None,
        positives_per_user: np.ndarray | None = None,
        worker: int = 0,
        views: Callable[[Mapping[str, tf.Tensor], tf.Tensor], Features] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seed, self.worker, self.step, self.lists = seed, worker, step, frozenset(lists)
        self.history, self.history_dropout = history, history_dropout
        self.whole_histories = whole_histories
        self.tables = {
            USER_ROW: {name: tf.constant(v) for name, v in users.items() if name not in contexts},
            ITEM_ROW: {name: tf.constant(values) for name, values in items.items()},
        }
        self.n_contexts = 0
        if contexts:
            self.tables[CONTEXT_ROW] = {name: tf.constant(v) for name, v in contexts.items()}
            self.n_contexts = len(next(iter(contexts.values())))
        self.item_id = item_id
        self.sampler, self.draw_own, self.views = sampler, draw_own, views
        self.n_items = len(next(iter(items.values())))
        self.known = None if known is None else tf.constant(known)
        self.positives_per_user = None
        if positives_per_user is not None:
            self.positives_per_user = tf.constant(positives_per_user, tf.float32)
        self.hide_item_id = tf.constant(hide_item_id[:, None])
        self.dropout = dropout

    def call(self, inputs, training=False):
        positions = {rows: tf.reshape(inputs[rows], [-1]) for rows in self.tables}
        if training:
            weight = tf.reshape(inputs[WEIGHT], [-1]) if WEIGHT in inputs else None
            features = self._training_features(positions, weight)
            if weight is not None:
                features[WEIGHT] = weight
            return features
        return {
            name: tf.gather(table, positions[rows])
            for rows, tables in self.tables.items()
            for name, table in tables.items()
        }

    def _training_features(self, positions: Features, weight: tf.Tensor | None) -> Features:
        """Features of the distinct users and items at `positions`, with values hidden at random."""
        seed = stateless_fold_in([self.seed, self.worker], self.step())
        positions, features = self._batch(positions, seed, weight)
        for rows, tables in self.tables.items():
            for name, table in tables.items():
                values = tf.gather(table, positions[rows])
                if name == self.history:
                    values = _without_padding(values)
                    if not self.whole_histories:
                        values = self._without_positives(values, positions[ITEM_ROW], features)
                    rate = self.history_dropout
                elif name in self.lists or not values.dtype.is_integer:
                    features[name] = values
                    continue
                elif name == self.item_id:
                    rate = tf.gather(self.hide_item_id, positions[rows])
                else:
                    rate = self.dropout
                features[name] = _hide(values, rate, stateless_fold_in(seed, len(features)))
        # Added last, because the seeds above depend on the number of features.
        features[ROW] = positions[ITEM_ROW]
        if self.views is not None:
            seed = stateless_fold_in(seed, (1 << 20) + 2)
            features.update(self.views(self.tables[ITEM_ROW], seed))
        return features

    def _batch(
        self, positions: Features, seed: tf.Tensor, weight: tf.Tensor | None
    ) -> tuple[Features, Features]:
        """Rows of the distinct users and items, and the keys that the loss needs."""
        queries, query_of = self._queries(positions)
        users = queries[USER_ROW]
        draw_seed = stateless_fold_in(seed, 1 << 20)
        items, features = self._candidates(positions, draw_seed)
        features[QUERY_OF] = query_of
        features[SEED] = stateless_fold_in(seed, (1 << 20) + 1)
        if self.known is not None:
            features[KNOWN] = false_negatives(users, items, self.known, self.n_items)
        if self.positives_per_user is not None:
            # A weight of 0 marks what fills up a batch, see `shuffled_batches`.
            counted = tf.ones([tf.size(query_of)]) if weight is None else tf.sign(weight)
            here = tf.math.unsorted_segment_sum(counted, query_of, tf.size(users))
            features[SHARE] = here / tf.gather(self.positives_per_user, users)
        return {**queries, ITEM_ROW: items}, features

    def _queries(self, positions: Features) -> tuple[Features, tf.Tensor]:
        """Rows of the distinct users, with the contexts if there are any, and who has which."""
        if not self.n_contexts:
            users, query_of = tf.unique(positions[USER_ROW])
            return {USER_ROW: users}, query_of
        user, context = (tf.cast(positions[name], tf.int64) for name in (USER_ROW, CONTEXT_ROW))
        codes, query_of = tf.unique(user * self.n_contexts + context)
        queries = {USER_ROW: codes // self.n_contexts, CONTEXT_ROW: codes % self.n_contexts}
        return {name: tf.cast(rows, tf.int32) for name, rows in queries.items()}, query_of

    def _candidates(self, positions: Features, seed: tf.Tensor) -> tuple[tf.Tensor, Features]:
        """Rows of the distinct items, positives and negatives, and who has them how often."""
        positives = positions[ITEM_ROW]
        n = tf.size(positives)
        if self.draw_own is not None:
            own = tf.cast(self.draw_own(positions[USER_ROW], seed), positives.dtype)
            items, place = tf.unique(tf.concat([positives, tf.reshape(own, [-1])], 0))
            negative_of = tf.reshape(place[n:], tf.shape(own))
            count = tf.ones_like(items, tf.float32)
            return items, {NEGATIVE_OF: negative_of, POSITIVE_OF: place[:n], COUNT: count}
        drawn = None if self.sampler is None else self.sampler.draw(seed)
        if self.sampler is None or drawn is None:
            items, positive_of, count = tf.unique_with_counts(positives)
            return items, {POSITIVE_OF: positive_of, COUNT: count}
        drawn = tf.cast(drawn, positives.dtype)
        items, place = tf.unique(tf.concat([positives, drawn], 0))
        of_batch = tf.fill([n], float(self.sampler.in_batch))
        times = tf.concat([of_batch, tf.ones_like(drawn, tf.float32)], 0)
        count = tf.math.unsorted_segment_sum(times, place, tf.size(items))
        return items, {POSITIVE_OF: place[:n], COUNT: count}

    def _without_positives(
        self, histories: tf.Tensor, items: tf.Tensor, features: Features
    ) -> tf.Tensor:
        """Remove each user's positives in the batch, of the item rows `items`, from `histories`."""
        codes = tf.gather(self.tables[ITEM_ROW][self.item_id][:, 0], items)
        return _remove(histories, features[QUERY_OF], tf.gather(codes, features[POSITIVE_OF]))


def _without_padding(lists: tf.Tensor) -> tf.Tensor:
    """Cut `lists` int32 [n, w], padded at the right, to the width of the longest one, 1 or more."""
    width = tf.reduce_max(tf.reduce_sum(tf.cast(lists != PADDING, tf.int32), axis=1))
    return lists[:, : tf.maximum(width, 1)]


def _remove(lists: tf.Tensor, rows: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Replace `values` [m] by padding in `lists` int32 [n, w], each in its own of `rows` [m]."""
    places = tf.where(lists != PADDING)
    base = tf.cast(tf.maximum(tf.reduce_max(lists), tf.reduce_max(values)) + 1, tf.int64)
    keys = tf.sort(tf.cast(rows, tf.int64) * base + tf.cast(values, tf.int64))
    wanted = places[:, 0] * base + tf.cast(tf.gather_nd(lists, places), tf.int64)
    found = tf.gather(keys, tf.minimum(tf.searchsorted(keys, wanted), tf.size(keys) - 1)) == wanted
    taken = tf.boolean_mask(places, found)
    return tf.tensor_scatter_nd_update(lists, taken, tf.zeros([tf.shape(taken)[0]], lists.dtype))


def _hide(values: tf.Tensor, rate: tf.Tensor | float, seed: tf.Tensor) -> tf.Tensor:
    """Replace each of `values` [n, w] by the out-of-vocabulary code with the probability `rate`."""
    oov = tf.constant(OUT_OF_VOCABULARY, values.dtype)
    return tf.where(tf.random.stateless_uniform(tf.shape(values), seed) < rate, oov, values)
