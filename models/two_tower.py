"""TwoTowerModelV2 as this project builds it: two encoders, in-batch negatives, logQ correction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Extra, Field, root_validator, validator

from models.errors import ModelError
from models.objective import OF_COSINES, ObjectiveConfig, SelfSupervisedConfig

if TYPE_CHECKING:
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Schema

    from models.layers import MultiHotEmbedding

VALUES_AT_ONCE = 1 << 17  # of a list column, embedded in memory: 64 MB at 128 dimensions


class TwoTowerConfig(BaseModel, extra=Extra.forbid):
    """Shape of the towers and of the softmax between them."""

    dim: int = Field(64, gt=0, description="output dimension of both towers")
    hidden: list[int] = Field(
        [],
        description="none: a tower is the sum of its embeddings, each of size dim, and of each "
        "number times a vector; otherwise embeddings and numbers are concatenated and pass these "
        "layers and a projection to dim",
    )
    layers: Literal["mlp", "residual", "cross"] = Field(
        "mlp",
        description="what the hidden layers are: ReLU layers of these widths; residual layers, "
        "which add to their input a ReLU layer of this width, projected back; DCN-v2's cross "
        "layers, which multiply the input with products of it by matrices of these ranks",
    )
    feature_dim: int = Field(
        16, gt=0, description="size of the embeddings beside the id's, when there are hidden layers"
    )
    buckets: int = Field(
        0,
        ge=0,
        description="2 or more: of a number a tower also sees an embedding, that of the bucket it "
        "falls in among so many, which are equally likely under a normal distribution; 0: none",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout after each hidden layer; of residual and cross layers what they add "
        "to their input is dropped",
    )
    feature_dropout: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of training values (but item ids) replaced by out-of-vocabulary, so "
        "that unknown users and unseen values meet a trained embedding",
    )
    cold_count: float = Field(
        1.0,
        gt=0,
        description="every item's id is hidden about this often an epoch, so that an item without "
        "positives is scored by its features, as if it had this many",
    )
    history_pooling: Literal["sum", "mean", "sqrtn", "attention"] = Field(
        "mean",
        description="what the embeddings of a user's items are added up to, where there is "
        "features.history: divided by nothing, their number, or its square root; or a mean "
        "weighted by the softmax of what a learned query makes of each",
    )
    history_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a history's items left out in a training step"
    )
    normalize: bool = Field(
        True,
        description="L2-normalise what the towers answer, so that scores are cosines; else they "
        "are inner products",
    )
    embedding_l2: float = Field(
        0.0,
        ge=0,
        description="added to the loss times the sum of the squares of a batch's embeddings: of "
        "every different user and item of it once, however many interactions it has, and of every "
        "categorical column of theirs the embedding that is looked up (of a list the mean of its "
        "known values'). Summed, not averaged as the rest of the loss; vectors and buckets "
        "of numbers and hidden layers are left out",
    )
    temperature: float = Field(0.2, gt=0, description="logits are score / temperature")
    learn_temperature: bool = Field(
        False, description="begin with that temperature and learn it with the towers"
    )
    softmax_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the factors of the softmax's matrix products in training"
    )
    logq: float = Field(
        1.0, ge=0, description="weight of the logQ correction; 1 is the textbook one, 0 none"
    )
    logq_estimate: Literal["counts", "streaming"] = Field(
        "counts",
        description="where it knows from how often an item is a negative: the positives of the "
        "training part, counted beforehand; or the batches, from which it learns that as they come",
    )
    objective: ObjectiveConfig = Field(
        ObjectiveConfig(), description="the loss and its negatives: models/objective.py"
    )
    self_supervised: SelfSupervisedConfig | None = Field(
        None,
        description="a second task, which also teaches items without positives: to know an item by "
        "a part of its features; by default none",
    )

    @validator("buckets")
    def _tell_numbers_apart(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one bucket has all numbers: set 2 or more, or 0 for none")
        return value

    @root_validator(skip_on_failure=True)
    def _fits_the_objective(cls, values: dict) -> dict:
        objective = values["objective"]
        if objective.corrected_logq and values["logq"] != 1:
            raise ValueError("objective.corrected_logq is a whole correction: logq is to be 1")
        if values["learn_temperature"] and objective.loss in OF_COSINES:
            raise ValueError(f"learn_temperature: objective.loss {objective.loss} has none")
        if values["logq_estimate"] == "streaming" and (
            objective.negatives not in ("in_batch", "cross_batch")
            or objective.loss != "softmax"
            or not values["logq"]
        ):
            raise ValueError(
                "logq_estimate: streaming is of items that are negatives as positives of batches: "
                "of the softmax with negatives in_batch or cross_batch, and logq above 0"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _penalty_of_the_batch(cls, values: dict) -> dict:
        # The towers add it to the loss wherever they look an embedding up.
        if values["self_supervised"] and values["embedding_l2"]:
            raise ValueError(
                "embedding_l2 would count the embeddings of self_supervised's views with those of "
                "the batch: one of them is to be left out"
            )
        return values


def build_two_tower(
    schema: Schema, item_counts: np.ndarray, config: TwoTowerConfig
) -> mm.RetrievalModelV2:
    """The untrained model.

    Parameters
    ----------
    schema
        Output schema of the feature workflow; tags USER, ITEM, USER_ID and ITEM_ID say which
        column is what, domains say how large the tables are.
    item_counts
        float or int [item cardinality]: how often each encoded item id is a positive in training.
    config
        Sizes, temperature, logQ weight.

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

    from models.corrections import StreamingFrequency
    from models.outputs import SampledOutput
    from models.self_supervised import views_loss
    from models.softmax import InBatchSoftmax

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
    query_tower = _encoder(schema.select_by_tag(Tags.USER), Tags.USER_ID, config)
    candidate_tower = _encoder(schema.select_by_tag(Tags.ITEM), Tags.ITEM_ID, config)
    settings = {
        "negative_samplers": ["in-batch"],
        "schema": item_id,
        "temperature": config.temperature,
        "learn_temperature": config.learn_temperature,
        "logq": config.logq,
    }
    if config.logq_estimate == "streaming":
        settings["frequency"] = StreamingFrequency(cardinality)
    if config.self_supervised is not None:
        # In a function Keras does not find the tower a second time.
        settings["added"] = partial(views_loss, config.self_supervised, candidate_tower)
    if config.objective.is_default:
        log_q, precision = np.log(counts / counts.sum()), tf.as_dtype(config.softmax_precision)
        output = InBatchSoftmax(DotProduct(), log_q=log_q, precision=precision, **settings)
    else:
        given = {"objective": config.objective, "counts": counts, "dim": config.dim}
        output = SampledOutput(DotProduct(), **given, **settings)
    return mm.TwoTowerModelV2(
        query_tower=query_tower, candidate_tower=candidate_tower, outputs=output, schema=schema
    )


def hide_item_ids(
    codes: np.ndarray, positives: np.ndarray, cold_count: float, cardinality: int, oov: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often to hide each item's id in training, and the counts that logQ then needs.

    Hiding ids at one rate for all would train the out-of-vocabulary id mostly in the place of
    popular items, and with their summed frequency: items nobody knows would top every list.
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


def _encoder(schema: Schema, id_tag, config: TwoTowerConfig) -> mm.Encoder:
    """Features [n, w], summed or through hidden layers, perhaps normalised -> float32 [n, dim].

    The sum is matrix factorisation with side features; it needs fewer epochs than a projection of
    the concatenation and ends higher on MovieLens.
    """
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.models.tf.transforms.regularization import L2Norm
    from merlin.schema import Tags

    from models.buckets import bucket_branches
    from models.layers import MultiHotEmbedding, ResumableDropout
    from models.towers import AttentionScore, CrossLayers, ResidualLayer

    norm = {"post": L2Norm()} if config.normalize else {}

    id_name = schema.select_by_tag(id_tag).first.name
    categorical = schema.select_by_tag(Tags.CATEGORICAL)
    sizes = {c.name: config.feature_dim for c in categorical} | {id_name: config.dim}
    attention, pooling = config.history_pooling == "attention", config.history_pooling
    embeddings = mm.Embeddings(
        categorical,
        dim=sizes if config.hidden else config.dim,
        table_cls=MultiHotEmbedding,
        sequence_combiner={
            column.name: AttentionScore() if attention else pooling
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
        return mm.Encoder(inputs, **norm)
    layers = []
    if config.layers == "cross":
        layers.append(CrossLayers(config.hidden, config.dropout))
    elif config.layers == "residual":
        layers.extend(ResidualLayer(width, config.dropout) for width in config.hidden)
    else:
        for width in config.hidden:
            layers.append(mm.MLPBlock([width]))
            if config.dropout:
                layers.append(ResumableDropout(config.dropout))
    layers.append(mm.MLPBlock([config.dim], no_activation_last_layer=True))
    buckets = bucket_branches(schema, config.buckets, config.feature_dim)
    return mm.Encoder(mm.InputBlockV2(schema, categorical=embeddings, **buckets), *layers, **norm)


def embedding_tables(model: mm.RetrievalModelV2) -> dict[str, MultiHotEmbedding]:
    """Column -> its embedding table."""
    from models.layers import MultiHotEmbedding

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
