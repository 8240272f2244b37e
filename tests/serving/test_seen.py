"""Seen items and the arrays they and the vocabularies are kept in."""

from __future__ import annotations

import numpy as np
import pytest

from serving.runtime.arrays import find, load_column, save_column
from serving.runtime.seen import SeenItems


def row(seen: SeenItems, user: int) -> list[int]:
    start, stop = seen.rows(np.array([user]))
    return seen.item_ids[start[0] : stop[0]].tolist()


def test_pairs_become_sorted_unique_rows(tmp_path):
    seen = SeenItems.from_pairs([5, -2, 5, 5, 2**62], [9, 1, 3, 9, 7])
    seen.save(tmp_path)
    for each in (seen, SeenItems.load(tmp_path)):
        assert [row(each, user) for user in (5, -2, 2**62, 4)] == [[3, 9], [1], [7], []]


def test_positions_drop_items_that_the_catalogue_lacks():
    seen = SeenItems.from_pairs([1, 1, 1, 2], [30, 10, 99, 99]).positions(np.array([10, 20, 30]))
    assert [row(seen, user) for user in (1, 2)] == [[0, 2], []]


def test_nobody_has_seen_anything():
    seen = SeenItems.from_pairs([], []).positions(np.array([10]))
    assert row(seen, 1) == []


def test_find_tells_the_missing_apart():
    position, known = find(np.array([2, 5, 9]), np.array([9, 1, 10, 5, 2]))
    assert known.tolist() == [True, False, False, True, True]
    assert position[known].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "values",
    [
        np.array(["", "a\0", "\0", "東京", "x" * 300, "🦉"], object),
        np.array([], object),
        np.array([1, -(2**63)]),
        np.array([0.5, -0.0], np.float32),
    ],
)
def test_columns_survive_the_disk(values, tmp_path):
    save_column(tmp_path / "column", values)
    loaded = load_column(tmp_path / "column")
    assert loaded.dtype == values.dtype
    assert loaded.tolist() == values.tolist()
