"""Mined negatives: which items are mined, and which of them are drawn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

# Scores of 3 users for 6 items; the user vectors are rows of the identity matrix.
SCORES = np.float32([[9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6], [5, 5, 9, 0, 1, 2]])
POSITIVES = [(0, 0), (0, 3), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]


# One more user, without positives.
USERS = 4


def mined(ranks, share=1.0, positives=POSITIVES):
    import tensorflow as tf

    from twotower.models.training.data import TrainingData
    from twotower.models.training.mining import MinedNegatives

    user_rows, item_rows = np.array(positives).T
    data = TrainingData(
        users={"user": np.arange(USERS)[:, None]},
        items={"item": np.arange(6)[:, None]},
        user_rows=user_rows,
        item_rows=item_rows,
    )
    negatives = MinedNegatives(data, ranks, share)
    model = SimpleNamespace(
        query_encoder=lambda features: tf.one_hot(
            features["user"][:, 0], 3
        ),  # zeros for the last user
        candidate_encoder=lambda features: tf.gather(SCORES.T, features["item"][:, 0]),
    )
    negatives.mine(model)
    return negatives


@pytest.mark.parametrize(
    ("ranks", "lists"),
    [
        # User 2 has one item left, which is repeated.
        ((0, 2), [[1, 2], [5, 4], [5, 5]]),
        ((1, 4), [[2, 4, 5], [4, 3, 2], [5, 5, 5]]),
        # User 0 has four items that are not positives.
        ((3, 6), [[5, 5, 5], [2, 1, 2], [5, 5, 5]]),
        ((50, 90), [[1], [5], [5]]),
    ],
)
def test_mined_items_are_the_highest_ranked_without_positives(ranks, lists):
    found = mined(ranks).lists.numpy()
    np.testing.assert_array_equal(found[:3], lists)
    np.testing.assert_array_equal(found[3], 0)


def test_a_user_with_all_items_gets_the_highest_ranked():
    everything = [(1, item) for item in range(6)]
    np.testing.assert_array_equal(mined((0, 3), positives=everything).lists[1], [5, 4, 3])


def test_equal_scores_rank_by_row():
    # User 3's vector is zeros: all six items score 0.
    negatives = mined((0, 3), positives=[(3, 1), (3, 4)])
    np.testing.assert_array_equal(negatives.lists[3], [0, 2, 3])


def test_a_share_is_mined_and_the_rest_uniform():
    negatives = mined((0, 2), share=0.5)
    drawn = negatives.draw(np.repeat([0, 1], 2000), 4, [3, 4]).numpy()
    assert drawn.shape == (4000, 4) and drawn.dtype == np.int32
    for user, own in ((0, [1, 2]), (1, [5, 4])):
        found = np.bincount(drawn[user * 2000 : (user + 1) * 2000].ravel(), minlength=6) / 8000
        expected = np.full(6, 0.5 / 6)
        expected[own] += 0.25
        np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_array_equal(
        negatives.draw([0, 1], 4, [3, 4]), negatives.draw([0, 1], 4, [3, 4])
    )


def test_the_lookup_gives_each_interaction_its_own_negatives():
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

    own = np.int32([[4, 2], [2, 0], [5, 5]])
    lookup = FeatureLookup(
        {"user": np.arange(3, 6, dtype=np.int32)[:, None]},
        {"film": np.arange(3, 9, dtype=np.int32)[:, None]},
        *("film", np.zeros(6, np.float32), 0.0, 3, lambda: tf.constant(0)),
        draw_own=lambda users, seed: tf.gather(own, users),
    )
    users, items = np.array([2, 0, 1, 0]), np.array([1, 2, 3, 1])
    features = lookup({"user_row": tf.constant(users), "item_row": tf.constant(items)}, True)
    rows = features["film"].numpy()[:, 0] - 3
    np.testing.assert_array_equal(rows[features["_positive_of"].numpy()], items)
    np.testing.assert_array_equal(rows[features["_negative_of"].numpy()], own[users])
    assert len(np.unique(rows)) == len(rows)
