"""Served answers against brute force, and that the comparison can fail."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.verify import count_wrong, verify


def test_served_equals_brute_force_on_synthetic_data(small_run):
    found = verify(small_run, count=400, k=280)  # most users run out of unseen items before 280
    assert found.holds and found.users == 400


def test_served_equals_brute_force_on_movielens_100k(ml_100k_run):
    assert verify(ml_100k_run, count=500, k=100).holds


@pytest.mark.parametrize(
    "ids, wrong",
    [
        ([[1, 2, 3, 4]], 0),
        ([[1, 3, 2, 4]], 0),  # 2 and 3 tie
        ([[2, 1, 3, 4]], 2),  # 1 and 2 do not
        ([[1, 2, 9, 4]], 1),  # 9 is not there at all
        ([[1, 2, 3, 9]], 0),  # tied at the cut: 9 may have the same score as 4
    ],
)
def test_only_ties_may_differ(ids, wrong):
    expected = np.array([[1, 2, 3, 4]])
    scores = np.array([[0.9, 0.5, 0.5, 0.1]])
    assert count_wrong(np.array(ids), expected, scores) == wrong
