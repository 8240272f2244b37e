"""Training batches: shuffled without a permutation in memory, the same after any interruption."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from models.layers import ITEM_ROW, USER_ROW


def shuffled_batches(
    user_rows: np.ndarray, item_rows: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless batches {user_row, item_row} int32 [batch_size], one epoch after another.

    Every epoch has an order of its own over all interactions, and leaves out the last
    `n % batch_size` of it. What a step holds follows from the seed and its number
    alone, so training that goes on at `first_step` sees what it would have seen.

    Parameters
    ----------
    user_rows, item_rows : int32 [n], the interactions as rows of the user and item table
    """
    rows = {USER_ROW: tf.constant(user_rows), ITEM_ROW: tf.constant(item_rows)}
    last, steps = len(user_rows) - 1, len(user_rows) // batch_size

    def batch(step):
        positions = step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
        # A permutation computed place by place, not stored.
        order = tf.random.experimental.index_shuffle(
            positions, [seed, step // steps], tf.constant(last, tf.int64)
        )
        return {name: tf.gather(values, order) for name, values in rows.items()}

    options = tf.data.Options()
    # Its thread wakes up once a minute at worst, and the end of training waits for it.
    options.autotune.enabled = False
    endless = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return endless.map(batch).prefetch(2).with_options(options)
