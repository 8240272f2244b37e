"""The networks of the ranking model: MLP, DCN-v2, DLRM and DeepFM, on Merlin's embedding tables.

A network has three parts, so that the server computes each only as often as it must: the user part
once per user, the item part once per version, and the head for each candidate of each user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from twotower.models.errors import ModelError
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.options import NEED_EMBEDDINGS
from twotower.models.towers.blocks import CrossLayers, apply_layers

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
        scaled = (features - self.means) / self.deviations
        scaled = tf.clip_by_value(scaled, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        return self._logits(users, items, scaled, training)[:, 0]

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        raise NotImplementedError

    def _fields(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Return the embeddings of each candidate, [n, columns, feature_dim]."""
        count = len(self.user_columns) + len(self.item_columns)
        both = tf.concat([users, items], axis=1)
        return tf.reshape(both, [-1, count, self.config.feature_dim])


class MLP(RankingNetwork):
    """ReLU layers over the concatenated embeddings and features.

    The first layer is a sum of a product with each part, so the parts hold the products.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        width, *rest = self.config.hidden
        self._first = {
            name: tf.keras.layers.Dense(width, use_bias=name == "features")
            for name in ("user", "item", "features")
        }
        self._rest = _hidden_layers(rest, self.config.dropout)
        self._output = tf.keras.layers.Dense(1)

    def user_part(self, columns: Columns) -> tf.Tensor:
        embedded = super().user_part(columns)
        return self._first["user"](embedded) if self.user_columns else embedded

    def item_part(self, columns: Columns) -> tf.Tensor:
        embedded = super().item_part(columns)
        return self._first["item"](embedded) if self.item_columns else embedded

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        x = self._first["features"](features)
        x = x + users if self.user_columns else x
        x = x + items if self.item_columns else x
        x = tf.nn.relu(x)
        return self._output(apply_layers(self._rest, x, training))


class DCN(RankingNetwork):
    """Cross layers, then ReLU layers (DCN-v2, stacked: Wang et al., WWW 2021)."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        full = 1 << 20  # a rank above the width: the matrices are not factorised
        self._cross = CrossLayers([full] * self.config.cross_layers)
        self._rest = _hidden_layers(self.config.hidden, self.config.dropout)
        self._output = tf.keras.layers.Dense(1)

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        x = self._cross(tf.concat([users, items, features], axis=1), training=training)
        return self._output(apply_layers(self._rest, x, training))


class DLRM(RankingNetwork):
    """Dot products of the embeddings and a projection of the features (Naumov et al., 2019)."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._bottom = _hidden_layers([*self.config.hidden[:1], self.config.feature_dim], 0.0)
        self._top = _hidden_layers(self.config.hidden, self.config.dropout)
        self._output = tf.keras.layers.Dense(1)

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        bottom = apply_layers(self._bottom, features, training)
        fields = tf.concat([self._fields(users, items), bottom[:, None, :]], axis=1)
        x = tf.concat([bottom, _dot_products(fields)], axis=1)
        return self._output(apply_layers(self._top, x, training))


class DeepFM(RankingNetwork):
    """A factorization machine of embeddings and features, plus ReLU layers (Guo et al., 2017).

    The linear weight of a value is a product with its embedding.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._projection = tf.keras.layers.Dense(self.config.feature_dim, use_bias=False)
        self._linear = tf.keras.layers.Dense(1)
        self._rest = _hidden_layers(self.config.hidden, self.config.dropout)
        self._output = tf.keras.layers.Dense(1)

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        from merlin.models.tf.blocks.interaction import FMPairwiseInteraction

        concatenated = tf.concat([users, items, features], axis=1)
        projected = self._projection(features)[:, None, :]
        fields = tf.concat([self._fields(users, items), projected], axis=1)
        pairs = tf.reduce_sum(FMPairwiseInteraction()(fields), axis=1, keepdims=True)
        deep = self._output(apply_layers(self._rest, concatenated, training))
        return self._linear(concatenated) + pairs + deep


NETWORK_CLASSES: dict[str, type[RankingNetwork]] = {
    "mlp": MLP,
    "dcn": DCN,
    "dlrm": DLRM,
    "deepfm": DeepFM,
}
"""The class of each name of `options.NETWORKS`."""


def build_network(
    users: Schema,
    items: Schema,
    means: np.ndarray,
    deviations: np.ndarray,
    config: RankingConfig,
    seed: int = 42,
) -> RankingNetwork:
    """Create the network that `config.model` names; see `RankingNetwork` for the parameters.

    `seed` is that of TensorFlow from then on, so that of the initial weights.

    Raises
    ------
    ModelError
        If the network needs embeddings and there are none.
    """
    assert config.model is not None
    if config.model in NEED_EMBEDDINGS and not len(users) + len(items):
        raise ModelError(
            f"ranking.model {config.model} multiplies embeddings, but there are none: name "
            "features or ids in ranking.embedded, or choose mlp or dcn"
        )
    tf.keras.utils.set_random_seed(seed)
    kind = NETWORK_CLASSES[config.model]
    return kind(users, items, means.astype(np.float32), deviations.astype(np.float32), config)


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


def _hidden_layers(widths: list[int], dropout: float) -> list[tf.keras.layers.Layer]:
    """Return a ReLU layer of each width, each followed by dropout."""
    layers: list[tf.keras.layers.Layer] = []
    for width in widths:
        layers.append(tf.keras.layers.Dense(width, activation="relu"))
        if dropout:
            layers.append(tf.keras.layers.Dropout(dropout))
    return layers


def _dot_products(fields: tf.Tensor) -> tf.Tensor:
    """Return the dot products of all pairs of fields: [n, f, d] -> [n, f (f - 1) / 2]."""
    count = fields.shape[1]
    products = tf.reshape(tf.matmul(fields, fields, transpose_b=True), [-1, count * count])
    first, second = np.triu_indices(count, k=1)
    return tf.gather(products, (first * count + second).astype(np.int32), axis=1)
