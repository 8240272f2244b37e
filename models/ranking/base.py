"""The base of the networks of the ranking model: embeddings, features, and the three parts.

A network has three parts, so that the server computes each only as often as it must: the user part
once per user, the item part once per version, and the head for each candidate of each user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from twotower.models.ranking.config import RankingConfig

if TYPE_CHECKING:
    from merlin.schema import Schema

Columns = Mapping[str, tf.Tensor]
MAX_DEVIATIONS = 5.0
"""Features that are farther from their mean, in standard deviations, count as if they were here."""


class Network(Protocol):
    """The parts of a network: one being trained, or one that was saved."""

    user_columns: list[str]
    item_columns: list[str]

    def user_part(self, columns: Columns) -> tf.Tensor:
        """Return what the head reads of users: columns int32 [n, width] -> float32 [n, d].

        A network without columns of users needs any column, for the number of rows.
        """

    def item_part(self, columns: Columns) -> tf.Tensor:
        """Return what the head reads of items, as `user_part` does of users."""

    def head(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the logits of candidates.

        Parameters
        ----------
        users, items : tf.Tensor of float32, shape (n, d)
            The parts of the user and of the item of each candidate.
        features : tf.Tensor of float32, shape (n, n_features)
        training : bool

        Returns
        -------
        tf.Tensor of float32, shape (n,)
        """


class RankingNetwork(tf.Module):
    """Base class: embeddings of the columns of users and items, and scaled features of candidates.

    A network has a logit per label; the head combines them, see `served_logit`.

    Parameters
    ----------
    users, items : Schema
        The categorical columns that are embedded, of users and of items; either may have none.
    means, deviations : ndarray of float32, shape (n_features,)
        By which the features of candidates are scaled.
    config : RankingConfig
    """

    def __init__(
        self,
        users: Schema,
        items: Schema,
        means: np.ndarray,
        deviations: np.ndarray,
        config: RankingConfig,
    ) -> None:
        super().__init__()
        self.config, self.means, self.deviations = config, means, deviations
        self.user_columns, self.item_columns = users.column_names, items.column_names
        self._user_tables, self._item_tables = (_tables(each, config) for each in (users, items))

    def user_part(self, columns: Columns) -> tf.Tensor:
        return _embedded(self._user_tables, self.user_columns, columns)

    def item_part(self, columns: Columns) -> tf.Tensor:
        return _embedded(self._item_tables, self.item_columns, columns)

    def head(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        return served_logit(self.label_logits(users, items, features, training))

    def label_logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the logits of each label, float32 [n, labels]; see `head` and `served_logit`."""
        scaled = (features - self.means) / self.deviations
        scaled = tf.clip_by_value(scaled, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        return self._logits(users, items, scaled, training)

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """Return `label_logits` from scaled features."""
        raise NotImplementedError

    def _fields(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Return the embeddings of each candidate, [n, columns, feature_dim]."""
        count = len(self.user_columns) + len(self.item_columns)
        both = tf.concat([users, items], axis=1)
        return tf.reshape(both, [-1, count, self.config.feature_dim])


def served_logit(logits: tf.Tensor) -> tf.Tensor:
    """Return the logit of the probability that all labels are true.

    Parameters
    ----------
    logits : tf.Tensor of float32, shape (..., labels)
        One label, or two: the logit a of the first one, and the logit b of the second one given
        the first.

    Returns
    -------
    tf.Tensor of float32, shape (...)

    Notes
    -----
    With p = sigmoid(a) sigmoid(b), 1 / p = (1 + exp(-a)) (1 + exp(-b)), so the logit of p is
    -log(1 / p - 1) = -log(exp(-a) + exp(-b) + exp(-a - b)), which does not overflow.
    """
    if logits.shape[-1] == 1:
        return logits[..., 0]
    first, second = logits[..., 0], logits[..., 1]
    return -tf.reduce_logsumexp(tf.stack([-first, -second, -first - second], axis=-1), axis=-1)


def _tables(schema: Schema, config: RankingConfig) -> dict[str, tf.keras.layers.Layer]:
    """Create the embedding table of each column."""
    from twotower.models.towers.embeddings import MultiHotEmbedding

    return {
        column.name: MultiHotEmbedding(config.feature_dim, column, sequence_combiner="mean")
        for column in schema
    }


def _embedded(
    tables: Mapping[str, tf.keras.layers.Layer], names: list[str], columns: Columns
) -> tf.Tensor:
    """Return the embeddings of columns, concatenated; without a column [n, 0]."""
    if not names:
        rows = tf.shape(next(iter(columns.values())))[0]
        return tf.zeros([rows, 0])
    parts = []
    for name in names:
        codes = columns[name]
        codes = codes[:, :, None] if codes.shape[1] != 1 else codes
        parts.append(tables[name](codes))
    return tf.concat(parts, axis=1)


def hidden_layers(widths: list[int], dropout: float) -> list[tf.keras.layers.Layer]:
    """Return a ReLU layer of each width, each followed by dropout."""
    layers: list[tf.keras.layers.Layer] = []
    for width in widths:
        layers.append(tf.keras.layers.Dense(width, activation="relu"))
        if dropout:
            layers.append(tf.keras.layers.Dropout(dropout))
    return layers
