"""Top-k selection compared with a stable full sort, especially for equal scores."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from twotower.models.evaluation.top_k import topk

INF = np.inf


def sorted_fully(scores, k):
    """The definition: a stable sort of each row, cut off after k, without -inf."""
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, columns, axis=1)
    missing = ((0, 0), (0, k - columns.shape[1]))
    return (
        np.pad(np.where(values == -INF, -1, columns), missing, constant_values=-1),
        np.pad(values, missing, constant_values=-INF),
    )


def assert_is_the_full_sort(scores, k):
    columns, values = topk(scores, k)
    expected_columns, expected_values = sorted_fully(scores, k)
    np.testing.assert_array_equal(columns, expected_columns)
    np.testing.assert_array_equal(values, expected_values)
    assert columns.dtype == np.int64 and values.dtype == scores.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_are_broken_by_position_and_short_rows_padded(dtype):
    scores = np.array([[1, 2, 2, 2, 0], [-INF, 3, -INF, 3, -INF]], dtype)
    columns, values = topk(scores, 3)
    assert columns.tolist() == [[1, 2, 3], [1, 3, -1]]
    assert values.tolist() == [[2, 2, 2], [3, 3, -INF]]
    columns, values = topk(scores, 7)
    assert columns.tolist() == [[1, 2, 3, 0, 4, -1, -1], [1, 3, -1, -1, -1, -1, -1]]
    assert values.shape == (2, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 5, 30, 40])
def test_equals_a_stable_full_sort(k, dtype):
    rng = np.random.default_rng(k)
    for levels in (1, 2, 8, 1000):
        scores = rng.integers(0, levels, (60, 30)).astype(dtype) - dtype(levels // 2)
        scores[rng.random(scores.shape) < rng.choice([0, 0.3, 0.95], (60, 1))] = -INF
        assert_is_the_full_sort(scores, k)


@pytest.mark.parametrize(
    "row",
    [
        np.zeros(5000),
        np.full(5000, -INF),
        np.arange(5000),
        np.arange(5000)[::-1],
        np.arange(5000) // 40,  # equal scores on both sides of the cut
        np.where(np.arange(5000) == 4999, 1, 0),  # only the last column differs
        np.array([0.0, -0.0] * 2500),
        np.array([INF, -INF, 0, INF, -1] * 1000),
    ],
)
def test_whole_rows_of_equal_or_ordered_scores(row):
    for dtype in (np.float32, np.float64):
        for k in (1, 99, 100, 101, 250):
            assert_is_the_full_sort(np.tile(row.astype(dtype), (3, 1)), k)


def test_scores_that_differ_only_in_float64():
    rng = np.random.default_rng(3)
    scores = 1 + rng.permutation(400).reshape(4, 100) * 1e-12
    assert len(np.unique(scores.astype(np.float32))) == 1
    assert_is_the_full_sort(scores, 10)
    beyond = np.array([[1e300, -1e300, 2e300, -2e300, -INF, 0, -1e308]])  # of the range of float32
    assert_is_the_full_sort(beyond, 7)


def test_two_threads_answer_like_one():
    # Large enough for FAISS to use several threads.
    scores = np.random.default_rng(5).integers(0, 50, (64, 5000)).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        alone = topk(scores, 100)
        faiss.omp_set_num_threads(2)
        together = topk(scores, 100)
    finally:
        faiss.omp_set_num_threads(threads)
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, two)
    assert_is_the_full_sort(scores, 100)


def test_scores_may_be_a_view_of_a_larger_array():
    scores = np.random.default_rng(6).random((40, 30), dtype=np.float32)
    assert_is_the_full_sort(scores[::2, 3:17], 4)
    assert_is_the_full_sort(scores.T, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_k_may_be_a_numpy_integer(dtype):
    scores = np.random.default_rng(7).random((4, 9)).astype(dtype)
    assert_is_the_full_sort(scores, np.int64(5))
