"""Sparse optimizers compared with references, and the rows that they do not change."""

from __future__ import annotations

import numpy as np
import pytest


def steps(optimizer, gradients, start):
    """Values of a variable after each gradient; a pair (rows, values) is a sparse gradient."""
    import tensorflow as tf

    variable = tf.Variable(start)
    optimizer.build([variable])
    seen = []
    for gradient in gradients:
        if isinstance(gradient, tuple):
            rows, values = gradient
            gradient = tf.IndexedSlices(tf.constant(values), tf.constant(rows), start.shape)
        else:
            gradient = tf.constant(gradient)
        optimizer.apply_gradients([(gradient, variable)])
        seen.append(variable.numpy().copy())
    return seen


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_lazy_adam_is_adam_where_every_row_has_a_gradient(table):
    import tensorflow as tf

    from twotower.models.training.optimizers import LazyAdam

    random = np.random.default_rng(1)
    dense = [random.normal(size=(5, 3)).astype(np.float32) for _ in range(6)]
    sparse = [(np.arange(5), gradient) for gradient in dense]
    adam = steps(tf.keras.optimizers.Adam(0.1), dense, table)
    for gradients in (dense, sparse):
        for ours, theirs in zip(steps(LazyAdam(0.1), gradients, table), adam, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_lazy_adam_changes_only_the_rows_in_the_batch(table):
    from twotower.models.training.optimizers import LazyAdam

    one = np.ones((1, 3), np.float32)
    first, second = steps(LazyAdam(0.1), [([2], one), ([4], one)], table)
    np.testing.assert_allclose(first[2], table[2] - 0.1, rtol=1e-4)
    np.testing.assert_array_equal(second[2], first[2])
    np.testing.assert_array_equal(second[[0, 1, 3]], table[[0, 1, 3]])


def test_lazy_adam_catches_up_on_skipped_steps(table):
    """When the bias correction is about 1, it equals Adam after a row's next gradient."""
    import tensorflow as tf

    from twotower.models.training.optimizers import LazyAdam

    random = np.random.default_rng(3)
    gradients = random.normal(size=(40, 5, 3)).astype(np.float32)
    present = random.random((40, 5)) < 0.3
    present[-1] = True
    dense = [gradient * here[:, None] for gradient, here in zip(gradients, present, strict=True)]
    sparse = [
        (np.flatnonzero(here), gradient[here])
        for gradient, here in zip(gradients, present, strict=True)
    ]

    adam, lazy = tf.keras.optimizers.Adam(0.01), LazyAdam(0.01)
    for optimizer in (adam, lazy):
        optimizer.iterations.assign(100_000)
    ours, theirs = steps(lazy, sparse, table), steps(adam, dense, table)
    np.testing.assert_allclose(ours[-1], theirs[-1], atol=1e-5)
    assert np.abs(ours[-2] - theirs[-2]).max() > 0.01, (
        "before that gradient, the skipped steps are missing"
    )


def test_duplicate_rows_of_a_gradient_are_added_up(table):
    from twotower.models.training.optimizers import LazyAdam, RowWiseAdagrad

    values = np.array([[1, 2, 3], [4, 5, 6], [-1, 0, 1]], np.float32)
    once = ([1, 3], np.array([[0, 2, 4], [4, 5, 6]], np.float32))
    for kind in (LazyAdam, RowWiseAdagrad):
        twice = steps(kind(0.1), [([1, 3, 1], values)] * 2, table)
        for ours, theirs in zip(twice, steps(kind(0.1), [once] * 2, table), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sparse", [False, True])
def test_row_wise_adagrad_equals_numpy(table, sparse):
    from twotower.models.training.optimizers import RowWiseAdagrad

    random = np.random.default_rng(2)
    gradients, expected, sums = [], table.copy(), np.full((5, 1), 0.5)
    for _ in range(4):
        rows = np.array([0, 3]) if sparse else np.arange(5)
        values = random.normal(size=(len(rows), 3)).astype(np.float32)
        gradients.append((rows, values) if sparse else values)
        sums[rows] += (values**2).mean(axis=1, keepdims=True)
        expected[rows] -= 0.2 * values / np.sqrt(sums[rows])
    optimizer = RowWiseAdagrad(0.2, initial_accumulator_value=0.5, epsilon=0.0)
    np.testing.assert_allclose(steps(optimizer, gradients, table)[-1], expected, rtol=1e-5)
    shapes = [tuple(v.shape) for v in optimizer.variables if v.shape.rank]
    assert shapes == [(5, 1)], "one accumulator per row"


def test_a_bias_has_an_accumulator_for_every_value():
    from twotower.models.training.optimizers import RowWiseAdagrad

    bias = np.zeros(2, np.float32)
    moved = steps(RowWiseAdagrad(1.0, 0.0, 0.0), [np.array([3, -0.01], np.float32)], bias)
    np.testing.assert_allclose(moved[0], [-1, 1])


def test_optimizers_can_be_recreated_from_their_config():
    from twotower.models.training.optimizers import OPTIMIZERS

    for kind in OPTIMIZERS.values():
        again = kind.from_config(kind(0.25).get_config())
        assert float(again.learning_rate) == 0.25
