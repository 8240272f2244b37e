"""Corrections: every formula by hand, and in-batch gradients that tend to the full softmax's."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.conftest import differences
from twotower.models.objective.config import ObjectiveConfig


def test_log_q_is_the_log_of_the_share():
    from twotower.models.objective.corrections import log_q

    counts = np.array([3, 0, 1, 4])
    assert log_q(counts, 1.0, counts).dtype == "float32"
    np.testing.assert_allclose(np.exp(log_q(counts, 1.0, counts)), [3 / 8, 0, 1 / 8, 4 / 8], 1e-6)
    some = counts[[0, 2, 3]]
    np.testing.assert_allclose(log_q(some, 0.0, some), np.full(3, -np.log(3)), 1e-6)
    root = np.sqrt([3, 0, 1, 4])
    np.testing.assert_allclose(np.exp(log_q(counts, 0.5, counts)), root / root.sum(), 1e-6)


def test_log_q_by_id_is_normalised_over_rows():
    """Two items share the id that counts 1; one of five rows has no positives."""
    from twotower.models.objective.corrections import log_q

    counts, rows = np.array([1.0, 6.0, 2.0]), np.array([6, 2, 1, 1, 0])
    np.testing.assert_allclose(np.exp(log_q(counts, 1.0, rows)), [0.1, 0.6, 0.2], 1e-6)
    np.testing.assert_allclose(np.exp(log_q(counts, 0.0, rows)), np.full(3, 0.2), 1e-6)
    root = np.sqrt(rows).sum()
    np.testing.assert_allclose(np.exp(log_q(counts, 0.5, rows)), np.sqrt(counts) / root, 1e-6)


class Planted:
    """12 items, the first ones far more popular, and 5 users: the exact gradient is known."""

    def __init__(self):
        draw = np.random.default_rng(0)
        joint = np.exp(0.7 * draw.normal(size=(5, 12))) / np.arange(1, 13) ** 1.2
        self.joint = joint / joint.sum()
        self.users, self.items = (draw.normal(size=(n, 3)).astype(np.float32) for n in (5, 12))

    def full_gradient(self):
        """Of the mean over interactions of -log softmax over the catalogue: sum p * s' - s+'."""
        exps = np.exp(self.users @ self.items.T)
        softmax = exps / exps.sum(1, keepdims=True)
        slope = self.joint.sum(1, keepdims=True) * softmax - self.joint
        return np.concatenate([slope @ self.items, slope.T @ self.users])

    def in_batch_gradient(self, output, n=512, batches=160):
        """The mean over batches of n of the loss that `output` has of them."""
        import tensorflow as tf

        from twotower.models.feature_lookup import FeatureLookup

        tables = tf.constant(self.users), tf.constant(self.items)
        upper = tf.constant(np.cumsum(self.joint))
        lookup = FeatureLookup(
            {"user": np.arange(3, 8, dtype=np.int32)[:, None]},
            {"film": np.arange(3, 15, dtype=np.int32)[:, None]},
            item_id="film",
            hide_item_id=np.zeros(12, np.float32),
            dropout=0.0,
            seed=3,
            step=lambda: tf.constant(0),
        )

        def gradient(batch):
            place = tf.random.stateless_uniform([n], [1, batch], dtype=tf.float64)
            pair = tf.searchsorted(upper, place * upper[-1], side="right")
            features = lookup({"user_row": pair // 12, "item_row": pair % 12}, training=True)
            with tf.GradientTape() as tape:
                tape.watch(tables)
                query = tf.gather(tables[0], features["user"][:, 0] - 3)
                loss = output.loss_of(query, candidate_of(features, tables[1]))
            slopes = tape.gradient(loss, tables)
            return tf.concat([tf.convert_to_tensor(each) for each in slopes], 0)

        @tf.function
        def mean():
            every = tf.range(batches)
            return tf.reduce_mean(tf.map_fn(gradient, every, fn_output_signature=tf.float32), 0)

        return mean().numpy()

    def error(self, objective, logq=1.0):
        times = 1000 * self.joint.sum(0)
        output = output_of(objective, times, temperature=1.0, logq=logq)
        full, ours = self.full_gradient(), self.in_batch_gradient(output)
        return np.linalg.norm(ours - full) / np.linalg.norm(full)


def output_of(objective, positives, **settings):
    """The model's output for items with codes from 3 on, and the `positives` of each."""
    from merlin.schema import ColumnSchema, Schema

    from twotower.models.objective.outputs import objective_output

    return objective_output(
        objective,
        schema=Schema([ColumnSchema("film")]),
        counts=np.append([0.5, 0.5, 0.5], positives),
        positives=positives,
        dim=3,
        **settings,
    )


def candidate_of(features, items):
    """The candidates of a batch; their vectors are rows of `items`."""
    import tensorflow as tf
    from merlin.models.tf.outputs.sampling.base import Candidate

    vectors = tf.gather(items, features["film"][:, 0] - 3)
    return Candidate(features["film"], dict(features)).with_embedding(vectors)


def test_only_the_corrected_gradient_equals_that_of_the_full_softmax():
    """Means over 160 batches of 512: relative errors of 0.01 with the correction, 0.45 without."""
    planted = Planted()
    assert planted.error(ObjectiveConfig(), logq=0.0) > 0.2
    assert planted.error(ObjectiveConfig(corrected_logq=True)) < 0.02
    # The usual correction subtracts log_q from the positive as if it had been drawn.
    assert planted.error(ObjectiveConfig()) > 0.03


def test_the_corrected_loss_equals_the_weighted_loss_of_the_paper():
    """The gradient of sg(1 - P) * log(sum of exp(s - log Q') / exp s+), the value of -log P."""
    import tensorflow as tf

    draw = np.random.default_rng(4)
    q = np.array([0.5, 0.2, 0.2, 0.1])
    query_of, positive_of = np.int32([0, 1, 2, 0, 1]), np.int32([0, 1, 0, 3, 2])
    count, temperature = np.array([2, 2, 1, 0]), 0.5
    vectors = [tf.constant(draw.normal(size=(n, 3)), tf.float32) for n in (3, 4)]
    features = {
        "film": tf.range(3, 7)[:, None],
        "_query_of": tf.constant(query_of),
        "_positive_of": tf.constant(positive_of),
        "_count": tf.constant(count),
    }
    objective = ObjectiveConfig(corrected_logq=True)
    output = output_of(objective, 10 * q, temperature=temperature)
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = output.loss_of(vectors[0], candidate_of(features, vectors[1]))
    gradients = tape.gradient(loss, vectors)

    def terms(query, items):
        """Of each row exp s+, the sum over its negatives, and how many there are."""
        for user, own in zip(query_of, positive_of, strict=True):
            exps = np.exp(items @ query[user] / temperature)
            times = count * (np.arange(4) != own)
            yield exps[own], (times * exps / (q / (1 - q[own]))).sum(), times.sum()

    at = [each.numpy().astype(np.float64) for each in vectors]
    probability = np.array([exp / (exp + total / m) for exp, total, m in terms(*at)])
    assert float(loss) == pytest.approx(-np.log(probability).mean(), rel=1e-5)

    def weighted(*vectors):
        ratios = [np.log(total / exp) for exp, total, _ in terms(*vectors)]
        return np.mean((1 - probability) * ratios)

    for place, ours in enumerate(gradients):
        slopes = differences(
            lambda values, place=place: weighted(*at[:place], values, *at[place + 1 :]), at[place]
        )
        np.testing.assert_allclose(tf.convert_to_tensor(ours), slopes, 1e-4, 1e-5)


def test_corrected_log_q_by_hand():
    from twotower.models.objective.corrections import corrected_log_q

    ours = corrected_log_q(np.log(np.float32([0.5, 0.2, 0.9])), np.float32([3, 3, 2]))
    np.testing.assert_allclose(np.exp(ours), [0.5 / 3, 0.8 / 3, 0.1 / 2], 1e-6)
    # without another negative
    alone = corrected_log_q(np.log(np.float32([0.5])), np.float32([0]))
    np.testing.assert_allclose(np.exp(alone), [0.5], 1e-6)


class Loop:
    """Algorithm 2, one item at a time."""

    def __init__(self, items, alpha):
        self.last, self.distance = [0] * items, [items] * items
        self.alpha, self.place = alpha, 0

    def update(self, rows):
        for item in set(rows):
            times = rows.count(item)
            latest = self.place + max(n for n, each in enumerate(rows, 1) if each == item)
            for _ in range(times):
                distance = (latest - self.last[item]) / times
                self.distance[item] += self.alpha * (distance - self.distance[item])
            self.last[item] = latest
        self.place += len(rows)


def test_streaming_frequency_equals_the_loop(tmp_path):
    import tensorflow as tf

    from twotower.models.objective.corrections import StreamingFrequency

    draw = np.random.default_rng(1)
    loop = Loop(40, 0.1)
    ours, resumed = (StreamingFrequency(40, alpha=0.1) for _ in range(2))
    rows = np.arange(40)
    for step in range(60):
        batch = np.minimum(draw.geometric(0.1, 8) - 1, 39)
        loop.update(batch.tolist())
        ours.update(batch)
        if step == 30:
            path = tf.train.Checkpoint(frequency=ours).save(str(tmp_path / "frequency"))
            tf.train.Checkpoint(frequency=resumed).restore(path).assert_consumed()
        elif step > 30:
            resumed.update(batch)
    np.testing.assert_allclose(ours.log_q(rows), -np.log(np.array(loop.distance)), 1e-4)
    np.testing.assert_array_equal(resumed.log_q(rows), ours.log_q(rows))


def test_the_shared_id_has_the_probability_of_one_of_its_items():
    """Id 2 is a third of the stream and stands for four items."""
    from twotower.models.objective.corrections import StreamingFrequency

    plain, shared = StreamingFrequency(9), StreamingFrequency(9, shared=2, sharing=4)
    for frequency in (plain, shared):
        for _ in range(50):
            frequency.update([3, 4, 2, 5, 6, 2])
    assert np.exp(plain.log_q([2])) == pytest.approx(1 / 3, rel=0.1)
    assert np.exp(shared.log_q([2])) == pytest.approx(1 / 12, rel=0.1)
    np.testing.assert_array_equal(shared.log_q([3, 8]), plain.log_q([3, 8]))


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 7, 400])
def test_streaming_frequency_estimates_the_shares_of_items(batch):
    """10, 6, 3 and 1 of 20 interactions; then the shares are reversed.

    A batch of 400 contains every item, like a batch larger than the catalogue.
    """
    import tensorflow as tf

    from twotower.models.objective.corrections import StreamingFrequency

    frequency = StreamingFrequency(4, alpha=0.1)
    np.testing.assert_allclose(np.exp(frequency.log_q(np.arange(4))), 1 / 4)
    update = tf.function(frequency.update, input_signature=[tf.TensorSpec([None], tf.int32)])
    stream = np.random.default_rng(3).permutation(np.repeat(np.arange(4), [10, 6, 3, 1]))
    for items in (stream, 3 - stream):
        rows = np.resize(items, 20 * 400).astype(np.int32)
        for start in range(0, len(rows), batch):
            update(rows[start : start + batch])
        shares = np.bincount(items) / 20
        np.testing.assert_allclose(np.exp(frequency.log_q(np.arange(4))), shares, rtol=0.15)


def test_inverse_propensity_by_hand():
    from twotower.models.objective.corrections import inverse_propensity

    counts = np.array([100, 25, 1, 0])
    # propensities 1, 1/2, 1/10, 0 give the weights 1, 2, and, limited, 4 and 4
    weight = inverse_propensity(counts, 0.5, max_weight=4.0)
    mean = (100 * 1 + 25 * 2 + 1 * 4) / 126
    np.testing.assert_allclose(weight, np.array([1, 2, 4, 4]) / mean, 1e-6)
    assert (weight * counts).sum() == pytest.approx(counts.sum())
    assert weight.dtype == np.float32
    np.testing.assert_allclose(inverse_propensity(counts, 0.0, max_weight=4.0), np.ones(4))
    # without a limit and with power 1, all items have the same total weight
    part = inverse_propensity(counts[:3], 1.0, max_weight=1e9) * counts[:3]
    np.testing.assert_allclose(part, np.full(3, 42), 1e-6)
