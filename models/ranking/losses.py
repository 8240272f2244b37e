"""The losses of the ranking model, over the candidates of each user."""

from __future__ import annotations

import tensorflow as tf

from twotower.models.ranking.base import served_logit


def binary(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of all candidates.

    Parameters
    ----------
    logits, labels, mask : tf.Tensor of float32, shape (users, candidates)
        Labels and mask are 0 or 1; candidates whose mask is 0 are padding.

    Returns
    -------
    tf.Tensor of float32, shape ()
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_sum(entropy * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)


def pairwise(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean of log(1 + exp(s- - s+)) over the pairs of a positive and another candidate of a user.

    Parameters are those of `binary` (RankNet: Burges et al., ICML 2005).
    """
    positive, other = labels * mask, (1 - labels) * mask
    pairs = positive[:, :, None] * other[:, None, :]
    differences = logits[:, :, None] - logits[:, None, :]
    total = tf.reduce_sum(pairs * tf.nn.softplus(-differences))
    return total / tf.maximum(tf.reduce_sum(pairs), 1.0)


def listwise(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of each user's softmax with the uniform distribution of their positives.

    Parameters are those of `binary`. Users without a positive among their candidates do not count
    (ListNet: Cao et al., ICML 2007).
    """
    positive = labels * mask
    count = tf.reduce_sum(positive, axis=1)
    logs = tf.nn.log_softmax(tf.where(mask > 0, logits, logits.dtype.min))
    # Padding has the log of 0, which times a label of 0 would be NaN.
    chosen = tf.reduce_sum(tf.where(positive > 0, logs, 0.0), axis=1)
    per_user = tf.math.divide_no_nan(-chosen, count)
    return tf.reduce_sum(per_user) / tf.maximum(tf.reduce_sum(tf.sign(count)), 1.0)


def two_labels(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Sum of the mean cross-entropies of the first label and of both, over all candidates.

    Parameters
    ----------
    logits : tf.Tensor of float32, shape (users, candidates, 2)
        Of the first label, and of the second one given the first.
    labels : tf.Tensor of float32, shape (users, candidates, 2)
        Whether the first label is true, and whether both are.
    mask : tf.Tensor of float32, shape (users, candidates)

    Returns
    -------
    tf.Tensor of float32, shape ()

    Notes
    -----
    The probability of both is a product, so the second factor is learned on all rows without a
    label of its own (equation 3 of Ma et al., SIGIR 2018).
    """
    first = binary(logits[..., 0], labels[..., 0], mask)
    return first + binary(served_logit(logits), labels[..., 1], mask)


LOSS_FUNCTIONS = {"binary": binary, "pairwise": pairwise, "listwise": listwise}
"""The loss of each name of `options.LOSSES`."""
