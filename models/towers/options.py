"""The kinds of hidden layers and of list pooling, by their names in the settings.

A new kind is one layer class, in `blocks` or `pooling`, and one entry in a table here. TensorFlow
is imported only when a layer is made, because settings are checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twotower.models.errors import ModelError

if TYPE_CHECKING:
    import tensorflow as tf
    from merlin.schema import ColumnSchema

MAX_ATTENTION_LENGTH = 200
"""Longest list for self-attention: for 4,096 users its attention weights take 650 MB."""


@dataclass(frozen=True)
class Option:
    """A value of a setting: what the setting's description says about it, and what makes it."""

    summary: str
    make: Callable[..., Any]


def _mlp(widths: Sequence[int], dropout: float) -> list[tf.keras.layers.Layer]:
    import merlin.models.tf as mm

    from twotower.models.towers.blocks import dropout_layers

    return [layer for width in widths for layer in (mm.MLPBlock([width]), *dropout_layers(dropout))]


def _residual(widths: Sequence[int], dropout: float) -> list[tf.keras.layers.Layer]:
    from twotower.models.towers.blocks import ResidualLayer

    return [ResidualLayer(width, dropout) for width in widths]


def _cross(widths: Sequence[int], dropout: float) -> list[tf.keras.layers.Layer]:
    from twotower.models.towers.blocks import CrossLayers

    return [CrossLayers(widths, dropout)]


HIDDEN_LAYERS = {
    "mlp": Option("ReLU layers of these widths", _mlp),
    "residual": Option(
        "each adds to its input a ReLU layer of this width, projected back", _residual
    ),
    "cross": Option("DCN-v2 cross layers, whose weight matrices have these ranks", _cross),
}
"""Values of `model.layers`; each makes a list of layers from their widths and the dropout rate."""


def _attention(column: ColumnSchema) -> tf.keras.layers.Layer:
    from twotower.models.towers.pooling import AttentionScore

    return AttentionScore()


def _self_attention(column: ColumnSchema) -> tf.keras.layers.Layer:
    from twotower.models.towers.pooling import SelfAttention

    length = int(column.value_count.max)
    if length > MAX_ATTENTION_LENGTH:
        raise ModelError(
            "model.history_pooling: self_attention compares all values of a list with each other; "
            f"{column.name} has up to {length}: set features.history to at most "
            f"{MAX_ATTENTION_LENGTH}"
        )
    return SelfAttention(length)


POOLINGS = {
    "sum": Option("their sum", lambda column: "sum"),
    "mean": Option("their mean", lambda column: "mean"),
    "sqrtn": Option("their sum divided by the square root of their number", lambda column: "sqrtn"),
    "attention": Option("their mean, weighted by learned attention weights", _attention),
    "self_attention": Option(
        "their mean after one self-attention block, for histories of at most "
        f"{MAX_ATTENTION_LENGTH} items",
        _self_attention,
    ),
}
"""Values of `model.history_pooling`; each makes a list column's combiner from its schema."""
