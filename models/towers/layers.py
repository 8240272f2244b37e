"""Keras layers that Merlin lacks: features by row inside the model, mean over a multi-hot row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from tensorflow.random.experimental import stateless_fold_in

from twotower.models.objective.negatives import false_negatives
from twotower.models.objective.softmax import (
    COUNT,
    KNOWN,
    NEGATIVE_OF,
    POSITIVE_OF,
    QUERY_OF,
    ROW,
    SEED,
    SHARE,
)

PADDING, OUT_OF_VOCABULARY = 0, 2  # NVTabular's Categorify: 0 padding, 1 null, 2 out of vocabulary
SMALL_TABLE = 256  # rows; on two cores 1,024 rows of a batch then cost less by product than by row
DIVISORS = {"mean": lambda n: n, "sqrtn": tf.sqrt, "sum": tf.ones_like}
LEAST_SCORE = -1e9  # of what an attention leaves out: finite, a list of nothing else is no NaN
USER_ROW, ITEM_ROW = "user_row", "item_row"  # what a training batch holds: positions in the tables


class ListPooling(tf.keras.layers.Layer):
    """What makes a vector of a list's embeddings when it has to see them side by side.

    Called with the embeddings float32 [n, length, dim] and with `known` float32 [n, length], 1 for
    the values that count and 0 for the others, it answers float32 [n, dim].
    """


@tf.keras.utils.register_keras_serializable(package="twotower")
class MultiHotEmbedding(mm.EmbeddingTable):
    """An embedding table whose padded rows are averaged over the values that are there.

    Input int [n, 1] -> float32 [n, dim], one value a row; input int [n, length, 1] (what Merlin
    makes of [n, length]), padded with 0 -> float32 [n, dim], the mean over the known values or,
    by `sequence_combiner`, their "sum" or "sqrtn", zeros when there are none. Merlin's own
    combiner for dense rows would average the padding in; its ragged path is slow on a CPU.
    Unknown values are left out: they were never trained.

    With a layer in the place of `sequence_combiner`, which gives embeddings [..., dim] scores
    [...], it is the mean weighted by the softmax of the known values' scores; with a `ListPooling`
    what that makes of them.

    A table of at most SMALL_TABLE rows is multiplied by how often a row of the batch has each
    value. That is the same, and its gradient has a row for each value of the table; of gathered
    rows it would have one for each value of the batch, to be sorted and added up.
    """

    def _call_table(self, inputs, training=False, **kwargs):
        multi_hot, small = inputs.shape.rank > 2, self.input_dim <= SMALL_TABLE
        if not multi_hot and not small:
            return super()._call_table(inputs, **kwargs)
        table, values = self.table.embeddings, tf.squeeze(inputs, axis=-1)
        at_once = multi_hot and isinstance(self.sequence_combiner, ListPooling)
        if multi_hot:
            known = tf.logical_and(values != PADDING, values != OUT_OF_VOCABULARY)
            known = tf.cast(known, table.dtype)
        if multi_hot and not at_once:
            if isinstance(self.sequence_combiner, tf.keras.layers.Layer):
                scores = self._scores(values, small, training)
                share = tf.nn.softmax(tf.where(known > 0, scores, LEAST_SCORE)) * known
            else:
                divisor = tf.maximum(tf.reduce_sum(known, axis=1, keepdims=True), 1.0)
                share = known / DIVISORS[self.sequence_combiner or "mean"](divisor)
        if at_once:
            out = self.sequence_combiner(tf.gather(table, values), known)
        elif small:
            parts = tf.one_hot(values, self.input_dim)
            if multi_hot:
                parts = tf.reduce_sum(parts * share[..., None], axis=1)
            out = tf.matmul(parts, table)
        elif training:
            out = _sparse_bag(table, values, share)
        else:
            # Plain enough for ONNX.
            out = tf.matmul(share[:, None, :], tf.gather(table, values))[:, 0]
        if self.l2_batch_regularization_factor > 0:
            self.add_loss(self.l2_batch_regularization_factor * tf.reduce_sum(tf.square(out)))
        return out

    def _scores(self, values: tf.Tensor, small: bool, training: bool) -> tf.Tensor:
        """Of `values` [n, length]; in training each different value is scored once."""
        table = self.table.embeddings
        if small:
            return tf.gather(self.sequence_combiner(table), values)
        if not training:
            return self.sequence_combiner(tf.gather(table, values))
        different, place = tf.unique(tf.reshape(values, [-1]))
        scores = self.sequence_combiner(tf.gather(table, different))
        return tf.gather(scores, tf.reshape(place, tf.shape(values)))


def _sparse_bag(table: tf.Variable, values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Sum of `share` [n, length] times the rows `values` of the table, without the zeros of it.

    The embeddings of long lists are never in memory side by side, nor is their gradient.
    """
    places = tf.where(share > 0)
    size = tf.shape(values, out_type=tf.int64)
    given = tf.SparseTensor(places, tf.gather_nd(values, places), size)
    weights = tf.SparseTensor(places, tf.gather_nd(share, places), size)
    return tf.nn.safe_embedding_lookup_sparse(table, given, weights, combiner="sum")


class FeatureLookup(tf.keras.layers.Layer):
    """Looks up features: {user_row, item_row} int [n] -> every encoded column [n, w].

    Passed to `fit(pre=...)`, so that batches carry two integers per interaction and features are
    gathered in the training graph; the saved towers do not contain it. In training the columns
    have one row per distinct user or item, and the rows of each interaction are added for
    `grouped_softmax`.

    Values become out-of-vocabulary at random, which trains the embeddings used for unknown users,
    cold items and unseen values: the item id with its row's probability in `hide_item_id`, every
    other single code with probability `dropout`. Numbers (float32) stay: an unknown one is 0, the
    mean. The columns `lists` stay, too; a list may be one value wide, so names say which are
    lists. From the column `history`, a user's items, the user's positives in the batch are removed
    to avoid target leakage, and the others become out-of-vocabulary with probability
    `history_dropout`. What is hidden in a step follows from `seed` and the number of the step,
    `step()`.

    With `draw` there are more negatives: item rows int32 [m] by a seed, each as often as it is
    drawn; without `in_batch` the batch's own positives are none. With `draw_own` each interaction
    has negatives of its own: item rows int32 [n, m] by the user rows int [n] and a seed. `known`
    are all train positives (see `known_pairs`), from which the batch's false negatives follow;
    `positives_per_user` float [n_users], from which it follows which share of each user's positives
    the batch has. `views` makes more features of the item table's columns and a seed (see
    `item_views`).
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
        lists: Collection[str] = (),
        history: str | None = None,
        history_dropout: float = 0.0,
        draw: Callable[[tf.Tensor], tf.Tensor] | None = None,
        draw_own: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        in_batch: bool = True,
        known: np.ndarray | None = None,
        positives_per_user: np.ndarray | None = None,
        views: Callable[[Mapping[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seed, self.step, self.lists = seed, step, frozenset(lists)
        self.history, self.history_dropout = history, history_dropout
        self.tables = {
            USER_ROW: {name: tf.constant(values) for name, values in users.items()},
            ITEM_ROW: {name: tf.constant(values) for name, values in items.items()},
        }
        self.item_id = item_id
        self.draw, self.draw_own, self.in_batch, self.views = draw, draw_own, in_batch, views
        self.n_items = len(next(iter(items.values())))
        self.known = None if known is None else tf.constant(known)
        self.positives_per_user = None
        if positives_per_user is not None:
            self.positives_per_user = tf.constant(positives_per_user, tf.float32)
        self.hide_item_id = tf.constant(hide_item_id[:, None])
        self.dropout = dropout

    def call(self, inputs, training=False):
        positions = {rows: tf.reshape(inputs[rows], [-1]) for rows in self.tables}
        features = {}
        seed = stateless_fold_in([self.seed, 0], self.step())
        if training:
            positions, features = self._batch(positions, seed)
            query_of, positive_of = features[QUERY_OF], features[POSITIVE_OF]
            items = positions[ITEM_ROW]
        for rows, tables in self.tables.items():
            for name, table in tables.items():
                values = tf.gather(table, positions[rows])
                if training and name == self.history:
                    codes = tf.gather(self.tables[ITEM_ROW][self.item_id][:, 0], items)
                    values = _without(values, query_of, tf.gather(codes, positive_of))
                    seed_of = stateless_fold_in(seed, len(features))
                    values = _hide(values, self.history_dropout, seed_of)
                elif training and name not in self.lists and values.dtype.is_integer:
                    rate = (
                        tf.gather(self.hide_item_id, positions[rows])
                        if name == self.item_id
                        else self.dropout
                    )
                    values = _hide(values, rate, stateless_fold_in(seed, len(features)))
                features[name] = values
        # Last: the seeds of what is hidden above count the features.
        if training:
            features[ROW] = items
        if training and self.views is not None:
            seed = stateless_fold_in(seed, (1 << 20) + 2)
            features.update(self.views(self.tables[ITEM_ROW], seed))
        return features

    def _batch(
        self, positions: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """The rows of each different user and item, and what the loss needs to know of a batch."""
        n, positives = tf.size(positions[ITEM_ROW]), positions[ITEM_ROW]
        users, query_of = tf.unique(positions[USER_ROW])
        draw_seed = stateless_fold_in(seed, 1 << 20)
        features = {}
        if self.draw_own is not None:
            own = tf.cast(self.draw_own(positions[USER_ROW], draw_seed), positives.dtype)
            items, place = tf.unique(tf.concat([positives, tf.reshape(own, [-1])], 0))
            positive_of, count = place[:n], tf.ones_like(items, tf.float32)
            features[NEGATIVE_OF] = tf.reshape(place[n:], tf.shape(own))
        elif self.draw is not None:
            drawn = tf.cast(self.draw(draw_seed), positives.dtype)
            items, place = tf.unique(tf.concat([positives, drawn], 0))
            positive_of = place[:n]
            of_batch = tf.fill([n], float(self.in_batch))
            times = tf.concat([of_batch, tf.ones_like(drawn, tf.float32)], 0)
            count = tf.math.unsorted_segment_sum(times, place, tf.size(items))
        else:
            items, positive_of, count = tf.unique_with_counts(positives)
        features |= {QUERY_OF: query_of, POSITIVE_OF: positive_of, COUNT: count}
        features[SEED] = stateless_fold_in(seed, (1 << 20) + 1)
        if self.known is not None:
            features[KNOWN] = false_negatives(users, items, self.known, self.n_items)
        if self.positives_per_user is not None:
            here = tf.math.unsorted_segment_sum(tf.ones([n]), query_of, tf.size(users))
            features[SHARE] = here / tf.gather(self.positives_per_user, users)
        return {USER_ROW: users, ITEM_ROW: items}, features


def _without(lists: tf.Tensor, rows: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`lists` int32 [n, w], padded with 0, without (0 in its place) `values` [m] in `rows` [m]."""
    width = tf.reduce_max(tf.reduce_sum(tf.cast(lists != PADDING, tf.int32), axis=1))
    lists = lists[:, : tf.maximum(width, 1)]
    places = tf.where(lists != PADDING)
    base = tf.cast(tf.maximum(tf.reduce_max(lists), tf.reduce_max(values)) + 1, tf.int64)
    keys = tf.sort(tf.cast(rows, tf.int64) * base + tf.cast(values, tf.int64))
    asked = places[:, 0] * base + tf.cast(tf.gather_nd(lists, places), tf.int64)
    found = tf.gather(keys, tf.minimum(tf.searchsorted(keys, asked), tf.size(keys) - 1)) == asked
    taken = tf.boolean_mask(places, found)
    return tf.tensor_scatter_nd_update(lists, taken, tf.zeros([tf.shape(taken)[0]], lists.dtype))


def _hide(values: tf.Tensor, rate: tf.Tensor | float, seed: tf.Tensor) -> tf.Tensor:
    """`values` [n, w], each out-of-vocabulary with probability `rate`."""
    oov = tf.constant(OUT_OF_VOCABULARY, values.dtype)
    return tf.where(tf.random.stateless_uniform(tf.shape(values), seed) < rate, oov, values)


@tf.keras.utils.register_keras_serializable(package="twotower")
class ResumableDropout(tf.keras.layers.Layer):
    """Dropout that goes on as it would have when training goes on from a checkpoint.

    Keras's keeps its random state out of checkpoints. Here it is a weight: a stream drawn at the
    start and the number of calls in training.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, input_shape):
        """Draw the stream."""
        self.state = self.add_weight(
            "state",
            shape=[2],
            dtype=tf.int32,
            trainable=False,
            initializer=lambda shape, dtype: tf.random.uniform([2], 0, 1 << 30, dtype),
        )

    def call(self, inputs, training=False):
        if not training:
            return inputs
        seed = self.state.assign_add([0, 1])
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed)

    def get_config(self):
        """What `from_config` needs."""
        return {**super().get_config(), "rate": self.rate}
