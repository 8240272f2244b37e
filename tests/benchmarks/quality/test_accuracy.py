"""Top-k accuracy, computed by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.accuracy import accuracy
from tests.models.conftest import Table, matrix


def test_accuracy_is_the_share_of_interactions_in_the_top_k():
    # User 0 ranks 0 1 2 3, user 1 ranks 3 2 1 0, user 2 has nothing to find.
    scores = Table(np.array([[4, 3, 2, 1], [1, 2, 3, 4], [1, 1, 1, 1]], np.float32))
    relevant = matrix([{1, 2, 3}, {0}, set()], 4)
    nothing, seen = matrix([set()] * 3, 4), matrix([{0}, {1, 2, 3}, set()], 4)
    assert accuracy(scores, relevant, nothing, k=2) == 1 / 4  # item 1 of user 0
    assert accuracy(scores, relevant, seen, k=2) == 3 / 4  # 1 and 2; and 0, the only one left
