"""Withdrawn items: the column, catalogues that are complete, and what is said."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows.availability import (
    AVAILABLE,
    is_available,
    note_changes,
    read_available,
    settled,
    with_available,
    withdraw_unlisted,
)
from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids
from twotower.workflows.sources.findings import Findings

IDS = Ids.of(pa.array(["SKU-1", "SKU-2", "SKU-3", "SKU-4"]))
CODES = pa.table({"item_id": [0, 1, 2, 3], "price": [1.0, 2.0, 3.0, 4.0]})
SOME = with_available(CODES, np.array([True, False, True, False]))


def test_without_the_column_all_items_are_available(tmp_path):
    assert is_available(CODES).tolist() == [True] * 4
    for table, expected in ((CODES, [True] * 4), (SOME, [True, False, True, False])):
        pq.write_table(table, tmp_path / "items.parquet")
        assert read_available(tmp_path).tolist() == expected


def test_a_complete_catalogue_withdraws_the_rest():
    listed = CODES.take([0, 1])
    left = withdraw_unlisted(SOME, listed)
    assert is_available(left).tolist() == [True, False, False, False]
    assert left.drop([AVAILABLE]).equals(CODES)
    assert is_available(withdraw_unlisted(CODES, listed)).tolist() == [True, True, False, False]


def test_items_without_a_row_of_their_own_are_withdrawn_if_the_catalogue_is_complete():
    unlisted = pa.table([[9], [None], [None]], schema=SOME.schema)
    both = pa.concat_tables([SOME, unlisted])
    assert is_available(settled(both, lists_all_items=False))[-1]
    assert is_available(settled(both, lists_all_items=True)).tolist() == [1, 0, 1, 0, 0]
    assert settled(CODES, lists_all_items=True) is CODES


def noted(before: pa.Table, after: pa.Table, ids: Ids) -> list[tuple]:
    findings = Findings(lambda line: None)
    note_changes(before, after, ids, findings)
    return [(each.rule, each.count, each.text) for each in findings.entries]


def test_a_line_says_which_items_are_withdrawn_and_which_are_back():
    other = with_available(CODES, np.array([False, False, True, True]))
    assert noted(SOME, other, IDS) == [
        ("withdrawn_items", 1, "1 item withdrawn: in no answer (SKU-1)"),
        ("returned_items", 1, "1 item available again (SKU-4)"),
    ]
    assert noted(SOME, SOME, IDS) == []
    many = pa.table({"item_id": np.arange(1000)})
    none = with_available(many, np.arange(1000) == 7)
    (line,) = noted(none.slice(0, 0), none, Ids())
    assert line[1:] == (999, "999 items withdrawn: in no answer (0, 1, 2, 3, 4 and 994 more)")


def test_a_catalogue_without_any_item_is_refused():
    with pytest.raises(DataError, match="all 4 items are withdrawn, so there is nothing"):
        noted(SOME, with_available(CODES, np.zeros(4, bool)), IDS)
