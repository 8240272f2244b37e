"""Sets the tables of the towers to vectors of users and items that were found elsewhere.

The query tower sums embeddings of the user's items and of the user's id, and the candidate tower is
an embedding of the item's id.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from merlin.schema import Tags
from scipy.sparse import csr_matrix

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import embedding_tables, history_column

MAX_HISTORY_VALUES = 1 << 22
"""Values of the history column that are read at a time."""


def set_vectors(
    tower: TwoTower,
    data: TrainingData,
    history: np.ndarray,
    candidates: np.ndarray,
    users: np.ndarray | None = None,
) -> None:
    """Set the weights of the towers to vectors of items and users, and all others to 0.

    Unknown users get the mean of all users' vectors, scaled to weigh as much as one item of a
    history. They are recommended popular items until their first own item, which weighs as much.
    With features of users, `models.cold_users` replaces it by what the features predict.

    Parameters
    ----------
    tower : TwoTower
        Its towers are sums of embeddings, with a summed history. Its weights are changed.
    data : TrainingData
    history : ndarray of float32, shape (n_items, dim)
        What each item of a history adds to the query vector.
    candidates : ndarray of float32, shape (n_items, dim)
    users : ndarray of float32, shape (n_users, dim), optional
        The query vectors of the users with positives. By default the sum over their history.
    """
    user_id, item_id = (
        tower.schema.select_by_tag(tag).first.name for tag in (Tags.USER_ID, Tags.ITEM_ID)
    )
    history_name = history_column(tower.schema)
    assert history_name is not None
    tables = embedding_tables(tower.model)
    codes = data.items[item_id][:, 0]
    known = codes > OUT_OF_VOCABULARY
    for encoder in (tower.model.query_encoder, tower.model.candidate_encoder):
        for weight in encoder.trainable_variables:
            weight.assign(np.zeros(weight.shape))
    _assign_rows(tables[history_name].table.embeddings, codes[known], history[known])
    _assign_rows(tables[item_id].table.embeddings, codes[known], candidates[known])
    stranger = data.positives_per_item @ history / max(len(data.user_rows), 1)
    own_ids = tables[user_id].table.embeddings
    if users is None:
        _assign_rows(own_ids, np.arange(OUT_OF_VOCABULARY + 1), stranger)
        return
    rest = users - _history_sums(data.users[history_name], tables[history_name].table.embeddings)
    codes = data.users[user_id][:, 0]
    has_positives = np.bincount(data.user_rows, minlength=data.n_users) > 0
    own = (codes > OUT_OF_VOCABULARY) & has_positives
    by_code = np.tile(np.asarray(stranger, np.float32), (own_ids.shape[0], 1))
    by_code[codes[own]] = rest[own]
    own_ids.assign(by_code)


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
