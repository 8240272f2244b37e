"""Random draws of items, the hardest of them, and which of them are false negatives.

Pure functions of tensors that work in eager mode and in graphs. A draw depends on its seed alone
(int32 [2], from `stateless_fold_in` of a seed and a step), so that a resumed training draws what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def sample_uniform(n: int | tf.Tensor, n_items: int, seed: tf.Tensor) -> tf.Tensor:
    """Draw rows of the item table uniformly, with replacement.

    Parameters
    ----------
    n : int or scalar Tensor of int32
    n_items : int
    seed : Tensor of int32, shape (2,)

    Returns
    -------
    Tensor of int32, shape (n,)
    """
    return tf.random.stateless_uniform([n], seed, 0, n_items, tf.int32)


def sample_distinct(n: int, n_items: int, seed: tf.Tensor) -> tf.Tensor:
    """Draw different rows of the item table uniformly.

    Parameters
    ----------
    n : int
        At most `n_items`.
    n_items : int
    seed : Tensor of int32, shape (2,)

    Returns
    -------
    Tensor of int32, shape (n,)
    """
    # The first places of a random permutation.
    last, place = tf.constant(n_items - 1, tf.int64), tf.range(n, dtype=tf.int64)
    drawn = tf.random.experimental.index_shuffle(place, tf.cast(seed, tf.int64), last)
    return tf.cast(tf.ensure_shape(drawn, [n]), tf.int32)


def sample_popularity(
    n: int | tf.Tensor, counts: tf.Tensor, power: float, seed: tf.Tensor
) -> tf.Tensor:
    """Draw rows with a probability proportional to counts ** power, with replacement.

    Parameters
    ----------
    n : int or scalar Tensor of int32
    counts : Tensor of int or float, shape (rows,)
        0 or more, at least one above 0.
    power : float
        0 or more. Above 0, rows with a count of 0 are never drawn.
    seed : Tensor of int32, shape (2,)

    Returns
    -------
    Tensor of int64, shape (n,)

    Notes
    -----
    The log probabilities are `log_q(counts, power)`. The cumulative distribution is inverted, which
    takes O(rows + n log rows) and no noise of shape (n, rows). It is float64, which is precise
    enough for ten million rows. `cumulative_popularity` and `sample_cumulative` are its two halves:
    counts that stay the same are summed once, not in every step.
    """
    return sample_cumulative(n, cumulative_popularity(counts, power), seed)


def cumulative_popularity(counts: tf.Tensor, power: float) -> tf.Tensor:
    """Sum counts ** power over the rows up to each one, for `sample_cumulative`.

    Parameters
    ----------
    counts : Tensor of int or float, shape (rows,)
    power : float

    Returns
    -------
    Tensor of float64, shape (rows,)
    """
    return tf.cumsum(tf.pow(tf.cast(counts, tf.float64), power))


def sample_cumulative(n: int | tf.Tensor, upper: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw rows with a probability proportional to the steps of a cumulative distribution.

    Parameters
    ----------
    n : int or scalar Tensor of int32
    upper : Tensor of float64, shape (rows,)
        Ascending; see `cumulative_popularity`.
    seed : Tensor of int32, shape (2,)

    Returns
    -------
    Tensor of int64, shape (n,)
    """
    place = tf.random.stateless_uniform([n], seed, dtype=tf.float64) * upper[-1]
    # side="right" finds the first row whose upper end is above the place, so never an empty row.
    return tf.searchsorted(upper, place, side="right")


def hard_negatives(scores: tf.Tensor, valid: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Select the k highest valid scores of each row, highest first.

    Parameters
    ----------
    scores : Tensor of float32, shape (n, m)
    valid : Tensor of bool, shape (n, m)
        False for a column that is not a negative of the row, whatever its score.
    k : int
        At most m.

    Returns
    -------
    columns : Tensor of int32, shape (n, k)
    valid : Tensor of bool, shape (n, k)
        False where the row has fewer than k valid scores.
    """
    # A valid score of -inf must still rank above every invalid one.
    ranked = tf.where(valid, tf.maximum(scores, tf.float32.min), float("-inf"))
    columns = tf.math.top_k(ranked, k).indices
    return columns, tf.gather(valid, columns, batch_dims=1)


def known_pairs(user_rows: np.ndarray, item_rows: np.ndarray, items: int) -> np.ndarray:
    """Encode interactions for the look-up in `false_negatives`.

    Parameters
    ----------
    user_rows, item_rows : ndarray of int, shape (n,)
        All training interactions.
    items : int
        Number of rows of the item table.

    Returns
    -------
    ndarray of int64, shape (p,)
        Sorted and unique values of user * items + item.
    """
    return np.unique(user_rows.astype(np.int64) * items + item_rows)


def false_negatives(
    user_rows: tf.Tensor, candidate_rows: tf.Tensor, known: tf.Tensor, items: int
) -> tf.Tensor:
    """Find the candidates that are a known positive of a user.

    Parameters
    ----------
    user_rows : Tensor of int, shape (n,)
    candidate_rows : Tensor of int, shape (m,)
        Rows may repeat in both.
    known : Tensor of int64, shape (p,)
        From `known_pairs`.
    items : int
        Number of rows of the item table.

    Returns
    -------
    Tensor of bool, shape (n, m)

    Notes
    -----
    The positives of the users are looked up among the candidates, because they are fewer than the
    pairs. It takes O(h log m) for h positives of these users, and the time to copy the result.
    """
    first = tf.cast(user_rows, tf.int64) * items
    begin, end = tf.searchsorted(known, first), tf.searchsorted(known, first + items)
    own = tf.ragged.range(begin, end)
    # The same as own.value_rowids(), in a quarter of the time.
    row = tf.range(tf.size(own.values, tf.int64))
    row = tf.searchsorted(own.row_splits[1:], row, side="right", out_type=tf.int64)
    item = tf.gather(known, own.values) - tf.gather(first, row)
    candidates = tf.cast(candidate_rows, tf.int64)
    different = tf.unique(tf.sort(candidates)).y
    there = tf.searchsorted(different, item)
    # One extra column takes the positives that are not among the candidates.
    beyond = tf.size(different, tf.int64)
    found = tf.gather(tf.concat([different, [-1]], 0), there) == item
    place = tf.stack([row, tf.where(found, tf.cast(there, tf.int64), beyond)], axis=1)
    empty = tf.zeros([tf.size(first, tf.int64), beyond + 1], tf.bool)
    mask = tf.tensor_scatter_nd_update(empty, place, tf.ones_like(found))
    return tf.gather(mask, tf.searchsorted(different, candidates), axis=1)
