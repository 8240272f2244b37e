"""Sampling: items are drawn as often as log_q says, and every false negative is found."""

from __future__ import annotations

import numpy as np
import pytest

COUNTS = np.array([0, 7, 1, 0, 3, 12, 1, 0])


def share(counts, power):
    weights = np.where(counts > 0, counts.astype(float) ** power, float(power == 0))
    return weights / weights.sum()


def assert_drawn_as(rows, probability):
    """Chi-square of the drawn rows' counts: 4 standard deviations above what is expected."""
    drawn = np.bincount(rows, minlength=len(probability))
    assert not drawn[probability == 0].any()
    expected = len(rows) * probability[probability > 0]
    freedom = len(expected) - 1
    chi_square = ((drawn[probability > 0] - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def draw(kind, n, seed):
    from twotower.models.objective.sampling import sample_popularity, sample_uniform

    if kind == "uniform":
        return sample_uniform(n, len(COUNTS), seed)
    return sample_popularity(n, COUNTS, kind, seed)


every_kind = pytest.mark.parametrize("kind", ["uniform", 0.0, 0.5, 1.0])


@every_kind
def test_items_are_drawn_with_the_probabilities_of_log_q(kind):
    from twotower.models.objective.corrections import log_q

    rows = draw(kind, 40_000, [3, 1])
    assert rows.dtype == "int32"
    power = 0.0 if kind == "uniform" else kind
    probability = np.exp(log_q(COUNTS, power, COUNTS).numpy().astype(np.float64))
    np.testing.assert_allclose(probability, share(COUNTS, power), 1e-6)
    assert_drawn_as(rows.numpy(), probability)


@every_kind
def test_draws_depend_on_the_seed_alone(kind):
    import tensorflow as tf

    graph = tf.function(lambda n, seed: draw(kind, n, seed))
    first = draw(kind, 200, [5, 6])
    np.testing.assert_array_equal(first, draw(kind, 200, tf.constant([5, 6])))
    np.testing.assert_array_equal(first, graph(tf.constant(200), tf.constant([5, 6])))
    assert (first != draw(kind, 200, [5, 7])).numpy().any()


def test_distinct_rows_are_drawn_equally_often():
    from twotower.models.objective.sampling import sample_distinct

    draws = [sample_distinct(3, 8, (0, seed)).numpy() for seed in range(2000)]
    assert all(len(set(rows)) == 3 for rows in draws)
    counts = np.bincount(np.concatenate(draws), minlength=8)
    # Each row is in 3 of 8 draws: 750 +- 22 of 2,000.
    assert np.abs(counts - 750).max() < 4 * 22
    assert sorted(sample_distinct(8, 8, (0, 1)).numpy()) == list(range(8))


def test_a_row_in_ten_million_is_drawn():
    """Rows with a count of 1 after a row with ten million: float32 could not separate them."""
    from twotower.models.objective.sampling import sample_popularity

    counts = np.ones(500_000)
    counts[0] = 1e7
    rows = sample_popularity(400_000, counts, 1.0, [0, 0]).numpy()
    rare = rows[rows > 0]
    assert len(rare) == pytest.approx(400_000 / 21, rel=0.05)
    assert len(np.unique(rare)) > 0.95 * len(rare)


def test_mixture_log_q_is_the_expected_share_of_all_negatives():
    from twotower.models.objective.corrections import log_q, mixture_log_q
    from twotower.models.objective.sampling import sample_popularity, sample_uniform

    in_batch, uniform = 24_000, 8_000
    mixed = mixture_log_q(log_q(COUNTS, 1.0, COUNTS), in_batch, uniform, 8)
    probability = np.exp(mixed.numpy().astype(np.float64))
    np.testing.assert_allclose(probability, 0.75 * share(COUNTS, 1) + 0.25 / 8, 1e-6)
    pool = [sample_popularity(in_batch, COUNTS, 1.0, [1, 2]), sample_uniform(uniform, 8, [3, 4])]
    assert_drawn_as(np.concatenate(pool), probability)
    only = mixture_log_q(log_q(COUNTS, 1.0, COUNTS), 0, 5, 8)
    np.testing.assert_allclose(only, np.full(8, -np.log(8)), 1e-6)


def test_hard_negatives_are_the_highest_valid_ones():
    from twotower.models.objective.sampling import hard_negatives

    random = np.random.default_rng(2)
    scores = random.normal(size=(30, 9)).astype(np.float32)
    valid = random.random((30, 9)) < 0.5
    valid[0], valid[1] = False, True
    columns, hard = hard_negatives(np.where(valid, scores, 99), valid, 4)
    assert hard.numpy().sum() == np.minimum(valid.sum(1), 4).sum()
    for row in range(30):
        order = np.argsort(-scores[row])
        expected = order[valid[row][order]][:4]
        np.testing.assert_array_equal(columns[row][: len(expected)], expected)
        np.testing.assert_array_equal(hard[row], np.arange(4) < len(expected))


def test_hard_negatives_with_infinite_and_nan_scores():
    from twotower.models.objective.sampling import hard_negatives

    scores = np.float32([[np.nan, -np.inf, -1e38, np.inf]])
    columns, hard = hard_negatives(scores, [[False, True, True, False]], 3)
    np.testing.assert_array_equal(columns[0][:2], [2, 1])
    np.testing.assert_array_equal(hard, [[True, True, False]])


@pytest.mark.parametrize("interactions", [0, 1, 60, 400])
def test_every_false_negative_is_found(interactions):
    import tensorflow as tf

    from twotower.models.objective.sampling import false_negatives, known_pairs

    random = np.random.default_rng(interactions)
    users, items = 20, 15
    known = random.integers(0, users, interactions), random.integers(0, items, interactions)
    dense = np.zeros((users, items), bool)
    dense[known] = True
    user_rows, candidate_rows = random.integers(0, users, 40), random.integers(0, items, 25)
    pairs = known_pairs(*known, items)
    mask = false_negatives(user_rows, candidate_rows, pairs, items)
    np.testing.assert_array_equal(mask, dense[user_rows][:, candidate_rows])
    graph = tf.function(
        lambda *rows: false_negatives(*rows, pairs, items),
        input_signature=[tf.TensorSpec([None], tf.int32)] * 2,
    )
    np.testing.assert_array_equal(graph(user_rows, candidate_rows), mask)
    assert graph([3], np.zeros(0, np.int32)).shape == (1, 0)


def test_false_negatives_of_large_catalogues():
    """Users times items does not fit into 32 bits."""
    from twotower.models.objective.sampling import false_negatives, known_pairs

    items = 3_000_000_000
    known = known_pairs(np.array([5, 2_000_000]), np.array([items - 1, 7]), items)
    mask = false_negatives(np.array([2_000_000, 5]), np.array([7, items - 1]), known, items)
    np.testing.assert_array_equal(mask, np.eye(2, dtype=bool))
