"""The networks of the ranking model with two nested labels: ESMM, MMoE and PLE.

The first label is that the user interacts with the item, the second one that this interaction is a
positive. Each network returns the logit of the first label, and that of the second one given the
first; `base.served_logit` combines them. All are trained on all rows: trained on interactions only,
the second label would be learned from the items that users choose, and served for all others.
"""

from __future__ import annotations

import tensorflow as tf

from twotower.models.ranking.base import RankingNetwork, hidden_layers
from twotower.models.towers.blocks import apply_layers

LABELS = ("first", "second")


class ESMM(RankingNetwork):
    """ReLU layers for each label over shared embeddings (Ma et al., SIGIR 2018)."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._layers = {
            name: [
                *hidden_layers(self.config.hidden, self.config.dropout),
                tf.keras.layers.Dense(1),
            ]
            for name in LABELS
        }

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        x = tf.concat([users, items, features], axis=1)
        logits = [apply_layers(self._layers[name], x, training) for name in LABELS]
        return tf.concat(logits, axis=1)


class Experts(RankingNetwork):
    """Base class of networks with experts: one of Merlin's blocks, then a layer per label."""

    def __init__(self, *args, **kwargs) -> None:
        from merlin.models.tf.blocks.mlp import MLPBlock

        super().__init__(*args, **kwargs)
        self._experts = self._block(MLPBlock(self.config.hidden, dropout=self.config.dropout))
        self._outputs = {name: tf.keras.layers.Dense(1) for name in LABELS}

    def _block(self, expert: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        """Return the block with copies of an expert: [n, d] -> {label: [n, hidden]}."""
        raise NotImplementedError

    def _logits(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool
    ) -> tf.Tensor:
        mixed = self._experts(tf.concat([users, items, features], axis=1), training=training)
        return tf.concat([self._outputs[name](mixed[name]) for name in LABELS], axis=1)


class MMoE(Experts):
    """Experts that all labels share, mixed by a gate per label (Ma et al., KDD 2018)."""

    def _block(self, expert: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        from merlin.models.tf.blocks.experts import MMOEBlock

        return MMOEBlock(outputs=list(LABELS), expert_block=expert, num_experts=self.config.experts)


class PLE(Experts):
    """Layers of shared experts and of experts per label (Tang et al., RecSys 2020)."""

    def _block(self, expert: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        from merlin.models.tf.blocks.experts import PLEBlock

        return PLEBlock(
            num_layers=self.config.expert_layers,
            outputs=list(LABELS),
            expert_block=expert,
            num_task_experts=self.config.experts,
            num_shared_experts=self.config.experts,
        )
