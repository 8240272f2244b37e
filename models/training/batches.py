"""Training batches: shuffled without a permutation in memory, the same after any interruption."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import tensorflow as tf

from twotower.models.batch_keys import ITEM_ROW, USER_ROW


def shuffled_batches(
    user_rows: np.ndarray, item_rows: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless batches {user_row, item_row} int32 [batch_size], one epoch after another.

    Every epoch has an order of its own over all interactions, and leaves out the last
    `n % batch_size` of it. What a step holds follows from the seed and its number
    alone, so training that goes on at `first_step` sees what it would have seen.

    Parameters
    ----------
    user_rows, item_rows : int32 [n], the interactions as rows of the user and item table. Only
        the batch's places are read, so they may be those of `map_rows`.
    """
    last, steps = len(user_rows) - 1, len(user_rows) // batch_size

    def rows(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return user_rows[places], item_rows[places]

    def batch(step):
        positions = step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
        # A permutation computed place by place, not stored.
        order = tf.random.experimental.index_shuffle(
            positions, [seed, step // steps], tf.constant(last, tf.int64)
        )
        users, items = tf.numpy_function(rows, [order], [tf.int32, tf.int32], stateful=False)
        return {
            USER_ROW: tf.ensure_shape(users, [batch_size]),
            ITEM_ROW: tf.ensure_shape(items, [batch_size]),
        }

    options = tf.data.Options()
    # Its thread wakes up once a minute at worst, and the end of training waits for it.
    options.autotune.enabled = False
    endless = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return endless.map(batch).prefetch(2).with_options(options)


def map_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """User and item rows int32 [n] of a file of pairs, left on disk: for more than fits in memory.

    The file holds int32 [n, 2] and nothing else, in the machine's byte order.
    """
    with path.open("rb") as file:
        pairs = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Read ahead, every batch would read some 30 times what it needs.
    pairs.madvise(mmap.MADV_RANDOM)
    rows = np.frombuffer(pairs, np.int32).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
