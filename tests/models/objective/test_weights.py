"""Weights of interactions: a weight of 2 is the row twice, in every loss."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.objective.conftest import BATCH, candidate_of, output_of
from twotower.models.objective.config import ObjectiveConfig
from twotower.models.objective.losses import LOSSES

ROW = 4
"""The interaction that occurs twice, or has the weight 2."""
BY_ROW = ("_query_of", "_positive_of", "_negative_of")


def loss_and_gradients(objective, query, features, vectors):
    import tensorflow as tf

    query, candidate = tf.constant(query), candidate_of(features, vectors)
    with tf.GradientTape() as tape:
        tape.watch([query, candidate.embedding])
        # The logQ correction of mixed negatives depends on the size of the batch.
        logq = 0.0 if objective.negatives == "mixed" else 1.0
        loss = output_of(objective, logq).loss_of(query, candidate)
    slopes = tape.gradient(loss, [query, candidate.embedding])
    return [each.numpy() for each in map(tf.convert_to_tensor, (loss, *slopes))]


OBJECTIVES = [
    *(
        {"loss": name, "negatives": (loss.negatives or ("in_batch",))[0]}
        for name, loss in LOSSES.items()
        if loss.kind == "pairwise"
    ),
    {"loss": "bpr", "hard": 2, "per_positive": 2},
    {"negatives": "all"},
    {"negatives": "uniform", "drawn": 20},
    {"negatives": "mixed", "drawn": 20},
    {"label_smoothing": 0.1},
    {"corrected_logq": True},
    {"negatives": "cross_batch", "drawn": 5},
    {"propensity_power": 0.5},
    {"loss": "squared", "negatives": "all"},
]


@pytest.mark.parametrize("settings", OBJECTIVES, ids=str)
def test_a_weight_of_2_is_the_row_twice(batch, settings):
    import tensorflow as tf

    objective = ObjectiveConfig(**settings)
    *_, vectors, query, features = batch(objective)
    if LOSSES[objective.loss].kind == "pairwise":
        n = objective.per_positive * objective.hard
        drawn = np.random.default_rng(2).integers(0, len(features["film"]), (BATCH, n))
        features["_negative_of"] = tf.constant(drawn, tf.int32)
    rows = [*range(BATCH), ROW]
    twice = {
        name: tf.gather(values, rows) if name in BY_ROW else values
        for name, values in features.items()
    }
    weight = tf.where(tf.range(BATCH) == ROW, 2.0, 1.0)
    expected = loss_and_gradients(objective, query, twice, vectors)
    found = loss_and_gradients(objective, query, {**features, "_weight": weight}, vectors)
    unweighted = loss_and_gradients(objective, query, features, vectors)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one * BATCH, other * (BATCH + 1), rtol=1e-4, atol=1e-5)
    assert abs(unweighted[0] - found[0]) > 1e-4


@pytest.mark.parametrize("settings", OBJECTIVES, ids=str)
def test_weights_of_1_change_no_bit(batch, settings):
    import tensorflow as tf

    objective = ObjectiveConfig(**settings)
    *_, vectors, query, features = batch(objective)
    ones = {**features, "_weight": tf.ones([BATCH])}
    without = loss_and_gradients(objective, query, features, vectors)
    for one, other in zip(
        loss_and_gradients(objective, query, ones, vectors), without, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_default_softmax_and_the_mimic_loss_use_weights(batch):
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Schema

    from twotower.models.objective.outputs import InBatchSoftmax
    from twotower.models.towers.augmented import MimicLoss

    *_, vectors, query, features = batch(ObjectiveConfig())
    output = InBatchSoftmax(
        schema=Schema([ColumnSchema("film")]), temperature=0.5, log_q=np.zeros(9), logq=0.0
    )
    layer = MimicLoss(
        query=lambda features: tf.zeros([len(query), 3]),
        candidate=lambda features: tf.zeros([len(features["film"]), 3]),
        weight=1.0,
    )

    def losses(of):
        candidate = candidate_of(of, vectors)
        layer({"query": query, "candidate": candidate.embedding}, features=of, training=True)
        return np.array([output.loss_of(tf.constant(query), candidate), layer.losses[0]])

    rows = [*range(BATCH), ROW]
    twice = {k: tf.gather(v, rows) if k in BY_ROW else v for k, v in features.items()}
    weighted = {**features, "_weight": tf.where(tf.range(BATCH) == ROW, 2.0, 1.0)}
    expected = losses(twice) * (BATCH + 1) / BATCH
    np.testing.assert_allclose(losses(weighted), expected, rtol=1e-5)
