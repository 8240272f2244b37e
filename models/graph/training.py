"""Training of vectors on the graph of users and items; a batch has all positives of some users."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import tensorflow as tf
from merlin.schema import Tags
from tensorflow.random.experimental import stateless_fold_in

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.cold_items import fill_cold_items
from twotower.models.errors import ModelError
from twotower.models.graph.propagation import Graph
from twotower.models.objective.sampling import sample_distinct
from twotower.models.objective.softmax import grouped_softmax
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.training.solved import set_vectors
from twotower.models.two_tower import embedding_tables, history_column

START_DEVIATION = 0.1
"""Standard deviation of the vectors at the start."""
MAX_PAIRS = 1 << 28
"""Users of a batch times items: their scores are not stored, but what is known of them is."""


class Vectors(tf.Module):
    """The trained vectors, before propagation.

    Attributes
    ----------
    users, items : Variable of float32, shape (n, dim)
    """

    def __init__(self, users: np.ndarray, items: np.ndarray) -> None:
        super().__init__()
        self.users = tf.Variable(users, dtype=tf.float32)
        self.items = tf.Variable(items, dtype=tf.float32)


class GraphTrainer:
    """Trains the vectors of `model.graph`, one step after another.

    Parameters
    ----------
    tower : TwoTower
        If it has a history, it was trained before, and the vectors start from its tables.
    data : TrainingData
    config : TrainingConfig

    Attributes
    ----------
    vectors : Vectors

    Raises
    ------
    ModelError
        If no positive is of a known item.

    Notes
    -----
    The loss is the mean over the positives of the cross-entropy of the item among all items but the
    user's other positives. Scores are cosines of propagated vectors, divided by the temperature.
    """

    def __init__(self, tower: TwoTower, data: TrainingData, config: TrainingConfig) -> None:
        assert tower.config.graph is not None
        self.tower, self.data, self.config = tower, data, config
        self.graph_config = tower.config.graph
        item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
        is_known = (data.items[item_id][:, 0] > OUT_OF_VOCABULARY)[data.item_rows]
        if not is_known.any():
            raise ModelError("model.graph trains known items, but no positive is of one")
        chosen = np.flatnonzero(is_known)
        chosen = chosen[np.argsort(data.user_rows[chosen], kind="stable")]
        self.user_rows, users = np.unique(data.user_rows[chosen], return_inverse=True)
        self.item_rows, self.items = np.unique(data.item_rows[chosen], return_inverse=True)
        self.offsets = np.append(0, np.cumsum(np.bincount(users)))
        self.weights = np.ones(len(chosen), np.float32)
        if data.weights is not None:
            self.weights = np.asarray(data.weights[chosen], np.float32)
        n_users, n_items = len(self.user_rows), len(self.item_rows)
        self.graph = Graph(users, self.items, n_users, n_items)
        self.vectors = self._trained_before() if tower.history else self._random()

    @property
    def variables(self) -> list[tf.Variable]:
        """What the optimizer changes."""
        return [self.vectors.users, self.vectors.items]

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has, about."""
        return len(self.batches(0))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the users of each batch of an epoch, from 0; a user is in one batch.

        A batch has about `batch_size` positives, and fewer if it would have very many users.
        """
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.user_rows))
        ends = np.cumsum(np.diff(self.offsets)[order])
        most = max(1, MAX_PAIRS // len(self.item_rows))
        parts = np.maximum(ends // self.config.batch_size, np.arange(len(order)) // most)
        return np.split(order, np.flatnonzero(np.diff(parts)) + 1)

    def step(self, batch: np.ndarray) -> float:
        """Train on all positives of the users in `batch`, and return their loss."""
        counts = np.diff(self.offsets)[batch]
        starts = self.offsets[batch] - np.append(0, np.cumsum(counts)[:-1])
        places = np.repeat(starts, counts) + np.arange(counts.sum())
        query_of = np.repeat(np.arange(len(batch)), counts)
        inputs = (batch, query_of, self.items[places], self.weights[places])
        return float(self._compiled_step(*[tf.constant(each) for each in inputs]))

    def finish_epoch(self) -> None:
        """Set the weights of the towers to the propagated vectors.

        Notes
        -----
        With e the trained vectors, n the number of edges, and k propagations of them e(k), a user's
        sum over the layers times sqrt(n_u) is sqrt(n_u) e_u plus the sum over the user's items of
        (e_i(0) + ... + e_i(K - 1)) / sqrt(n_i). The latter are the vectors of the history, so that
        a new user is answered as one with e_u = 0.
        """
        layers = self.graph.layers(self.vectors.users, self.vectors.items, self.graph_config.layers)
        user_sums = tf.add_n([users for users, _ in layers]).numpy()
        but_last = tf.add_n([items for _, items in layers[:-1]]).numpy()
        history = but_last * self.graph.item_scale
        item_sums = but_last + layers[-1][1].numpy()
        lengths = np.linalg.norm(item_sums, axis=1, keepdims=True)
        item_sums *= np.maximum(lengths, 1e-12) ** (self.graph_config.length_power - 1)
        user_sums /= self.graph.user_scale
        set_vectors(
            self.tower,
            self.data,
            history=_at_rows(history, self.item_rows, self.data.n_items),
            candidates=_at_rows(item_sums, self.item_rows, self.data.n_items),
            users=_at_rows(user_sums, self.user_rows, self.data.n_users),
        )
        fill_cold_items(self.tower, self.data)

    def _random(self) -> Vectors:
        draw, dim = np.random.default_rng(self.config.seed).normal, self.tower.config.dim
        sizes = len(self.user_rows), len(self.item_rows)
        users, items = (START_DEVIATION * draw(size=(n, dim)) for n in sizes)
        return Vectors(users, items)

    def _trained_before(self) -> Vectors:
        """The vectors that the tables of the towers were computed from, see `finish_epoch`.

        With more than 2 layers, or with other edges than then, they are near these.
        """
        schema = self.tower.schema
        user_id, item_id = (
            schema.select_by_tag(tag).first.name for tag in (Tags.USER_ID, Tags.ITEM_ID)
        )
        history = history_column(schema)
        assert history is not None
        tables = embedding_tables(self.tower.model)
        user_codes = self.data.users[user_id][self.user_rows, 0]
        item_codes = self.data.items[item_id][self.item_rows, 0]
        users = tables[user_id].table.embeddings.numpy()[user_codes] * self.graph.user_scale
        items = tables[history].table.embeddings.numpy()[item_codes] / self.graph.item_scale
        # The history has all layers of an item but the last one: take off those of the users.
        if self.graph_config.layers > 1:
            items -= self.graph.layers(users, np.zeros_like(items), 1)[1][1].numpy()
        return Vectors(users, items)

    @cached_property
    def _compiled_step(self) -> Callable[..., tf.Tensor]:
        vector = tf.TensorSpec([None], tf.int64)
        signature = [vector, vector, vector, tf.TensorSpec([None], tf.float32)]
        return tf.function(input_signature=signature, autograph=False)(self._update_vectors)

    def _update_vectors(
        self, users: tf.Tensor, query_of: tf.Tensor, positives: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        optimizer = self.tower.model.optimizer
        seed = stateless_fold_in([self.config.seed, 1], optimizer.iterations)
        with tf.GradientTape() as tape:
            loss = self._loss(users, query_of, positives, weights, seed)
        gradients = tape.gradient(loss, self.variables)
        optimizer.apply_gradients(zip(gradients, self.variables, strict=True))
        return loss

    def _loss(
        self,
        users: tf.Tensor,
        query_of: tf.Tensor,
        positives: tf.Tensor,
        weights: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        of_users, of_items = self.graph.sums(
            self.vectors.users, self.vectors.items, self.graph_config.layers
        )
        n_items = len(self.item_rows)
        negatives = min(self.graph_config.negatives or n_items, n_items)
        if negatives < n_items:
            drawn = sample_distinct(negatives, n_items, seed)
            items, place = tf.unique(tf.concat([tf.cast(drawn, tf.int64), positives], 0))
            of_items, positives = tf.gather(of_items, items), place[negatives:]
            # A drawn item stands for n_items / negatives items (Jean et al., ACL 2015). A positive
            # that was not drawn is a negative of no other user.
            is_drawn = tf.range(tf.size(items)) < negatives
            count = tf.where(is_drawn, n_items / negatives, 0.0)
        else:
            count = tf.ones([n_items])
        queries = tf.math.l2_normalize(tf.gather(of_users, users), axis=1)
        pairs = tf.stack([query_of, tf.cast(positives, tf.int64)], axis=1)
        known = tf.zeros([tf.size(users), tf.size(count)], tf.bool)
        known = tf.tensor_scatter_nd_update(known, pairs, tf.ones_like(query_of, tf.bool))
        config = self.tower.config
        return grouped_softmax(
            queries,
            tf.math.l2_normalize(of_items, axis=1),
            query_of,
            positives,
            count,
            temperature=config.temperature,
            weight=weights,
            known=known,
            precision=tf.as_dtype(config.softmax_precision),
        )


def _at_rows(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """A table of `n` rows with `values` at `rows`, and zeros elsewhere."""
    table = np.zeros((n, values.shape[1]), np.float32)
    table[rows] = values
    return table
