"""The graph of users and items, over which vectors are propagated."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy.sparse import csr_matrix

Pair = tuple[tf.Tensor, tf.Tensor]
"""Vectors of the users, float32 [n_users, dim], and of the items, float32 [n_items, dim]."""


class Graph:
    """A graph with an edge for each pair of a user and an item.

    Parameters
    ----------
    user_rows, item_rows : ndarray of int, shape (n_positives,)
        The edges; a repeated pair is one edge.
    n_users, n_items : int

    Attributes
    ----------
    user_scale, item_scale : ndarray of float32, shape (n_users, 1) and (n_items, 1)
        One over the root of the number of edges; 0 without edges.

    Notes
    -----
    A propagation replaces the vector of a user u by the sum over its items i of
    v_i / sqrt(n_u n_i), where n counts edges, and those of the items likewise (He et al., LightGCN,
    SIGIR 2020).
    """

    def __init__(
        self, user_rows: np.ndarray, item_rows: np.ndarray, n_users: int, n_items: int
    ) -> None:
        ones = np.ones(len(user_rows), bool)
        by_user = csr_matrix((ones, (user_rows, item_rows)), (n_users, n_items))
        by_item = by_user.T.tocsr()
        self.user_scale, self.item_scale = _scale(by_user), _scale(by_item)
        # Tensors that a tf.function captures. Arrays would be copied into its graph at each use.
        self._scales = tf.constant(self.user_scale), tf.constant(self.item_scale)
        self._of_users, self._of_items = _edges(by_user), _edges(by_item)
        self._n_users, self._n_items = n_users, n_items

    def layers(self, users: tf.Tensor, items: tf.Tensor, n: int) -> list[Pair]:
        """Return the vectors, and those after 1 to `n` propagations.

        Parameters
        ----------
        users : Tensor of float32, shape (n_users, dim)
        items : Tensor of float32, shape (n_items, dim)
        n : int

        Returns
        -------
        list of (users, items), of length n + 1
        """
        found = [(users, items)]
        for _ in range(n):
            users, items = self._propagated(users, items)
            found.append((users, items))
        return found

    def sums(self, users: tf.Tensor, items: tf.Tensor, n: int) -> Pair:
        """Return the sums of `layers`, differentiable in `users` and `items`."""

        @tf.custom_gradient
        def summed(users, items):
            def gradient(of_users, of_items):
                # The adjacency matrix is symmetric, and so is the sum of its powers.
                of_users, of_items = map(tf.convert_to_tensor, (of_users, of_items))
                return self._summed(of_users, of_items, n)

            return self._summed(users, items, n), gradient

        return summed(users, items)

    def _summed(self, users: tf.Tensor, items: tf.Tensor, n: int) -> Pair:
        layers = self.layers(users, items, n)
        return tf.add_n([each for each, _ in layers]), tf.add_n([each for _, each in layers])

    def _propagated(self, users: tf.Tensor, items: tf.Tensor) -> Pair:
        user_scale, item_scale = self._scales
        of_users = _sum_of_neighbours(items * item_scale, self._of_users, self._n_users)
        of_items = _sum_of_neighbours(users * user_scale, self._of_items, self._n_items)
        return of_users * user_scale, of_items * item_scale


def _scale(edges: csr_matrix) -> np.ndarray:
    counts = np.diff(edges.indptr)[:, None].astype(np.float32)
    return np.divide(1, np.sqrt(counts), out=np.zeros_like(counts), where=counts > 0)


def _edges(matrix: csr_matrix) -> tuple[tf.Tensor, tf.Tensor]:
    """The columns of the entries, row by row, and their rows, both int32."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    return tf.constant(matrix.indices, tf.int32), tf.constant(rows)


def _sum_of_neighbours(vectors: tf.Tensor, edges: tuple[tf.Tensor, tf.Tensor], n: int) -> tf.Tensor:
    columns, rows = edges
    return tf.sparse.segment_sum(vectors, columns, rows, num_segments=n)
