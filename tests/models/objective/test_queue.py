"""The queue of earlier positives: first in, first out, and restored from a checkpoint."""

from __future__ import annotations

import numpy as np


def candidates(start, n):
    """n candidates numbered from `start`; embedding, row and log_q all encode the number."""
    number = np.arange(start, start + n)
    embeddings, log_q = np.stack([number, -number], 1), number / 8
    return embeddings.astype(np.float32), number, log_q.astype(np.float32)


def test_the_queue_keeps_the_latest_candidates():
    from twotower.models.objective.queue import CrossBatchQueue

    queue = CrossBatchQueue(size=5, dim=2)
    assert not queue.trainable_weights
    # The slots after each push: 3 fit, 3 more wrap around, 7 are more than the queue holds.
    for start, n, slots in (
        (10, 0, [-1, -1, -1, -1, -1]),
        (10, 3, [10, 11, 12, -1, -1]),
        (13, 3, [15, 11, 12, 13, 14]),
        (16, 7, [20, 21, 22, 18, 19]),
        (23, 5, [25, 26, 27, 23, 24]),
    ):
        queue.push(*candidates(start, n))
        embeddings, rows, log_q, valid = (each.numpy() for each in queue.read())
        np.testing.assert_array_equal(rows, slots)
        np.testing.assert_array_equal(valid, rows >= 0)
        np.testing.assert_array_equal(embeddings, np.where(valid, [rows, -rows], 0).T)
        np.testing.assert_array_equal(log_q, np.where(valid, rows / 8, np.inf))


def test_the_queue_is_restored_from_a_checkpoint(tmp_path):
    import tensorflow as tf

    from twotower.models.objective.queue import CrossBatchQueue

    queue, other = CrossBatchQueue(5, 2), CrossBatchQueue(5, 2)
    push = tf.function(queue.push)
    push(*candidates(0, 4))
    path = tf.train.Checkpoint(queue=queue).save(str(tmp_path / "queue"))
    tf.train.Checkpoint(queue=other).restore(path).assert_consumed()
    push(*candidates(4, 3))
    other.push(*candidates(4, 3))
    for one, same in zip(queue.read(), other.read(), strict=True):
        np.testing.assert_array_equal(one, same)
