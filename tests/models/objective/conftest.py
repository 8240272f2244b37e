"""A batch of interactions with vectors, and the outputs that compute its loss."""

from __future__ import annotations

import numpy as np
import pytest

ITEMS, BATCH = 6, 9
COUNTS = np.array(
    [0.5, 0.5, 0.5, 5, 3, 9, 1, 2, 4]
)  # of the codes 0 to 8; row r has the code r + 3


@pytest.fixture
def batch():
    """A function from an objective to users, items, vectors, queries and features of a batch."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup
    from twotower.models.objective.sampling import known_pairs

    draw = np.random.default_rng(0)
    vectors = {
        "user": draw.normal(size=(4, 3)).astype(np.float32),
        "item": draw.normal(size=(ITEMS, 3)).astype(np.float32),
    }
    users, items = draw.integers(0, 4, BATCH), draw.integers(0, ITEMS, BATCH)

    def of(objective, known=()):
        lookup = FeatureLookup(
            {"user": np.arange(3, 7, dtype=np.int32)[:, None]},
            {"film": np.arange(3, ITEMS + 3, dtype=np.int32)[:, None]},
            item_id="film",
            hide_item_id=np.zeros(ITEMS, np.float32),
            dropout=0.0,
            seed=3,
            step=lambda: tf.constant(0),
            sampler=objective.sampler(COUNTS[3:]),
            known=known_pairs(*np.array(known).T, ITEMS) if len(known) else None,
            positives_per_user=np.bincount(users, minlength=4) * 2,
        )
        rows = {"user_row": tf.constant(users), "item_row": tf.constant(items)}
        features = lookup(rows, training=True)
        query = vectors["user"][features["user"].numpy()[:, 0] - 3]
        return users, items, vectors, query, features

    return of


def output_of(objective, logq=0.0, positives=COUNTS[3:], **settings):
    from merlin.schema import ColumnSchema, Schema

    from twotower.models.objective.outputs import objective_output

    return objective_output(
        objective,
        schema=Schema([ColumnSchema("film")]),
        temperature=0.5,
        counts=COUNTS,
        positives=positives,
        logq=logq,
        dim=3,
        **settings,
    )


def candidate_of(features, vectors):
    import tensorflow as tf
    from merlin.models.tf.outputs.sampling.base import Candidate

    rows = features["film"].numpy()[:, 0] - 3
    return Candidate(features["film"], dict(features)).with_embedding(
        tf.constant(vectors["item"][rows])
    )
