"""Towers in closed form: a low-rank item-item regression that training can start from.

The query tower sums embeddings of the user's items, and the candidate tower is an embedding of the
item. Their inner product is a low-rank regression of a user's items on each other, and its best
solution has a closed form.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from merlin.schema import Tags
from scipy.linalg import eigh, orthogonal_procrustes
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import ArpackError, eigsh

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import gram_matrix, item_item_weights
from twotower.models.training.config import ClosedFormConfig, unmet_requirements
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import embedding_tables, history_column


def solve(train: csr_matrix, dim: int, config: ClosedFormConfig) -> tuple[np.ndarray, np.ndarray]:
    """Solve for the item embeddings of both towers.

    Parameters
    ----------
    train : csr_matrix, shape (n_users, n_items)
        The weights of the positives, True or 1 where they have none.
    dim : int
        Dimension of the vectors. Dimensions beyond the number of items are 0.
    config : ClosedFormConfig

    Returns
    -------
    history : ndarray of float32, shape (n_items, dim)
        Embeddings of the user's items in the query tower.
    candidates : ndarray of float32, shape (n_items, dim)
        Embeddings in the candidate tower. Items without positives, and those that are not among
        the `most_items` most popular, have zeros in both.

    Raises
    ------
    ModelError
        If no two items have a user in common.

    Notes
    -----
    EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019) with weighted
    users and the denoising of EDLAE (Steck, "Autoencoders that don't overfit towards the
    identity", NeurIPS 2020). With G = X'WX and P = (G + diag(l2 + popularity_l2 * diag G))^-1 the
    item-item weights are B = -P / diag P, column by column, with a zero diagonal. Among all
    projections of the scores X B to `dim` dimensions, X B V V' has the smallest weighted squared
    error, where V are the first eigenvectors of B'GB. `history` is B V and `candidates` is V.

    X has the square root of each weight, so that a user whose positives all weigh w counts as w
    users. G = X'X then has the total weight of each item on its diagonal, and is the Gram matrix of
    the unweighted positives if all weigh 1. (A regression that weights each error would have
    another Gram matrix for each item.)
    """
    train = csr_matrix(train, dtype=float, copy=True)
    train.sum_duplicates()
    train.eliminate_zeros()
    train.data = np.sqrt(train.data)
    n_items = train.shape[1]
    n_users = np.bincount(train.indices, minlength=n_items)
    popular = np.argsort(-n_users, kind="stable")[: config.most_items]
    popular = np.sort(popular[n_users[popular] > 0])
    weights = np.maximum(np.diff(train.indptr), 1.0) ** -config.user_power
    gram = gram_matrix(csr_matrix(diags(np.sqrt(weights / weights.mean())) @ train[:, popular]))
    l2 = config.l2 + config.popularity_l2 * np.diag(gram)
    regression = item_item_weights(gram.copy(order="F"), l2)
    history, candidates = np.zeros((2, n_items, dim), np.float32)
    squares = regression.T @ (gram @ regression)
    if not squares.any():
        raise ModelError(
            "training.start: no two items have a user in common, so there is nothing to solve; "
            "remove this setting"
        )
    vectors = _first_eigenvectors(squares, dim) if dim < len(popular) else np.eye(len(popular))
    width = vectors.shape[1]
    history[popular, :width] = regression @ vectors
    candidates[popular, :width] = vectors
    return history, candidates


def set_closed_form_weights(
    tower: TwoTower, data: TrainingData, config: ClosedFormConfig, align: bool = False
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

    Raises
    ------
    ModelError
        If the towers are not sums of embeddings with a summed history.
    """
    history_name = history_column(tower.schema)
    has_context = bool(tower.schema.select_by_tag(Tags.CONTEXT).column_names)
    unmet = unmet_requirements(tower.config, history_name is not None, has_context)
    if unmet or history_name is None:
        raise ModelError(f"training.start solves for sums of embeddings; it requires {unmet}")
    user_id, item_id = (
        tower.schema.select_by_tag(tag).first.name for tag in (Tags.USER_ID, Tags.ITEM_ID)
    )
    ones = np.ones(len(data.user_rows), bool)
    shape = (data.n_users, data.n_items)
    train = csr_matrix((ones, (data.user_rows, data.item_rows)), shape)
    weighted = train
    if data.weights is not None:
        weighted = csr_matrix((data.weights, (data.user_rows, data.item_rows)), shape)
    history, candidates = solve(weighted, tower.config.dim, config)
    tables = embedding_tables(tower.model)
    codes = data.items[item_id][:, 0]
    known = codes > OUT_OF_VOCABULARY
    if align:
        before = tables[item_id].table.embeddings.numpy()[codes]
        rotation = orthogonal_procrustes(candidates[known], before[known])[0].astype(np.float32)
        history, candidates = history @ rotation, candidates @ rotation
    for encoder in (tower.model.query_encoder, tower.model.candidate_encoder):
        for weight in encoder.trainable_variables:
            weight.assign(np.zeros(weight.shape))
    _assign_rows(tables[history_name].table.embeddings, codes[known], history[known])
    _assign_rows(tables[item_id].table.embeddings, codes[known], candidates[known])
    stranger = train.sum(axis=0) @ history / max(train.nnz, 1)
    _assign_rows(tables[user_id].table.embeddings, np.arange(OUT_OF_VOCABULARY + 1), stranger)


def _assign_rows(weight: tf.Variable, rows: np.ndarray, values: np.ndarray) -> None:
    """Set some rows of a table, and all others to 0."""
    table = np.zeros(weight.shape, np.float32)
    table[rows] = values
    weight.assign(table)


def _first_eigenvectors(matrix: np.ndarray, k: int) -> np.ndarray:
    """The k eigenvectors of a symmetric matrix [n, n] with the largest eigenvalues, descending."""
    try:
        # A fixed start vector makes the result reproducible.
        _, vectors = eigsh(matrix, k, v0=np.ones(len(matrix)))
    except ArpackError:  # the start vector is orthogonal to the matrix, or the rank is low
        n = len(matrix)
        _, vectors = eigh(matrix, subset_by_index=(n - k, n - 1))
    return vectors[:, ::-1]
