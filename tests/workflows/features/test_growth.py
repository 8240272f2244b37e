"""Vocabularies with new values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflows.features.conftest import (
    ITEMS,
    TRAIN,
    USERS,
    WIDE_CONFIG,
    WIDE_ITEMS,
    WIDE_TRAIN,
    WIDE_USERS,
)
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import encode, load_workflow
from twotower.workflows.features.graph import fit_features
from twotower.workflows.features.growth import grow_features

GROWN_USERS = pd.DataFrame(
    {
        "user_id": [1, 2, 3, 4, 5, 9],
        "likes": [["a", "b", "c"], [], ["z", "a", "y"], ["z", "x"], None, ["b", None, "new"]],
        "codes": [[7], [7, 8], [10, 9], [9], None, [8, 9, 7, 7]],
        "height": [3.0, 1.0, 100.0, np.nan, np.nan, 5.0],
        "visits": [1, 1, 9, 9, 2, 3],
    }
)


GROWN_TRAIN = pd.DataFrame({"user_id": [3, 4, 4], "item_id": [30, 30, 10]})


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """The workflow of lists and numbers, before and after users 3 and 4 came."""
    old, new = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    fit_features(WIDE_TRAIN, WIDE_USERS, WIDE_ITEMS, WIDE_CONFIG, old)
    train = pd.concat([WIDE_TRAIN, GROWN_TRAIN])
    grow_features(old, train, GROWN_USERS, WIDE_ITEMS, WIDE_CONFIG, new / "workflow")
    return load_workflow(old), load_workflow(new / "workflow")


def test_what_a_vocabulary_has_keeps_its_code_and_new_values_follow(grown):
    before, after = (encode(each, "user", GROWN_USERS) for each in grown)
    one, two, three = before["user_id"][[0, 1, 4]]
    assert before["user_id"].tolist() == [one, two, 2, 2, three, 2]
    # User 4 has two of the new rows, user 3 one; z has three, x two, a four, of them one new.
    assert after["user_id"].tolist() == [one, two, 7, 6, three, 2]
    (a, b), _ = before["likes"][:2]
    assert [list(each) for each in after["likes"]] == [[a, b], [], [6, a], [6, 7], [], [b, 2]]
    seven, eight = before["codes"][1]
    assert after["codes"][2].tolist() == [6, 5] and after["codes"][1].tolist() == [seven, eight]
    items = [encode(each, "item", WIDE_ITEMS)["item_id"].tolist() for each in grown]
    assert items[1] == [*items[0][:2], 5] and items[0][2] == 2


def test_numbers_mean_after_growing_what_they_meant_before(grown):
    before, after = (encode(each, "user", GROWN_USERS) for each in grown)
    pd.testing.assert_frame_equal(before[["height", "visits"]], after[["height", "visits"]])


def test_domains_grow_and_nothing_else_of_the_schema(grown):
    before, after = (each.output_schema for each in grown)
    sizes = {name: (before[name].int_domain.max, after[name].int_domain.max) for name in SIZES}
    assert sizes == SIZES
    for old, new in zip(before, after, strict=True):
        assert (old.name, old.dtype, old.tags, old.is_list) == (
            *(new.name, new.dtype, new.tags, new.is_list),
        )
        assert old.properties.get("value_count") == new.properties.get("value_count")


SIZES = {"user_id": (5, 7), "likes": (5, 8), "codes": (4, 6), "item_id": (4, 5), "genres": (5, 5)}


def test_a_value_enters_the_vocabulary_once_it_is_frequent_enough(tmp_path):
    config = FeaturesConfig(user=["city"], min_frequency=2)
    fit_features(TRAIN, USERS, ITEMS, config, tmp_path / "old")
    train = pd.concat([TRAIN, pd.DataFrame({"user_id": [5, 9], "item_id": [10, 10]})])
    workflow = grow_features(tmp_path / "old", train, USERS, ITEMS, config, tmp_path / "new")
    assert encode(workflow, "user", USERS)["user_id"].tolist() == [3, 4, 2]
    assert encode(workflow, "user", USERS)["city"].tolist() == [3, 1, 2]


def test_a_column_that_has_nulls_by_now_keeps_its_codes(tmp_path):
    config = FeaturesConfig(user=["age"])
    old = fit_features(TRAIN, USERS, ITEMS, config, tmp_path / "old")
    users = USERS.assign(age=[30, 40, np.nan])
    train = pd.concat([TRAIN, pd.DataFrame({"user_id": [9], "item_id": [10]})])
    new = grow_features(tmp_path / "old", train, users, ITEMS, config, tmp_path / "new")
    known = encode(old, "user", USERS)["age"].tolist()[:2]
    assert encode(new, "user", users)["age"].tolist() == [*known, 1]


def test_columns_of_any_name_grow_like_others(tmp_path):
    config = FeaturesConfig(user=["zip-code"], item_multi_hot={"labels": 2}, item_numeric=["€/kg"])
    users = USERS.rename(columns={"city": "zip-code"})
    items = ITEMS.rename(columns={"genres": "labels"}).assign(**{"€/kg": [1, 3, 5]})
    before = fit_features(TRAIN, users, items, config, tmp_path / "before")
    later = pd.concat([TRAIN, pd.DataFrame({"user_id": [9, 9], "item_id": [30, 30]})])
    after = grow_features(tmp_path / "before", later, users, items, config, tmp_path / "after")
    (codes,) = (c for c in encode(before, "user", users) if "zip" in c)
    assert encode(before, "user", users)[codes].tolist() == [3, 1, 2]
    assert encode(after, "user", users)[codes].tolist() == [3, 1, 4]
    others = [encode(workflow, "item", items).iloc[:, 1:] for workflow in (before, after)]
    pd.testing.assert_frame_equal(others[0], others[1])


def test_large_whole_numbers_are_distinguished_beside_nulls(tmp_path):
    big = 2**60
    config = FeaturesConfig(user=["age"])
    users = USERS.assign(age=pd.array([big, big + 1, None], "Int64"))
    train = pd.concat([TRAIN, pd.DataFrame({"user_id": [9], "item_id": [10]})])
    old = fit_features(TRAIN, users[:2].astype({"age": "int64"}), ITEMS, config, tmp_path / "old")
    grown = grow_features(tmp_path / "old", train, users, ITEMS, config, tmp_path / "grown")
    new = fit_features(train, users, ITEMS, config, tmp_path / "new")
    assert encode(old, "user", users[:2])["age"].tolist() == [3, 4]
    for workflow in (grown, new):
        assert encode(workflow, "user", users)["age"].tolist() == [3, 4, 1]
        requested = users.assign(age=[big + 1, big, 5])  # as a request has them
        assert encode(workflow, "user", requested)["age"].tolist() == [4, 3, 2]


@pytest.mark.parametrize("column", ["city", "age"])
def test_an_empty_vocabulary_gets_its_first_values(column, tmp_path):
    config = FeaturesConfig(user=[column], min_frequency=4)
    old = fit_features(TRAIN, USERS, ITEMS, config, tmp_path / "old")
    assert encode(old, "user", USERS)[column].tolist()[0] == 2
    train = pd.concat([TRAIN, TRAIN[:1]])
    new = grow_features(tmp_path / "old", train, USERS, ITEMS, config, tmp_path / "new")
    assert encode(new, "user", USERS)[column].tolist()[0] == 3
