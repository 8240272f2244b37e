"""Lookups in sorted arrays, and columns on disk."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.serving.runtime.arrays import find, load_column, save_column


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


def test_equal_texts_take_memory_once(tmp_path):
    save_column(tmp_path / "column", np.array(["Oslo", "Lima", "Oslo"], object))
    first, _, third = load_column(tmp_path / "column")
    assert first is third
