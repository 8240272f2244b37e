"""The two-tower model, untrained, and how to compute vectors and scores with its towers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError

if TYPE_CHECKING:
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Schema
    from scipy.sparse import csr_matrix

    from twotower.models.evaluation.products import ItemVectors
    from twotower.models.objective.outputs import InBatchSoftmax
    from twotower.models.towers.embeddings import MultiHotEmbedding

# Number of values of a list column that are embedded at a time: 64 MB for 128 dimensions.
MAX_VALUES_IN_MEMORY = 1 << 17


def build_two_tower(
    schema: Schema,
    item_counts: np.ndarray,
    config: TwoTowerConfig,
    positives: np.ndarray | None = None,
) -> mm.RetrievalModelV2:
    """Create the untrained model.

    Parameters
    ----------
    schema : Schema
        The output schema of the feature workflow. The tags USER, ITEM, USER_ID and ITEM_ID assign
        the columns, domains give the sizes of the embedding tables.
    item_counts : ndarray of float or int, shape (cardinality,)
        Number of training positives of one item of each encoded id.
    config : TwoTowerConfig
    positives : ndarray of int, shape (n_items,), optional
        Number of training positives of each row of the item table, which may have ids that are not
        in the vocabulary. Only training needs it.

    Returns
    -------
    RetrievalModelV2

    Raises
    ------
    ModelError
        If `item_counts` does not fit the schema, or a list is too long for self-attention.

    Notes
    -----
    logQ correction (Yi et al., RecSys 2019): an in-batch negative is sampled in proportion to its
    share p of the interactions, so log p is subtracted from the logit cos / T of every candidate,
    the positive included. Serving uses plain cosines.
    """
    from merlin.models.tf.models.retrieval import TwoTowerModelV2
    from merlin.schema import Tags

    from twotower.models.towers.augmented import AUGMENTED, MimicLoss
    from twotower.models.towers.blocks import SharedLayers
    from twotower.models.towers.build import build_tower

    schema = schema.__class__([_dense(column) for column in schema])
    item_id = schema.select_by_tag(Tags.ITEM_ID)
    cardinality = item_id.first.int_domain.max + 1
    if len(item_counts) != cardinality:
        raise ModelError(
            f"item_counts has {len(item_counts)} entries; the schema's {item_id.first.name} "
            f"has {cardinality}"
        )
    shared = SharedLayers(config.shared, config.dim, config.dropout) if config.shared else None
    users, items = schema.select_by_tag(Tags.USER), schema.select_by_tag(Tags.ITEM)
    tied = _tied_tables(schema, config)
    query = _sequence_tower(users, config) or build_tower(users, Tags.USER_ID, config, shared, tied)
    candidate = build_tower(items, Tags.ITEM_ID, config, shared, tied)
    mimic = None
    if config.mimic_weight:
        mimic = MimicLoss(
            query=query.first[AUGMENTED],
            candidate=candidate.first[AUGMENTED],
            weight=config.mimic_weight,
        )
    output = _output(
        item_id, item_counts, positives, config=config, candidate_tower=candidate, pre=mimic
    )
    return TwoTowerModelV2(
        query_tower=query, candidate_tower=candidate, outputs=output, schema=schema
    )


def _sequence_tower(users: Schema, config: TwoTowerConfig) -> mm.Encoder | None:
    """The query tower that `config.sequence` asks for, None if it is not set."""
    if config.sequence is None:
        return None
    from twotower.models.sequence.tower import build_sequence_tower

    if history_column(users) is None:
        raise ModelError("model.sequence reads the user's items; set features.history")
    return build_sequence_tower(users, config)


def _tied_tables(schema: Schema, config: TwoTowerConfig) -> dict[str, tf.keras.layers.Embedding]:
    """The table that the item ids and the history share, by column; none if they share none."""
    import tensorflow as tf
    from merlin.schema import Tags

    if not config.tie_history:
        return {}
    history, item_id = history_column(schema), schema.select_by_tag(Tags.ITEM_ID).first
    if history is None:
        raise ModelError("model.tie_history needs a history; set features.history, or set it false")
    table = tf.keras.layers.Embedding(item_id.int_domain.max + 1, config.dim, name=item_id.name)
    return {history: table, item_id.name: table}


def _output(
    item_id: Schema,
    item_counts: np.ndarray,
    positives: np.ndarray | None,
    *,
    config: TwoTowerConfig,
    candidate_tower: mm.Encoder,
    pre: tf.keras.layers.Layer | None,
) -> InBatchSoftmax:
    """The model's output, which computes the training loss."""
    import tensorflow as tf

    from twotower.models.objective import outputs
    from twotower.models.objective.corrections import StreamingFrequency
    from twotower.models.objective.self_supervised import views_loss

    # An id that is never a positive (padding, null) is never sampled; 0.5 keeps its log finite.
    counts = np.maximum(item_counts, 0.5)
    positives = item_counts if positives is None else positives
    settings: dict[str, Any] = {
        "schema": item_id,
        "temperature": config.temperature,
        "learn_temperature": config.learn_temperature,
        "logq": config.logq,
        "pre": pre,
    }
    if config.logq_estimate == "streaming":
        settings["frequency"] = StreamingFrequency(
            len(counts), shared=OUT_OF_VOCABULARY, sharing=np.count_nonzero(positives)
        )
    if config.self_supervised is not None:
        # A partial hides the tower from Keras, which would otherwise track it a second time.
        settings["added"] = partial(views_loss, config.self_supervised, candidate_tower)
    if config.objective.is_default:
        return outputs.InBatchSoftmax(
            log_q=np.log(counts / counts.sum()),
            precision=tf.as_dtype(config.softmax_precision),
            **settings,
        )
    return outputs.objective_output(
        config.objective, counts=counts, positives=positives, dim=config.dim, **settings
    )


def hide_item_ids(
    codes: np.ndarray, positives: np.ndarray, cold_count: float, cardinality: int, oov: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often to hide each item's id in training, and the counts for the logQ correction.

    Parameters
    ----------
    codes : ndarray of int, shape (n_items,)
        The encoded id of each row of the item table.
    positives : ndarray of int, shape (n_items,)
        Number of positives of each row in the training part.
    cold_count : float
        Expected number of times per epoch that an item's id is hidden, at most half of its
        positives.
    cardinality : int
        Number of encoded ids.
    oov : int
        The out-of-vocabulary code.

    Returns
    -------
    probability : ndarray of float32, shape (n_items,)
        The probability of hiding the id.
    counts : ndarray of float64, shape (cardinality,)
        Expected number of positives of one row of each id.

    Notes
    -----
    Hiding all ids at the same rate would train the out-of-vocabulary id mostly in place of popular
    items, and with the sum of their frequencies: unknown items would lead every list. Hiding each
    item equally often, and correcting for the count of one of them, gives a cold item the score of
    an item with `cold_count` positives and the same features.
    """
    known = codes != oov
    hidden = np.where(known, np.minimum(cold_count, positives / 2), positives)
    probability = np.divide(
        hidden, positives, out=np.zeros(len(codes)), where=known & (positives > 0)
    )
    counts = np.bincount(codes, weights=positives - hidden, minlength=cardinality)
    counts[oov] = hidden.sum() / max(np.count_nonzero(hidden), 1)
    return probability.astype(np.float32), counts


def embedding_tables(model: mm.RetrievalModelV2) -> dict[str, MultiHotEmbedding]:
    """Return the embedding table of each categorical column."""
    from twotower.models.towers.embeddings import MultiHotEmbedding

    layers = model._flatten_layers()
    return {
        layer.schema.first.name: layer for layer in layers if isinstance(layer, MultiHotEmbedding)
    }


def history_column(schema: Schema) -> str | None:
    """Return the name of the column that lists a user's items, or None if there is none."""
    from merlin.schema import Tags

    columns = schema.select_by_tag(Tags.SEQUENCE).column_names
    return columns[0] if columns else None


def _dense(column: ColumnSchema) -> ColumnSchema:
    """Declare a padded multi-hot column a matrix: for a list, Merlin would expect offsets."""
    from merlin.schema import Tags

    if not column.is_list:
        return column
    width = column.value_count.max
    return column.with_shape(((0, None), (width, width))).with_tags(
        [tag for tag in column.tags if tag != Tags.LIST]
    )


def example_input(column: ColumnSchema, rows: int) -> np.ndarray:
    """Return zeros with the shape and type of a tower's input.

    Parameters
    ----------
    column : ColumnSchema
    rows : int

    Returns
    -------
    ndarray of float32 or int32, shape (rows, width)
    """
    from merlin.schema import Tags

    width = int(column.value_count.max) if column.is_list else 1
    is_number = Tags.CONTINUOUS in column.tags or Tags.EMBEDDING in column.tags
    return np.zeros([rows, width], np.float32 if is_number else np.int32)


def embed(
    encoder: Callable[[Mapping[str, tf.Tensor]], tf.Tensor],
    features: Mapping[str, np.ndarray],
    batch_size: int = 4096,
) -> np.ndarray:
    """Compute the vectors of a tower.

    Parameters
    ----------
    encoder : callable
        The tower.
    features : mapping of str to ndarray, shape (n, width)
        Its encoded columns.
    batch_size : int
        Maximum number of rows that are computed at a time.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        In the order of the rows.

    Notes
    -----
    Rows are grouped by the length of their longest list, and computed with at most
    MAX_VALUES_IN_MEMORY list values at a time, because the embeddings of long histories take
    megabytes.
    """
    import tensorflow as tf

    # Numbers and vectors are no lists: they are as wide for every row.
    lists = [column for column in features.values() if column.dtype.kind == "i"]
    lengths = np.max([np.count_nonzero(column, axis=1) for column in lists], axis=0)
    order = np.argsort(lengths, kind="stable")
    vectors = np.empty((len(order), 0), np.float32)
    start = 0
    while start < len(order):
        longest = max(lengths[order[min(start + batch_size, len(order)) - 1]], 1)
        n_rows = max(1, min(batch_size, MAX_VALUES_IN_MEMORY // longest))
        rows = order[start : start + n_rows]
        block = {
            name: tf.constant(values[rows, :longest] if values.dtype.kind == "i" else values[rows])
            for name, values in features.items()
        }
        block_vectors = encoder(block).numpy()
        if start == 0:
            vectors = np.empty((len(order), block_vectors.shape[1]), np.float32)
        vectors[rows] = block_vectors
        start += len(rows)
    return vectors


class TowerScorer:
    """Ranks the items for users by the inner product of the two towers' vectors.

    Parameters
    ----------
    users : ndarray of float32, shape (n_users, dim)
        The query tower's vectors.
    items : ndarray of float32, shape (n_items, dim)
        The candidate tower's vectors.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray):
        self.users, self.items = users, items
        self._candidates: ItemVectors | None = None

    @classmethod
    def of(
        cls,
        model: mm.RetrievalModelV2,
        users: Mapping[str, np.ndarray],
        items: Mapping[str, np.ndarray],
    ) -> TowerScorer:
        """Create the scorer of `model` for the encoded user and item tables; see `embed`."""
        return cls(embed(model.query_encoder, users), embed(model.candidate_encoder, items))

    def score(self, users: np.ndarray) -> np.ndarray:
        """Compute the scores of users for all items.

        Parameters
        ----------
        users : ndarray of int, shape (n,)
            Rows of the user table.

        Returns
        -------
        ndarray of float32, shape (n, n_items)
        """
        return self.users[users] @ self.items.T

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return the k best candidates of each of the users, see `Ranker.rank`.

        Scores are computed block by block, so that memory does not grow with the catalogue.

        Raises
        ------
        ModelError
            If a vector is not finite.
        """
        from twotower.models.evaluation.products import ItemVectors

        found = self._candidates
        if found is None or not np.array_equal(found.candidates, candidates):
            found = self._candidates = ItemVectors(self.items, candidates)
        return found.best(users, self.users[users], seen, k)
