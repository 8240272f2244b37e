"""Propagation over a small graph, against the normalised adjacency matrix written out."""

from __future__ import annotations

import numpy as np
import pytest

EDGES = np.array([[0, 0], [0, 1], [1, 1], [2, 1], [2, 2], [0, 0]])  # one edge is given twice
USERS, ITEMS = 4, 3  # the last user has no edge


@pytest.fixture(scope="module")
def adjacency():
    matrix = np.zeros((USERS, ITEMS))
    matrix[EDGES[:, 0], EDGES[:, 1]] = 1
    whole = np.block([[np.zeros((USERS, USERS)), matrix], [matrix.T, np.zeros((ITEMS, ITEMS))]])
    counts = np.maximum(whole.sum(axis=0), 1)
    return whole / np.sqrt(np.outer(counts, counts))


@pytest.fixture
def graph():
    from twotower.models.graph.propagation import Graph

    return Graph(EDGES[:, 0], EDGES[:, 1], USERS, ITEMS)


def vectors(seed=0):
    return np.random.default_rng(seed).normal(size=(USERS + ITEMS, 2)).astype(np.float32)


def test_each_layer_multiplies_by_the_normalised_adjacency_matrix(graph, adjacency):
    start = vectors()
    layers = graph.layers(start[:USERS], start[USERS:], 3)
    expected = start
    for users, items in layers:
        np.testing.assert_allclose(np.vstack([users, items]), expected, atol=1e-6)
        expected = adjacency @ expected


def test_the_gradient_of_the_sums_is_that_of_the_matrix(graph, adjacency):
    import tensorflow as tf

    start, weights = tf.Variable(vectors()), vectors(seed=1)
    with tf.GradientTape() as tape:
        users, items = graph.sums(start[:USERS], start[USERS:], 2)
        loss = tf.reduce_sum(tf.concat([users, items], 0) * weights)
    expected = (np.eye(USERS + ITEMS) + adjacency + adjacency @ adjacency).T @ weights
    np.testing.assert_allclose(
        tf.convert_to_tensor(tape.gradient(loss, start)), expected, atol=1e-5
    )


def test_the_edges_are_not_copied_into_the_function():
    """TensorFlow refuses a function of more than 2 GB, 16 copies of 15 million edges."""
    import tensorflow as tf

    from twotower.models.graph.propagation import Graph

    edges = np.random.default_rng(0).integers(1000, size=(2, 20_000))
    graph = Graph(edges[0], edges[1], 1000, 1000)
    vector = tf.TensorSpec([1000, 4])
    function = tf.function(graph.sums).get_concrete_function(vector, vector, 2)
    assert function.graph.as_graph_def().ByteSize() < 20_000
