"""Which part interactions that are no positives belong to, by hand for each method of the split."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.pipelines.conftest import small_config
from twotower.models.ranking.candidates import NO_ITEM, Candidates
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.ranking.interactions import load_interactions, with_clicks

# user, item, rating (positive from 3), time, part of the positives
ROWS = [
    (1, 10, 5, 1, "train"),
    (1, 11, 1, 2, None),
    (1, 12, 4, 3, "train"),
    (1, 13, 2, 4, None),
    (1, 14, 4, 5, "valid"),
    (1, 15, 1, 6, None),
    (1, 16, 5, 7, "test"),
    (1, 17, 2, 8, None),
    (2, 13, 4, 2, "train"),
    (2, 14, 1, 9, None),
]
OTHERS = [(1, 11), (1, 13), (1, 15), (1, 17), (2, 14)]


def made(tmp_path, rows=ROWS, *overrides, **columns):
    """A run folder with these interactions and their split."""
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp", "of"])
    for folder in ("data", "processed"):
        (tmp_path / folder).mkdir()
    log.drop(columns="of").assign(**columns).to_parquet(tmp_path / "data" / "interactions.parquet")
    for name in ("user", "item"):
        ids = pd.DataFrame({f"{name}_id": np.unique(log[f"{name}_id"])})
        ids.to_parquet(tmp_path / "data" / f"{name}s.parquet")
    split = log[log["of"].notna()].rename(columns={"of": "part"})
    split[["user_id", "item_id", "part"]].to_parquet(tmp_path / "processed" / "split.parquet")
    return SimpleNamespace(path=tmp_path, config=small_config(*overrides))


def parts(run):
    """The part of each pair that is no positive."""
    rows = load_interactions(run)
    users, items = np.array([1, 2])[rows["user_row"]], np.arange(10, 18)[rows["item_row"]]
    found = dict(zip(zip(users.tolist(), items.tolist(), strict=True), rows["part"], strict=True))
    return [found[pair] for pair in OTHERS]


@pytest.mark.parametrize(
    "method, expected",
    [
        # User 1 has the valid positive at 5 and the test one at 7; user 2 has train alone.
        ("leave_last_out", ["train", "valid", "valid", "test", "train"]),
        # Valid starts at 5, test at 7.
        ("temporal", ["train", "train", "valid", "test", "test"]),
        # Items 11, 15 and 17 have no positive; of item 13 it is in train, of 14 in valid.
        ("cold_items", [None, "train", None, None, "valid"]),
    ],
)
def test_other_interactions_have_the_part_that_the_method_gives_them(method, expected, tmp_path):
    found = parts(made(tmp_path, ROWS, f"split.method={method}"))
    assert [None if pd.isna(part) else part for part in found] == expected


def test_positives_have_their_part_and_those_that_were_left_out_have_none(tmp_path):
    # k-core has left out the positive of user 2 and item 10.
    rows = load_interactions(made(tmp_path, [*ROWS, (2, 10, 5, 3, None)]))
    assert rows["positive"].tolist() == [row[2] >= 3 for row in ROWS] + [True]
    assert rows.loc[rows["positive"], "part"].tolist()[:-1] == [row[4] for row in ROWS if row[4]]
    assert pd.isna(rows["part"].iloc[-1])


@pytest.mark.parametrize("method", ["random", "file"])
def test_without_a_rule_they_are_divided_at_random_in_the_shares_of_the_positives(method, tmp_path):
    rows = [(1, item, 5, 0, ("train", "train", "valid", "test")[item % 4]) for item in range(40)]
    rows += [(1, item, 1, 0, None) for item in range(40, 140)]
    run = made(tmp_path, rows, f"split.method={method}", "split.path=gone.parquet")
    found = load_interactions(run)
    counts = found.loc[~found["positive"], "part"].value_counts().to_dict()
    assert counts == {"train": 50, "valid": 25, "test": 25}
    assert found.equals(load_interactions(run))


def test_the_column_part_names_their_part(tmp_path):
    named = ["train", "test", "train", "valid", "valid", "train", "test", "valid", "train", "test"]
    run = made(tmp_path, ROWS, "split.method=column", part=named)
    assert parts(run) == [named[place] for place in (1, 3, 5, 7, 9)]


def test_a_pair_is_in_one_part_with_all_its_rows(tmp_path):
    rows = [*ROWS, (1, 14, 1, 1, None), (1, 15, 1, 9, None)]
    found = load_interactions(made(tmp_path, rows, "split.method=temporal"))
    # Item 14 is a valid positive; the last row of item 15 is after the first test positive.
    assert found["part"].iloc[[4, 10]].tolist() == ["valid", "valid"]
    assert found["part"].iloc[[5, 11]].tolist() == ["test", "test"]
    assert found["positive"].iloc[[4, 10]].tolist() == [True, False]


def test_clicks_are_the_interactions_of_the_valid_part_with_any_value(tmp_path):
    run = made(tmp_path, ROWS, "split.method=leave_last_out")
    items = np.array([[3, 4, 5, 6, 0], [4, 3, 1, 0, NO_ITEM]])
    labels = items == np.array([[4], [9]])
    found = Candidates(np.arange(2), items, np.zeros((2, 5, 1)), labels, labels.sum(axis=1))
    clicks = with_clicks(found, run, (2, 8)).clicks
    # Items 13, 14 (a positive) and 15 of user 1; nothing of user 2, whose only part is train.
    assert clicks.tolist() == [[True, True, True, False, False], [False] * 5]


def test_a_column_that_the_data_lack_is_named(tmp_path):
    run = made(tmp_path)
    with pytest.raises(ConfigError, match="the interactions have no column 'shown'; they have"):
        load_interactions(run, ["shown"])
