"""Vectors of items that a closed form could not solve for: a ridge regression from their features.

A closed form gives vectors to the items with interactions. What their features (pretrained vectors,
categories, lists and numbers) say about these vectors holds for items without interactions as well.
"""

from __future__ import annotations

import numpy as np
from merlin.schema import Tags

from twotower.models.batch_keys import OUT_OF_VOCABULARY, PADDING
from twotower.models.feature_regression import FOLDS, fit_parts, parts_of
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import embed, embedding_tables


def fill_cold_items(tower: TwoTower, data: TrainingData) -> float | None:
    """Give items without a solved vector one that their features predict.

    The scores of the items with a solved vector stay as they are: what the features predict is
    taken off the embedding of their id.

    Parameters
    ----------
    tower : TwoTower
        Its candidate tower is a sum of embeddings, those of the id are solved, and all other
        weights are 0. Its weights are changed.
    data : TrainingData

    Returns
    -------
    float or None
        The L2 regularization that was chosen; None if the items have no features, or too few have
        solved vectors.
    """
    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
    encoder, schema = tower.model.candidate_encoder, tower.schema.select_by_tag(Tags.ITEM)
    parts = parts_of(encoder, schema, data.items, without=[item_id])
    solved = embed(encoder, data.items)
    known = np.flatnonzero(solved.any(axis=1) & (data.positives_per_item > 0))
    if not parts or len(known) < 2 * FOLDS:
        return None
    constant, l2 = fit_parts(parts, solved, known)
    table = embedding_tables(tower.model)[item_id].table.embeddings
    codes = data.items[item_id][:, 0]
    table.assign(np.zeros(table.shape, np.float32))
    predicted = embed(encoder, data.items)
    rows = np.tile(constant, (table.shape[0], 1))
    own = known[codes[known] > OUT_OF_VOCABULARY]
    rows[codes[own]] = solved[own] - predicted[own]
    rows[PADDING] = 0
    table.assign(rows)
    return l2


def put_vectors_into_ids(tower: TwoTower, data: TrainingData) -> None:
    """Make the embedding of each id the vector of its item.

    A new closed form is aligned with these embeddings; `fill_cold_items` takes off them again what
    the features predict.
    """
    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
    table = embedding_tables(tower.model)[item_id].table.embeddings
    codes = data.items[item_id][:, 0]
    known = codes > OUT_OF_VOCABULARY
    rows = table.numpy()
    rows[codes[known]] = embed(tower.model.candidate_encoder, data.items)[known]
    table.assign(rows)
