"""The network IntTower: layers of a user tower meet an item tower (Li et al., CIKM 2022).

Two towers compare one vector of a user with one of an item. Here each hidden layer of the user
tower has several vectors, its heads, and each picks the most similar head of the item.
"""

from __future__ import annotations

import tensorflow as tf

from twotower.models.ranking.base import Columns, RankingNetwork, hidden_layers
from twotower.models.towers.blocks import apply_layers


class IntTower(RankingNetwork):
    """Products of the heads of user layers with those of the last item layer, plus ReLU layers.

    The user part has the heads of all layers of the user tower, the item part those of the last
    layer of the item tower. The ReLU layers read the features of candidates. The paper's block that
    weighs the input features (Light-SE) and its contrastive loss are left out: the towers of the
    first stage are where such a loss belongs.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        dense, width = tf.keras.layers.Dense, self.config.heads * self.config.feature_dim
        self._user_layers = [dense(size, activation="relu") for size in self.config.hidden]
        self._user_heads = [dense(width, use_bias=False) for _ in self.config.hidden]
        self._item_layers = [dense(size, activation="relu") for size in self.config.hidden]
        self._item_heads = dense(width, use_bias=False)
        self._rest = hidden_layers(self.config.hidden, self.config.dropout)
        self._output = dense(1)

    def user_part(self, columns: Columns) -> tf.Tensor:
        x, heads = super().user_part(columns), []
        for layer, project in zip(self._user_layers, self._user_heads, strict=True):
            x = layer(x)
            heads.append(project(x))
        return tf.concat(heads, axis=1)

    def item_part(self, columns: Columns) -> tf.Tensor:
        x = super().item_part(columns)
        return self._item_heads(apply_layers(self._item_layers, x, training=False))

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        met = interaction(users, items, self.config.heads, self.config.feature_dim)
        return met[:, None] + self._output(apply_layers(self._rest, features, training))


def interaction(users: tf.Tensor, items: tf.Tensor, heads: int, dim: int) -> tf.Tensor:
    """Return the sum, over layers and heads of the user, of the largest product with an item head.

    Parameters
    ----------
    users : tf.Tensor of float32, shape (n, layers * heads * dim)
    items : tf.Tensor of float32, shape (n, heads * dim)
    heads, dim : int
        The number of heads and the length of each.

    Returns
    -------
    tf.Tensor of float32, shape (n,)

    Notes
    -----
    This is the FE block of the paper, with the products divided by the root of `dim`, so that the
    logits begin at the scale of the other networks'.
    """
    own = tf.reshape(users, [-1, users.shape[1] // dim, dim])
    other = tf.reshape(items, [-1, heads, dim])
    products = tf.matmul(own, other, transpose_b=True) / dim**0.5
    return tf.reduce_sum(tf.reduce_max(products, axis=2), axis=1)
