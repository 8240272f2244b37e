"""Vectors of users without interactions: a ridge regression from their features.

A closed form sums what the items of a history say. What the features of users with a history
(categories, lists, numbers and pretrained vectors) say about an average item of it holds for users
without a history as well.
"""

from __future__ import annotations

import numpy as np
from merlin.schema import Tags

from twotower.models.batch_keys import OUT_OF_VOCABULARY, PADDING
from twotower.models.feature_regression import FOLDS, fit_parts, parts_of
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import embed, embedding_tables, history_column


def fill_cold_users(tower: TwoTower, data: TrainingData) -> float | None:
    """Give users without a history the vector that their features predict.

    It weighs as much as one item of a history, so that a few items that a request names prevail.
    The vectors of users with positives stay as they are: what the features predict is taken off
    the embedding of their id.

    Parameters
    ----------
    tower : TwoTower
        Its query tower is a sum of embeddings, those of the history and of the ids are solved, and
        all other weights are 0. Its weights are changed.
    data : TrainingData

    Returns
    -------
    float or None
        The L2 regularization that was chosen; None if the users have no features, or too few have
        positives.
    """
    schema, encoder = tower.schema.select_by_tag(Tags.USER), tower.model.query_encoder
    user_id = schema.select_by_tag(Tags.USER_ID).first.name
    parts = parts_of(encoder, schema, data.users, without=[user_id, history_column(schema) or ""])
    positives = np.bincount(data.user_rows, minlength=data.n_users)
    known = np.flatnonzero(positives > 0)
    if not parts or len(known) < 2 * FOLDS:
        return None
    solved = embed(encoder, data.users)
    constant, l2 = fit_parts(parts, solved / np.maximum(positives, 1)[:, None], known)
    table = embedding_tables(tower.model)[user_id].table.embeddings
    codes, own = data.users[user_id][:, 0], table.numpy()
    # Now every vector has what the features predict, which those with positives must not have.
    excess = embed(encoder, data.users) - solved
    rows = np.tile(constant, (len(own), 1))
    own_rows = known[codes[known] > OUT_OF_VOCABULARY]
    rows[codes[own_rows]] = own[codes[own_rows]] - excess[own_rows]
    rows[PADDING] = 0
    table.assign(rows)
    return l2
