"""Merging what is new into the tidy tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.stored import Rows, StoredTables
from twotower.workflows.tables import (
    Tables,
    frame,
    merge,
    pair_codes,
    pairs_among,
    repeated_pairs,
    same,
)


def interactions(*rows: tuple) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip(("user_id", "item_id", "rating"), columns, strict=True)))


OLD = Tables(
    interactions((1, 10, 5.0), (2, 10, 1.0), (1, 20, None)),
    pa.table({"user_id": [1, 2], "city": ["Oslo", None]}),
    pa.table({"item_id": [10, 20], "genres": [["War"], []], "year": [1999, 2001]}),
)
NEW = Tables(
    # The first is there already, the second another rating of a pair, the third new.
    interactions((1, 20, None), (2, 10, 4.0), (3, 5, 3.0)),
    pa.table({"user_id": [3, 2], "city": ["Rome", "Bonn"]}),
    pa.table({"item_id": [5], "genres": [["Noir", "War"]], "year": [1950]}),
)


@pytest.fixture
def stored(tmp_path):
    def write(tables: Tables) -> StoredTables:
        tables.write(tmp_path)
        return StoredTables.read(tmp_path)

    return write


def rows(table: pa.Table | Rows) -> list[tuple]:
    table = table.read() if isinstance(table, Rows) else table
    return [tuple(row.values()) for row in table.to_pylist()]


def test_what_is_new_is_added_and_replaces_what_it_repeats(stored):
    merged, appended = merge(stored(OLD), NEW)
    assert appended == 2
    assert rows(merged.interactions) == [(1, 10, 5), (1, 20, None), (2, 10, 4), (3, 5, 3)]
    assert rows(merged.users) == [(1, "Oslo"), (2, "Bonn"), (3, "Rome")]
    assert rows(merged.items) == [(5, ["Noir", "War"], 1950), (10, ["War"], 1999), (20, [], 2001)]


def test_a_log_keeps_repeated_pairs(stored):
    merged, appended = merge(stored(OLD), NEW, keep_repeats=True)
    assert appended == 2
    assert rows(merged.interactions)[:3] == rows(OLD.interactions)
    assert rows(merged.interactions)[3:] == [(2, 10, 4), (3, 5, 3)]


@pytest.mark.parametrize("keep_repeats", [False, True])
def test_merging_again_changes_nothing_not_even_after_parquet(keep_repeats, stored, tmp_path):
    old = stored(OLD)
    merged, _ = merge(old, NEW, keep_repeats)
    assert not same(merged, old)
    merged.write(tmp_path / "merged")
    read = StoredTables.read(tmp_path / "merged")
    again, appended = merge(read, NEW, keep_repeats)
    assert appended == 0 and same(again, read)
    assert again.interactions.read().equals(read.interactions.read())


@pytest.mark.parametrize(
    "old, new, kind",
    [
        (pa.array([1, 2]), pa.array([7.0, None, float("nan")]), "int64"),  # as pandas stores it
        (pa.array([2**60 + 1, None]), pa.array([2**60 - 1, None, 7]), "int64"),
        (pa.array([0.5, 2.0]), pa.array([7, None, 2**53]), "double"),
        (pa.array(["a", None]), pa.array([None] * 3), "string"),
        (
            pa.array([[2**60 + 1], None]),
            pa.array([[7.0, None], None, [float("nan")]]),
            "list<element: int64>",
        ),
    ],
)
def test_a_column_keeps_its_type_and_every_value(old, new, kind, stored):
    before = pa.table({"user_id": [1, 2], "x": old})
    day = pa.table({"user_id": [3, 4, 5], "x": new})
    users = merge(stored(OLD._replace(users=before)), NEW._replace(users=day))[0].users
    assert str(users["x"].type) == kind

    def known(value):
        if isinstance(value, list):
            return [known(each) for each in value]
        return None if value != value else value

    assert users["x"].to_pylist() == known([*old.to_pylist(), *new.to_pylist()])


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            [1, 2],
            [3, 1.5],
            r"users: column x has whole numbers in the data before, but 1\.5 in the new",
        ),
        ([1, 2], [2.0**53, None], r"9007199254740992\.0 in the new data; store whole numbers, as"),
        ([1, 2], [3.0, float("inf")], r"users: column x has whole numbers .* inf in the new data"),
        (
            [[1], [2]],
            [[3.0], [4.0, 2.5]],
            r"column x has whole numbers in the data before, but 2\.5 in",
        ),
        ([1.5, 2.5], [2**53 + 1, 2], "column x has double in the data before: .*9007199254740993"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_value_that_the_type_cannot_hold_is_named(old, new, message, stored):
    before = pa.table({"user_id": [1, 2], "x": old})
    day = pa.table({"user_id": [3, 4], "x": new})
    with pytest.raises(DataError, match=message):
        merge(stored(OLD._replace(users=before)), NEW._replace(users=day))


def test_large_whole_numbers_are_exact_beside_nulls(stored):
    big = [2**60 + 1, None, 2**60]
    table = pa.table({"user_id": [1, 2, 3], "x": big, "lists": [big, None, []]})
    rows = frame(table)
    assert [None if pd.isna(value) else int(value) for value in rows["x"]] == big
    assert rows["lists"].tolist() == [big, None, []]
    assert frame(table.slice(2))["x"].dtype == np.int64
    old, nothing = (
        stored(OLD._replace(users=table)),
        NEW._replace(interactions=NEW.interactions.slice(0, 0)),
    )
    day = nothing._replace(users=table.slice(0, 1), items=NEW.items.slice(0, 0))
    assert same(merge(old, day)[0], old)
    other = day.users.set_column(1, "x", pa.array([2**60]))
    assert not same(merge(old, day._replace(users=other))[0], old)


def test_a_column_of_another_type_is_named(stored):
    text = NEW.users.set_column(1, "city", pa.array([1, 2]))
    with pytest.raises(
        DataError, match="users: column city has int64 in the new data, but string in"
    ):
        merge(stored(OLD), NEW._replace(users=text))


def test_pairs_among_looks_at_both_ids():
    left = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [10, 20, 10], "x": 0})
    right = pd.DataFrame({"user_id": [2, 1], "item_id": [10, 10]})
    assert pairs_among(left, right).tolist() == [True, False, True]
    assert pairs_among(left, right.iloc[:0]).tolist() == [False] * 3


IDS = {
    "small": np.arange(-3, 4),
    "large": np.array([-(2**63), -(2**62), -1, 0, 5, 2**62, 2**63 - 1]),
    "far": np.arange(2**63 - 8, 2**63 - 1),
}


@pytest.mark.parametrize("users", IDS)
@pytest.mark.parametrize("items", IDS)
def test_pairs_are_equal_if_both_ids_are(users, items):
    random = np.random.default_rng(1)
    user_ids, item_ids = (random.choice(IDS[name], 60) for name in (users, items))
    codes = pair_codes(user_ids, item_ids)
    assert codes.dtype == np.int64
    pairs = list(zip(user_ids.tolist(), item_ids.tolist(), strict=True))
    expected = [[one == other for other in pairs] for one in pairs]
    assert ((codes[:, None] == codes[None, :]) == expected).all()
    repeats, firsts = repeated_pairs(user_ids, item_ids)
    found = {row: pairs.index(pair) for row, pair in enumerate(pairs) if pairs.index(pair) < row}
    assert found and dict(zip(repeats.tolist(), firsts.tolist(), strict=True)) == found


@pytest.mark.parametrize("step", [1, -1])
def test_different_pairs_have_no_repeats(step):
    users, items = np.repeat(np.arange(5), 5)[::step], np.tile(np.arange(5), 5)[::step]
    order = np.random.default_rng(1).permutation(25)
    for rows in (slice(None), order, slice(0, 0)):
        repeats, firsts = repeated_pairs(users[rows], items[rows])
        assert len(repeats) == len(firsts) == 0
