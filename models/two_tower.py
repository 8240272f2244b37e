"""TwoTowerModelV2 as this project builds it: two encoders and the loss between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError

if TYPE_CHECKING:
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Schema

    from twotower.models.towers.build import SharedLayers
    from twotower.models.towers.layers import MultiHotEmbedding

VALUES_AT_ONCE = 1 << 17  # of a list column, embedded in memory: 64 MB at 128 dimensions


def build_two_tower(
    schema: Schema,
    item_counts: np.ndarray,
    config: TwoTowerConfig,
    positives: np.ndarray | None = None,
) -> mm.RetrievalModelV2:
    """The untrained model.

    Parameters
    ----------
    schema
        Output schema of the feature workflow; tags USER, ITEM, USER_ID and ITEM_ID say which
        column is what, domains say how large the tables are.
    item_counts
        float or int [item cardinality]: how often one item of each encoded id is a positive in
        training.
    config
        Sizes, temperature, logQ weight.
    positives
        int [n_items]: how often each row of the item table is; the vocabulary may lack ids of it.
        Only training needs it.

    Notes
    -----
    logQ correction (Yi et al., "Sampling-bias-corrected neural modeling for large corpus item
    recommendations", RecSys 2019): with in-batch negatives an item is sampled in proportion to
    its share p of the interactions, so the softmax runs over cos / T - log p for every
    candidate, the positive included; serving uses plain cosines.
    """
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.models.tf.outputs.base import DotProduct
    from merlin.schema import Tags

    from twotower.models.objective.corrections import StreamingFrequency
    from twotower.models.objective.outputs import SampledOutput
    from twotower.models.objective.self_supervised import views_loss
    from twotower.models.objective.softmax import InBatchSoftmax
    from twotower.models.towers.augmented import AUGMENTED, MimicLoss
    from twotower.models.towers.build import SharedLayers
    from twotower.models.towers.layers import OUT_OF_VOCABULARY

    schema = schema.__class__([_dense(column) for column in schema])
    item_id = schema.select_by_tag(Tags.ITEM_ID)
    cardinality = item_id.first.int_domain.max + 1
    if len(item_counts) != cardinality:
        raise ModelError(
            f"item_counts has {len(item_counts)} entries; the schema's {item_id.first.name} "
            f"has {cardinality}"
        )
    # An id that is never a positive (padding, null) is never sampled either; the floor only keeps
    # its logarithm finite.
    counts = np.maximum(item_counts, 0.5)
    positives = item_counts if positives is None else positives
    settings = {
        "negative_samplers": ["in-batch"],
        "schema": item_id,
        "temperature": config.temperature,
        "learn_temperature": config.learn_temperature,
        "logq": config.logq,
    }
    shared = [SharedLayers(config.shared, config.dim, config.dropout)] if config.shared else []
    query = _encoder(schema.select_by_tag(Tags.USER), Tags.USER_ID, config, shared)
    candidate = _encoder(schema.select_by_tag(Tags.ITEM), Tags.ITEM_ID, config, shared)
    if config.mimic_weight:
        augmented = (encoder.first[AUGMENTED] for encoder in (query, candidate))
        settings["pre"] = MimicLoss(*augmented, config.mimic_weight)
    if config.logq_estimate == "streaming":
        settings["frequency"] = StreamingFrequency(
            cardinality, shared=OUT_OF_VOCABULARY, sharing=np.count_nonzero(positives)
        )
    if config.self_supervised is not None:
        # In a function Keras does not find the tower a second time.
        settings["added"] = partial(views_loss, config.self_supervised, candidate)
    if config.objective.is_default:
        log_q, precision = np.log(counts / counts.sum()), tf.as_dtype(config.softmax_precision)
        output = InBatchSoftmax(DotProduct(), log_q=log_q, precision=precision, **settings)
    else:
        output = SampledOutput(
            DotProduct(),
            objective=config.objective,
            counts=counts,
            positives=positives,
            dim=config.dim,
            **settings,
        )
    return mm.TwoTowerModelV2(
        query_tower=query, candidate_tower=candidate, outputs=output, schema=schema
    )


def hide_item_ids(
    codes: np.ndarray, positives: np.ndarray, cold_count: float, cardinality: int, oov: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often to hide each item's id in training, and the counts that logQ then needs.

    Hiding ids at one rate for all would train the out-of-vocabulary id mostly in the place of
    popular items, and with their summed frequency: unknown items would top every list.
    Hiding each item equally often, and correcting with the count of one such item, makes a cold
    item score like an item with `cold_count` positives and the same features.

    Parameters
    ----------
    codes
        int [n_items]: encoded id of each row of the item table.
    positives
        int [n_items]: how often each row is a positive of the training part.
    cold_count
        Expected number of times an epoch that an item's id is hidden (half its positives at most).
    cardinality, oov
        Size of the encoded id's domain; its out-of-vocabulary code.

    Returns
    -------
    (float32 [n_items] probability of hiding the id, float64 [cardinality] expected counts)
    """
    known = codes != oov
    hidden = np.where(known, np.minimum(cold_count, positives / 2), positives)
    probability = np.divide(
        hidden, positives, out=np.zeros(len(codes)), where=known & (positives > 0)
    )
    counts = np.bincount(codes, weights=positives - hidden, minlength=cardinality)
    counts[oov] = hidden.sum() / max(np.count_nonzero(hidden), 1)
    return probability.astype(np.float32), counts


def _encoder(
    schema: Schema, id_tag, config: TwoTowerConfig, shared: list[SharedLayers]
) -> mm.Encoder:
    """Features [n, w], summed or through hidden layers, perhaps normalised -> float32 [n, dim].

    The sum is matrix factorisation with side features; it needs fewer epochs than a projection of
    the concatenation and ends higher on MovieLens.
    """
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.models.tf.transforms.regularization import L2Norm
    from merlin.schema import Tags

    from twotower.models.towers.augmented import AUGMENTED, AugmentedVector
    from twotower.models.towers.buckets import bucket_branches
    from twotower.models.towers.build import hidden_layers, pooling
    from twotower.models.towers.layers import MultiHotEmbedding

    norm = {"post": L2Norm()} if config.normalize else {}

    own_id = schema.select_by_tag(id_tag).first
    categorical = schema.select_by_tag(Tags.CATEGORICAL)
    sizes = {c.name: config.feature_dim for c in categorical} | {own_id.name: config.dim}
    embeddings = mm.Embeddings(
        categorical,
        dim=sizes if config.hidden else config.dim,
        table_cls=MultiHotEmbedding,
        sequence_combiner={
            column.name: pooling(config.history_pooling, column)
            for column in schema.select_by_tag(Tags.SEQUENCE)
        },
        l2_batch_regularization_factor=config.embedding_l2,
    )
    if not config.hidden:
        numbers = {}
        if numeric := schema.select_by_tag(Tags.CONTINUOUS):
            # As small at the start as an embedding: Keras's default would outweigh the id.
            vectors = tf.keras.layers.Dense(
                config.dim, use_bias=False, kernel_initializer="uniform"
            )
            numbers = {"continuous": mm.ContinuousProjection(numeric, vectors)}
        numbers |= bucket_branches(schema, config.buckets, config.dim)
        inputs = mm.InputBlockV2(
            schema, categorical=embeddings, aggregation="element-wise-sum", **numbers
        )
        return mm.Encoder(inputs, *shared, **norm)
    beside = bucket_branches(schema, config.buckets, config.feature_dim)
    if config.mimic_weight:
        beside[AUGMENTED] = AugmentedVector(own_id, config.dim)
    inputs = mm.InputBlockV2(schema, categorical=embeddings, **beside)
    layers = hidden_layers(config.layers, config.hidden, config.dropout)
    projection = mm.MLPBlock([config.dim], no_activation_last_layer=True)
    return mm.Encoder(inputs, *layers, projection, *shared, **norm)


def embedding_tables(model: mm.RetrievalModelV2) -> dict[str, MultiHotEmbedding]:
    """Column -> its embedding table."""
    from twotower.models.towers.layers import MultiHotEmbedding

    layers = model._flatten_layers()
    return {
        layer.schema.first.name: layer for layer in layers if isinstance(layer, MultiHotEmbedding)
    }


def history_column(schema: Schema) -> str | None:
    """The column that lists a user's items, None when there is none."""
    from merlin.schema import Tags

    columns = schema.select_by_tag(Tags.SEQUENCE).column_names
    return columns[0] if columns else None


def _dense(column):
    """A padded multi-hot column is a matrix, not a list: Merlin would ask for its offsets."""
    from merlin.schema import Tags

    if not column.is_list:
        return column
    width = column.value_count.max
    return column.with_shape(((0, None), (width, width))).with_tags(
        [tag for tag in column.tags if tag != Tags.LIST]
    )


def example_input(column: ColumnSchema, rows: int) -> np.ndarray:
    """Zeros of the shape and dtype that a tower reads of `column`."""
    from merlin.schema import Tags

    width = int(column.value_count.max) if column.is_list else 1
    return np.zeros([rows, width], np.float32 if Tags.CONTINUOUS in column.tags else np.int32)


def embed(
    encoder: Callable[[Mapping[str, tf.Tensor]], tf.Tensor],
    features: Mapping[str, np.ndarray],
    batch_size: int = 4096,
) -> np.ndarray:
    """Tower outputs float32 [n, dim] for encoded columns [n, w], in row order.

    Rows are taken by the length of their longest list, at most VALUES_AT_ONCE of its values at a
    time: the embeddings of a long history weigh megabytes.
    """
    import tensorflow as tf

    lengths = np.max([np.count_nonzero(column, axis=1) for column in features.values()], axis=0)
    order = np.argsort(lengths, kind="stable")
    vectors = None
    start = 0
    while start < len(order):
        longest = lengths[order[min(start + batch_size, len(order)) - 1]]
        rows = order[start : start + max(1, min(batch_size, VALUES_AT_ONCE // max(longest, 1)))]
        block = {name: tf.constant(v[rows, : max(longest, 1)]) for name, v in features.items()}
        answer = encoder(block).numpy()
        if vectors is None:
            vectors = np.empty((len(order), answer.shape[1]), np.float32)
        vectors[rows] = answer
        start += len(rows)
    return vectors


class TowerScorer:
    """Scores of user rows against every item row: the dot product of the two towers."""

    def __init__(self, users: np.ndarray, items: np.ndarray):
        self.users, self.items = users, items

    @classmethod
    def of(
        cls,
        model: mm.RetrievalModelV2,
        users: Mapping[str, np.ndarray],
        items: Mapping[str, np.ndarray],
    ) -> TowerScorer:
        """The scores of `model` for the encoded tables (see `embed`)."""
        return cls(embed(model.query_encoder, users), embed(model.candidate_encoder, items))

    def score(self, users: np.ndarray) -> np.ndarray:
        """Float32 [len(users), n_items] for integer positions in the user table."""
        return self.users[users] @ self.items.T
