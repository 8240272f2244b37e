"""Masks of the items that rows allow, and which of them are kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from twotower.serving.item_columns import item_columns
from twotower.serving.runtime.filters import masks
from twotower.serving.runtime.filters.masks import Masks

INF = np.inf


def table(where=None, allow=None, counts=None, states=None, rows=3):
    columns = {"k": np.full(rows, 2)}
    if where is not None:
        columns["where"] = np.array(where, object)
    if allow is not None:
        columns |= {
            "allow_item_ids": np.array(allow),
            "allow_item_ids__count": np.array(counts),
            "allow_item_ids__state": np.array(states, np.int8),
        }
    return columns


@pytest.fixture
def made() -> Masks:
    items = pa.table({"year": [1990, 1995, 2000, 2005]})
    return Masks(item_columns(items, ["year"]), np.array([10, 20, 30, 40]))


def test_rows_without_a_filter_need_no_mask(made):
    assert made.of(table()) is None
    assert made.of(table(where=["", "", ""])) is None
    assert made.of(table(allow=[], counts=[0] * 3, states=[2] * 3)) is None


def test_equal_predicates_share_a_row(made):
    bias = made.bias(made.of(table(where=['{"year": {"$gte": 2000}}'] * 3)))
    assert bias.tolist() == [-INF, -INF, 0, 0]
    assert bias.dtype == np.float32
    assert (made.made, made.found) == (1, 2)


def test_each_row_has_its_own(made):
    allowed = made.of(
        table(
            where=['{"year": {"$gte": 2000}}', "", '{"year": {"$lt": 1995}}'],
            allow=[10, 30, 99, 20, 20],
            counts=[3, 0, 2],
            states=[0, 2, 0],
        )
    )
    assert made.bias(allowed).tolist() == [
        [-INF, -INF, 0, -INF],
        [0, 0, 0, 0],
        [-INF, -INF, -INF, -INF],
    ]
    assert made.bias(allowed[:1]).tolist() == [[-INF, -INF, 0, -INF]]


def test_an_empty_list_allows_nothing(made):
    allowed = made.of(table(allow=[], counts=[0], states=[0], rows=1))
    assert made.bias(allowed).tolist() == [[-INF] * 4]


def test_the_oldest_masks_are_dropped(made, monkeypatch):
    monkeypatch.setattr(masks, "MAX_BYTES", 2 * 4 * 4)  # two masks of four items
    made = Masks(made.columns, made.item_ids)
    for year in (1, 2, 1, 3, 1, 2):
        made.of(table(where=[f'{{"year": {year}}}'], rows=1))
    # 1 and 2 are made, 1 is found, 3 drops 2, 1 is found, 2 is made again.
    assert (made.made, made.found, len(made.kept)) == (4, 2, 2)
