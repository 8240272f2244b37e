"""Answers from an approximate index, compared with brute force."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.pipelines.errors import RunError
from twotower.pipelines.index.served import check_approximate, compare

METADATA = {"kind": "hnsw", "recall": {"wanted": 0.9, "k": 100, "value": 0.95}}
IDS = np.array([2, 5, 7, 9])
SCORES = np.array([[4, 3, 2, 1], [1, -np.inf, 3, 2], [-np.inf] * 4], np.float32)


def test_recall_counts_found_items_of_users_with_items_left():
    found = compare(METADATA, np.array([[2, 5], [7, 2], [-1, -1]]), IDS, SCORES)
    assert (found.recall, found.excluded) == (0.75, 0)
    assert not found.holds, "more than 0.05 below 0.9"


def test_a_user_with_fewer_items_left_than_asked_for_has_them_all():
    found = compare(METADATA, np.array([[2, 5, 7, 9], [7, 9, 2, -1], [-1] * 4]), IDS, SCORES)
    assert found.recall == 1 and found.holds


def test_an_excluded_item_is_an_error():
    found = compare(METADATA, np.array([[2, 5], [7, 5], [9, -1]]), IDS, SCORES)
    assert found.excluded == 2
    good = np.array([[5, 2], [7, 9], [-1, -1]])
    assert check_approximate(METADATA, [good, good[:1]], IDS, SCORES).recall == 1
    with pytest.raises(RunError, match="1 excluded items"):
        check_approximate(METADATA, [good, np.array([[5, 2], [7, 5]])], IDS, SCORES)
