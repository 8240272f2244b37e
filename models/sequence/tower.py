"""The query tower of a sequence model, from the history column to query vectors."""

from __future__ import annotations

import merlin.models.tf as mm
import tensorflow as tf
from merlin.models.tf.transforms.regularization import L2Norm
from merlin.schema import Schema

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.config import TwoTowerConfig
from twotower.models.sequence.config import SequenceConfig
from twotower.models.sequence.layers import GRU, Decay, Mean, SequenceLayer
from twotower.models.sequence.transformer import Transformer


class SequenceTower(tf.keras.layers.Layer):
    """Query vectors of histories: int [n, length] item codes, newest first -> float32 [n, dim].

    Padding and unknown items are left out, and so are items beyond the maximum length. A history
    without known items gets the vector `start`, which recommends popular items.

    Parameters
    ----------
    schema : Schema
        The history column alone.
    config : TwoTowerConfig
        With `sequence`.

    Attributes
    ----------
    items : Variable of float32, shape (cardinality, width)
        The input vector of each item code, which is not trained: see `inputs`, and
        `models.sequence.training.copy_item_vectors`. The width is `dim`, or 2 * `dim` if there is a
        vector for the newest item.
    own : Variable of float32, shape (cardinality, width), or None
        For kind `decay`: the part of each item's input vector that is its own.
    map : Variable of float32, shape (dim, width), or None
        For kind `decay`: what a candidate vector is multiplied by.
    start : Variable of float32, shape (dim,)
    layer : SequenceLayer
        What combines the vectors.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig, **kwargs):
        super().__init__(**kwargs)
        assert config.sequence is not None
        self.schema, self.column = schema, schema.first.name
        self.length = int(schema.first.value_count.max)
        sequence = config.sequence
        width = config.dim * (2 if sequence.last_item else 1)
        shape = [schema.first.int_domain.max + 1, width]
        self.items = self.add_weight("items", shape, initializer="uniform", trainable=False)
        self.own = self.map = None
        self.scale = config.dim**0.5
        if sequence.kind == "decay":
            self.own = self.add_weight("own", shape, initializer="uniform")
            self.map = self.add_weight("map", [config.dim, width], initializer="zeros")
            self.scale = 1.0
        self.start = self.add_weight("start", shape=[config.dim], initializer="zeros")
        self.layer = _layer(sequence, config.dim, self.length)

    def call(self, inputs):
        codes = inputs[self.column]
        codes = tf.reshape(codes, [tf.shape(codes)[0], -1])
        codes, known = _compacted(codes, self.length)
        x = tf.gather(self.items, codes) * (known * self.scale)[..., None]
        vectors = self.layer.newest(x, known)
        return tf.where(known[:, :1] > 0, vectors, self.start)

    def inputs(self, vectors: tf.Tensor, codes: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Compute the input vectors of items: their candidate vectors or, for `decay`, own + v map.

        Parameters
        ----------
        vectors : Tensor of float32, shape (n, dim)
            The candidate tower's vectors of some items.
        codes : Tensor of int32, shape (n,)
            The codes of these items.
        rows : Tensor of int, shape (...)
            The items wanted, as rows of `vectors`.

        Returns
        -------
        Tensor of float32, shape (..., width)
        """
        if self.own is None:
            return tf.gather(vectors, rows)
        mapped = tf.gather(tf.matmul(vectors, self.map), rows)
        return mapped + tf.gather(self.own, tf.gather(codes, rows))

    def compute_output_shape(self, input_shape):
        """Return [n, dim]."""
        return tf.TensorShape([input_shape[self.column][0], self.start.shape[0]])


def build_sequence_tower(schema: Schema, config: TwoTowerConfig) -> mm.Encoder:
    """Create the query tower: encoded history [n, length] by name -> float32 [n, dim].

    Parameters
    ----------
    schema : Schema
        The columns of the user, of which only the history is read.
    config : TwoTowerConfig
        With `sequence`.

    Returns
    -------
    Encoder
    """
    from merlin.schema import Tags

    norm = {"post": L2Norm()} if config.normalize else {}
    return mm.Encoder(SequenceTower(schema.select_by_tag(Tags.SEQUENCE), config), **norm)


def sequence_tower(model: mm.RetrievalModelV2) -> SequenceTower:
    """Return the layer that `build_sequence_tower` has made for a model."""
    return model.query_encoder.blocks[0]


def _compacted(codes: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Move known codes [n, w] to the left, in their order, and keep at most `length` of them.

    Returns the codes, int [n, min(w, length)], and 1 for known ones and 0 for the rest, float32.
    """
    known = codes > OUT_OF_VOCABULARY
    width = tf.shape(codes)[1]
    # Distinct keys, because sorting by `known` alone would leave the order of equal keys open.
    order = tf.where(known, width, 0) - tf.range(width)
    order = tf.math.top_k(tf.cast(order, tf.float32), tf.minimum(width, length)).indices
    codes = tf.gather(codes, order, batch_dims=1)
    return codes, tf.cast(codes > OUT_OF_VOCABULARY, tf.float32)


def _layer(config: SequenceConfig, dim: int, length: int) -> SequenceLayer:
    if config.kind == "decay":
        return Decay(dim, config.decay_time, config.decay_floor)
    if config.kind == "transformer":
        return Transformer(config, dim, length)
    return GRU(dim) if config.kind == "gru" else Mean()
