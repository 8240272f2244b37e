"""The matrix of seen items."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.serving.runtime.errors import ServingError
from twotower.serving.seen import SeenItems


def rows(seen: SeenItems) -> list[list[int]]:
    return [items.tolist() for items in seen.rows(np.arange(len(seen.user_ids) + 1))]


def test_pairs_become_sorted_unique_rows():
    seen = SeenItems.from_pairs([5, -2, 5, 5, 2**62], [9, 1, 3, 9, 7])
    assert seen.user_ids.tolist() == [-2, 5, 2**62]
    assert rows(seen) == [[1], [3, 9], [7], []]  # the last for a user whom the table lacks


def test_every_user_of_the_table_has_a_row():
    seen = SeenItems.from_pairs([5, -2, 5], [9, 1, 3])
    assert rows(seen.of(np.array([-2, 0, 5, 7]))) == [[1], [], [3, 9], [], []]
    with pytest.raises(ServingError, match="user -2 has seen items, but is not in the user table"):
        seen.of(np.array([0, 5]))


def test_positions_drop_items_that_the_catalogue_lacks():
    seen = SeenItems.from_pairs([1, 1, 1, 2], [30, 10, 99, 99])
    positions, starts = seen.positions(np.array([10, 20, 30]))
    assert positions.tolist() == [0, 2]
    assert starts.tolist() == [0, 2, 2, 2]


def test_nobody_has_seen_anything():
    seen = SeenItems.from_pairs([], []).of(np.array([1, 2]))
    assert rows(seen) == [[], [], []]
    assert seen.positions(np.array([10]))[1].tolist() == [0, 0, 0, 0]
