"""Towers solved in closed form: a low-rank item-to-item regression, a start for training.

The query tower sums embeddings of the user's items, the candidate tower is an item's embedding:
their inner product is X A V', a regression of a user's items on each other. Its best solution is
known without gradient descent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Extra, Field
from scipy.linalg import eigh, orthogonal_procrustes
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import ArpackError, eigsh

from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import gram, items_to_items
from twotower.models.evaluation.metrics import binary

if TYPE_CHECKING:
    from twotower.models.config import TwoTowerConfig
    from twotower.models.training.fit import TrainingData, TwoTower


class ClosedFormConfig(BaseModel, extra=Extra.forbid):
    """Regularisation of the regression; choose it on valid."""

    l2: float = Field(
        300.0, ge=1e-6, le=1e12, description="added to the number of users of every item"
    )
    popularity_l2: float = Field(
        0.3,
        ge=0,
        le=1e6,
        description="and this share of the number itself: d / (1 - d) of it is what a dropout of d "
        "on the histories would do",
    )
    user_power: float = Field(
        0.5,
        ge=-10,
        le=10,
        description="a user of n positives weighs n to the minus this (the mean is 1): 0 weighs "
        "interactions alike, 1 users",
    )
    most_items: int = Field(
        10_000,
        gt=1,
        le=1_000_000,
        description="number of most popular items that are solved for; other items start at 0. "
        "Memory is 24 bytes times its square, time grows with its cube",
    )


def solve(train: csr_matrix, dim: int, config: ClosedFormConfig) -> tuple[np.ndarray, np.ndarray]:
    """The history's and the candidates' embeddings, float32 [n_items, dim] each.

    EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019) with users
    weighted and denoised as EDLAE is (Steck, "Autoencoders that don't overfit towards the
    identity", NeurIPS 2020): with G = X'WX and P = (G + diag(l2 + popularity_l2 * diag G))^-1 the
    item-to-item weights are B = -P / diag P, column by column, with a zero diagonal. Of all
    projections of its scores X B to `dim` dimensions the one with the least weighted squared error
    is X B V V', V the first eigenvectors of B'GB; B V and V are the answer.

    Parameters
    ----------
    train : [n_users, n_items], nonzero where there is a positive
    dim : of the vectors; above the number of items the rest is 0

    Raises ModelError when no two items have a user in common.

    An item nobody has, or that is not among the `most_items`, has zeros.
    """
    train = binary(train).astype(float)
    n_items = train.shape[1]
    users_of = np.bincount(train.indices, minlength=n_items)
    popular = np.argsort(-users_of, kind="stable")[: config.most_items]
    popular = np.sort(popular[users_of[popular] > 0])
    some = train[:, popular]
    weights = np.maximum(np.diff(train.indptr), 1.0) ** -config.user_power
    together = gram(csr_matrix(diags(np.sqrt(weights / weights.mean())) @ some))
    l2 = config.l2 + config.popularity_l2 * np.diag(together)
    regression = items_to_items(together.copy(order="F"), l2)
    history, candidates = np.zeros((2, n_items, dim), np.float32)
    squares = regression.T @ (together @ regression)
    if not squares.any():
        raise ModelError(
            "training.start: no two of the items have a user in common, so there is nothing to "
            "solve; leave it out"
        )
    vectors = _first_eigenvectors(squares, dim) if dim < len(popular) else np.eye(len(popular))
    width = vectors.shape[1]
    history[popular, :width] = regression @ vectors
    candidates[popular, :width] = vectors
    return history, candidates


def _first_eigenvectors(matrix: np.ndarray, k: int) -> np.ndarray:
    """The k eigenvectors with the largest eigenvalues of a symmetric [n, n], in falling order."""
    try:
        # A fixed start vector makes the result reproducible.
        _, vectors = eigsh(matrix, k, v0=np.ones(len(matrix)))
    except ArpackError:  # the start vector is orthogonal to the matrix, or its rank is low
        n = len(matrix)
        _, vectors = eigh(matrix, subset_by_index=(n - k, n - 1))
    return vectors[:, ::-1]


def unmet(config: TwoTowerConfig, has_history: bool) -> str:
    """Settings that `start` requires and the config does not have, as 'key: value'; '' if none."""
    settings = {
        "features.history": (has_history, "a number, the most items of a user"),
        "model.history_pooling": (config.history_pooling == "sum", "sum"),
        "model.normalize": (not config.normalize, "false"),
        "model.hidden": (not config.hidden, "[]"),
        "model.shared": (not config.shared, "[]"),
        "model.self_supervised": (config.self_supervised is None, "none"),
    }
    return ", ".join(f"{name}: {value}" for name, (met, value) in settings.items() if not met)


def start(
    tower: TwoTower, data: TrainingData, config: ClosedFormConfig, turned: bool = False
) -> None:
    """Give `tower` the solution for `data`; all else in it becomes 0.

    An unknown user has the mean of all users' vectors, scaled to weigh as much as one item of a
    history, so that a stranger sees what people like and a first item counts as much. With
    `turned` the solution is turned to the candidates' embeddings that the tower has (orthogonal
    Procrustes): scores are the same, and what has other users of the vectors keeps its meaning.

    Raises ModelError when the towers are not sums of embeddings with a summed history.
    """
    from merlin.schema import Tags

    from twotower.models.batch_keys import OUT_OF_VOCABULARY
    from twotower.models.two_tower import embedding_tables, history_column

    seen = history_column(tower.schema)
    if wrong := unmet(tower.config, seen is not None):
        raise ModelError(f"training.start solves for sums of embeddings; it needs {wrong}")
    user_id, item_id = (
        tower.schema.select_by_tag(tag).first.name for tag in (Tags.USER_ID, Tags.ITEM_ID)
    )
    codes = data.items[item_id][:, 0]
    ones = np.ones(len(data.user_rows), bool)
    shape = (len(data.users[user_id]), len(codes))
    train = csr_matrix((ones, (data.user_rows, data.item_rows)), shape)
    history, candidates = solve(train, tower.config.dim, config)
    tables = embedding_tables(tower.model)
    known = codes > OUT_OF_VOCABULARY
    if turned:
        before = tables[item_id].table.embeddings.numpy()[codes]
        turn = orthogonal_procrustes(candidates[known], before[known])[0].astype(np.float32)
        history, candidates = history @ turn, candidates @ turn
    for encoder in (tower.model.query_encoder, tower.model.candidate_encoder):
        for weight in encoder.trainable_variables:
            weight.assign(np.zeros(weight.shape))
    for name, vectors in ((seen, history), (item_id, candidates)):
        weight = tables[name].table.embeddings
        values = np.zeros(weight.shape, np.float32)
        values[codes[known]] = vectors[known]
        weight.assign(values)
    weight = tables[user_id].table.embeddings
    values = np.zeros(weight.shape, np.float32)
    values[: OUT_OF_VOCABULARY + 1] = train.sum(axis=0) @ history / max(train.nnz, 1)
    weight.assign(values)
