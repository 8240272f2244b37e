"""The losses of the ranking model by hand."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import tensorflow as tf

from twotower.models.ranking.losses import LOSS_FUNCTIONS, two_labels
from twotower.models.ranking.options import LOSSES

LOGITS = [[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]]
LABELS = [[0, 1, 0], [1, 1, 0]]
EVERYTHING = [[1, 1, 1], [1, 1, 1]]
WITHOUT_LAST = [[1, 1, 1], [1, 1, 0]]


def loss(name, labels=LABELS, mask=EVERYTHING, logits=LOGITS):
    tensors = (tf.constant(each, tf.float32) for each in (logits, labels, mask))
    return float(LOSS_FUNCTIONS[name](*tensors))


def softplus(x):
    return log(1 + exp(x))


def test_every_name_has_a_loss():
    assert set(LOSS_FUNCTIONS) == set(LOSSES)


def test_binary_is_the_mean_cross_entropy():
    each = [softplus(0), softplus(-1), softplus(2), softplus(-3), softplus(1), softplus(0)]
    assert loss("binary") == pytest.approx(sum(each) / 6)
    assert loss("binary", mask=WITHOUT_LAST) == pytest.approx(sum(each[:5]) / 5)


def test_pairwise_compares_the_positives_of_a_user_with_the_other_candidates():
    # User 0: 1 over 0 and over 2; user 1: 3 over 0 and -1 over 0.
    pairs = [softplus(-1), softplus(1), softplus(-3), softplus(1)]
    assert loss("pairwise") == pytest.approx(sum(pairs) / 4)
    # Without the last candidate, user 1 has no pair.
    assert loss("pairwise", mask=WITHOUT_LAST) == pytest.approx(sum(pairs[:2]) / 2)


def test_listwise_is_the_cross_entropy_of_the_softmax():
    first = log(exp(0) + exp(1) + exp(2)) - 1
    second = log(exp(3) + exp(-1) + exp(0)) - (3 - 1) / 2
    assert loss("listwise") == pytest.approx((first + second) / 2, rel=1e-6)
    short = log(exp(3) + exp(-1)) - (3 - 1) / 2
    assert loss("listwise", mask=WITHOUT_LAST) == pytest.approx((first + short) / 2, rel=1e-6)
    # A user without a positive does not count.
    assert loss("listwise", labels=[[0, 1, 0], [0, 0, 0]]) == pytest.approx(first, rel=1e-6)


def test_two_labels_are_learned_on_all_rows():
    # Candidates: nothing, a click, a click and a positive; the last one of user 1 is padding.
    first, second = LOGITS, [[0.5, -1.0, 2.0], [0.0, 1.0, -2.0]]
    clicks, both = [[0, 1, 1], [1, 1, 0]], [[0, 0, 1], [1, 0, 0]]
    found = two_labels(
        logits=tf.constant(np.stack([first, second], axis=-1), tf.float32),
        labels=tf.constant(np.stack([clicks, both], axis=-1), tf.float32),
        mask=tf.constant(WITHOUT_LAST, tf.float32),
    )
    total = 0.0
    for user, place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        click = 1 / (1 + exp(-first[user][place]))
        product = click / (1 + exp(-second[user][place]))
        for label, probability in ((clicks, click), (both, product)):
            total -= log(probability if label[user][place] else 1 - probability)
    assert float(found) == pytest.approx(total / 5, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_users_without_positives_leave_gradients_finite(name):
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = LOSS_FUNCTIONS[name](
            logits,
            tf.constant([[0.0, 1, 0], [0, 0, 0]]),
            tf.constant([[1.0, 1, 0], [0, 0, 0]]),
        )
    gradient = tape.gradient(value, logits).numpy()
    assert np.isfinite(float(value)) and np.isfinite(gradient).all()
    assert (
        gradient[0, 1] < 0 < gradient[0, 0] and not gradient[:, 2].any() and not gradient[1].any()
    )
