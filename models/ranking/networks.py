"""The networks of the ranking model with one label: MLP, DCN-v2, DLRM and DeepFM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from twotower.models.errors import ModelError
from twotower.models.ranking.base import Columns, RankingNetwork, hidden_layers
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.inttower import IntTower
from twotower.models.ranking.multitask import ESMM, PLE, MMoE
from twotower.models.ranking.options import lacks_embeddings
from twotower.models.towers.blocks import CrossLayers, apply_layers

if TYPE_CHECKING:
    from merlin.schema import Schema


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
        self._rest = hidden_layers(rest, self.config.dropout)
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
        self._rest = hidden_layers(self.config.hidden, self.config.dropout)
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
        self._bottom = hidden_layers([*self.config.hidden[:1], self.config.feature_dim], 0.0)
        self._top = hidden_layers(self.config.hidden, self.config.dropout)
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
        self._rest = hidden_layers(self.config.hidden, self.config.dropout)
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
    "esmm": ESMM,
    "mmoe": MMoE,
    "ple": PLE,
    "inttower": IntTower,
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
        If the network needs embeddings that there are not, see `lacks_embeddings`.
    """
    assert config.model is not None
    if wrong := lacks_embeddings(config.model, len(users), len(items)):
        raise ModelError(wrong)
    tf.keras.utils.set_random_seed(seed)
    kind = NETWORK_CLASSES[config.model]
    return kind(users, items, means.astype(np.float32), deviations.astype(np.float32), config)


def _dot_products(fields: tf.Tensor) -> tf.Tensor:
    """Return the dot products of all pairs of fields: [n, f, d] -> [n, f (f - 1) / 2]."""
    count = fields.shape[1]
    products = tf.reshape(tf.matmul(fields, fields, transpose_b=True), [-1, count * count])
    first, second = np.triu_indices(count, k=1)
    return tf.gather(products, (first * count + second).astype(np.int32), axis=1)
