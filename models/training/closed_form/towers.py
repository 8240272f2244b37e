"""Sets the weights of the towers to a solution in closed form.

The query tower sums embeddings of the user's items, and the candidate tower is an embedding of the
item. The sparse solution also has a vector of each user, which the embedding of the user's id adds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from merlin.schema import Tags
from scipy.linalg import orthogonal_procrustes
from scipy.sparse import csr_matrix

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.errors import ModelError
from twotower.models.training.closed_form.regression import solve
from twotower.models.training.closed_form.sparse import solve_sparse
from twotower.models.training.config import ClosedFormConfig, unmet_requirements
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import embedding_tables, history_column

EXACT_BYTES = 24
"""Memory of the exact solution per pair of items."""
MAX_HISTORY_VALUES = 1 << 22
"""Values of the history column that are read at a time."""


def uses_exact(n_items: int, config: ClosedFormConfig) -> bool:
    """Whether the method `exact` solves for a catalogue.

    Parameters
    ----------
    n_items : int
        Number of items with positives.
    config : ClosedFormConfig
    """
    if config.method == "auto":
        return n_items <= config.most_items
    return config.method == "exact"


def set_closed_form_weights(
    tower: TwoTower,
    data: TrainingData,
    config: ClosedFormConfig,
    align: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> None:
    """Set the weights of the towers to the closed-form solution, and all others to 0.

    Unknown users get the mean of all users' vectors, scaled to weigh as much as one item of a
    history. They are recommended popular items until their first own item, which weighs as much.

    Parameters
    ----------
    tower : TwoTower
        Its weights are changed.
    data : TrainingData
        The data to solve for.
    config : ClosedFormConfig
    align : bool
        Rotate the solution to the candidate embeddings that the tower has (orthogonal Procrustes).
        Scores stay the same, and other users of the vectors can keep using them.
    progress : callable (done, total, text)
        Called as the sparse solution proceeds.

    Raises
    ------
    ModelError
        If the towers are not sums of embeddings with a summed history, or solving would take more
        than `max_memory`.
    """
    history_name = history_column(tower.schema)
    has_context = bool(tower.schema.select_by_tag(Tags.CONTEXT).column_names)
    unmet = unmet_requirements(tower.config, history_name is not None, has_context)
    if unmet or history_name is None:
        raise ModelError(f"training.start solves for sums of embeddings; it requires {unmet}")
    user_id, item_id = (
        tower.schema.select_by_tag(tag).first.name for tag in (Tags.USER_ID, Tags.ITEM_ID)
    )
    train, weighted = _matrices(data)
    users, n_items = None, np.count_nonzero(data.positives_per_item)
    if uses_exact(n_items, config):
        _check_exact_memory(n_items, config)
        history, candidates = solve(weighted, tower.config.dim, config)
    else:
        users, history, candidates = solve_sparse(weighted, tower.config.dim, config, progress)
    tables = embedding_tables(tower.model)
    codes = data.items[item_id][:, 0]
    known = codes > OUT_OF_VOCABULARY
    if align:
        before = tables[item_id].table.embeddings.numpy()[codes]
        rotation = orthogonal_procrustes(candidates[known], before[known])[0].astype(np.float32)
        history, candidates = history @ rotation, candidates @ rotation
        users = None if users is None else users @ rotation
    for encoder in (tower.model.query_encoder, tower.model.candidate_encoder):
        for weight in encoder.trainable_variables:
            weight.assign(np.zeros(weight.shape))
    _assign_rows(tables[history_name].table.embeddings, codes[known], history[known])
    _assign_rows(tables[item_id].table.embeddings, codes[known], candidates[known])
    stranger = train.sum(axis=0) @ history / max(train.nnz, 1)
    own_ids = tables[user_id].table.embeddings
    if users is None:
        _assign_rows(own_ids, np.arange(OUT_OF_VOCABULARY + 1), stranger)
        return
    rest = users - _history_sums(data.users[history_name], tables[history_name].table.embeddings)
    codes = data.users[user_id][:, 0]
    own = (codes > OUT_OF_VOCABULARY) & (np.diff(train.indptr) > 0)
    by_code = np.tile(np.asarray(stranger, np.float32), (own_ids.shape[0], 1))
    by_code[codes[own]] = rest[own]
    own_ids.assign(by_code)


def _matrices(data: TrainingData) -> tuple[csr_matrix, csr_matrix]:
    """The positives as a matrix [n_users, n_items] of ones, and as one of their weights."""
    shape = (data.n_users, data.n_items)
    pairs = (data.user_rows, data.item_rows)
    train = csr_matrix((np.ones(len(data.user_rows), bool), pairs), shape)
    return train, train if data.weights is None else csr_matrix((data.weights, pairs), shape)


def _check_exact_memory(n_items: int, config: ClosedFormConfig) -> None:
    """Raise ModelError if the exact solution would take more than `max_memory`."""
    needed = EXACT_BYTES * min(n_items, config.most_items) ** 2 / 1e9
    if needed > config.max_memory:
        raise ModelError(
            f"training.start would take about {needed:.2g} GB for {n_items:,} items, more than "
            f"training.start.max_memory, {config.max_memory:g}; raise that, lower "
            "training.start.most_items, or set training.start.method: sparse"
        )


def _history_sums(history: np.ndarray, table: tf.Variable) -> np.ndarray:
    """The sum of the embeddings of each user's history, as the query tower computes it.

    Parameters
    ----------
    history : ndarray of int32, shape (n_users, length)
        Codes of items, padded with 0.
    table : Variable of float32, shape (cardinality, dim)
        The rows of the reserved codes are 0.

    Returns
    -------
    ndarray of float32, shape (n_users, dim)
    """
    vectors = table.numpy()
    sums = np.empty((len(history), vectors.shape[1]), np.float32)
    step = max(1, MAX_HISTORY_VALUES // history.shape[1])
    for start in range(0, len(history), step):
        block = history[start : start + step]
        rows, places = np.nonzero(block)
        pairs = (rows, block[rows, places])
        counts = csr_matrix((np.ones(len(rows), np.float32), pairs), (len(block), len(vectors)))
        sums[start : start + step] = counts @ vectors
    return sums


def _assign_rows(weight: tf.Variable, rows: np.ndarray, values: np.ndarray) -> None:
    """Set some rows of a table, and all others to 0."""
    table = np.zeros(weight.shape, np.float32)
    table[rows] = values
    weight.assign(table)
