"""The recipe by the size and the kind of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.pipelines.init import shops
from twotower.pipelines.init.guess import Named
from twotower.pipelines.init.settings import batch_size, run_name, settings

FILES = {"interactions": "log.csv"}


@pytest.mark.parametrize("positives", [100, 1_000, 14_000, 60_000, 500_000, 20_000_000])
def test_an_epoch_has_about_64_steps_until_the_batch_is_large(positives):
    size = batch_size(positives)
    assert size & (size - 1) == 0 and 16 <= size <= 4096
    if 16 < size < 4096:
        assert 40 < positives / size < 100
    assert size < 0.7 * positives  # even the training part of a small file fills a batch


def test_features_of_each_kind(guess_of):
    tree = settings(guess_of(shops.retail()), FILES, "log")
    assert tree["features"] == {
        "user": ["Country"],
        "item_text": {"Description": 5},
        "item_numeric": ["UnitPrice"],
        "history": 50,
    }
    assert tree["serving"]["filters"] == ["UnitPrice"]
    assert tree["model"] == {"buckets": 10}
    assert tree["evaluation"] == {"ks": [10, 20]}  # of 80 items


@pytest.mark.parametrize(
    ("shop", "duplicates", "seen"),
    [
        (shops.chinese, "keep_last", "interactions"),  # ratings: the last opinion counts
        (shops.events, "keep_all", "positives"),  # a view hides neither item nor purchase
        (shops.retail, "keep_all", "interactions"),  # counts add up
    ],
)
def test_repeats_and_seen_items(guess_of, shop, duplicates, seen):
    tree = settings(guess_of(shop()), FILES, "log")
    assert tree["ingest"]["files"]["duplicates"] == duplicates
    assert tree["serving"]["seen"] == seen


def test_a_feature_with_several_values_uses_the_last(guess_of):
    frame = shops.chinese()
    assert "differing" not in settings(guess_of(frame), FILES, "x")["ingest"]["files"]
    frame.loc[frame.index[::50], "类别"] = None  # the last known value is used without asking
    assert "differing" not in settings(guess_of(frame), FILES, "x")["ingest"]["files"]
    frame.loc[frame.index[25], "类别"] = "x"  # a single row is enough
    assert settings(guess_of(frame), FILES, "x")["ingest"]["files"]["differing"] == "keep_last"


def test_features_that_were_named_are_the_only_ones(guess_of):
    named = Named(user_features=[], item_features=["UnitPrice", "Quantity"])
    tree = settings(guess_of(shops.retail(), named=named), FILES, "x")
    assert tree["features"] == {"item_numeric": ["UnitPrice", "Quantity"], "history": 50}


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/My orders (1).csv.gz", "My-orders-1"), ("日.csv", "data"), ("last.csv", "last-data")],
)
def test_names_of_runs(path, name):
    assert run_name(path) == name


def test_lists_and_yes_or_no(guess_of):
    frame = pd.DataFrame({"user": shops.USER, "item": shops.ITEM})
    frame["tags"] = [["a", "b", "c"][: item % 3 + 1] for item in shops.ITEM]
    frame["bought"] = ["yes" if stars > 2 else "no" for stars in shops.STARS]
    tree = settings(guess_of(frame), FILES, "x")
    assert tree["features"]["item_multi_hot"] == {"tags": 3}
    assert tree["positives"] == {"column": "bought", "values": ["yes"]}


@pytest.mark.parametrize("name", ["pos", "Position", "sequence", "item_order"])
def test_places_are_an_order_where_there_are_no_times(guess_of, name):
    frame = shops.events()[["visitorid", "itemid"]]
    frame[name] = frame.groupby("visitorid").cumcount()
    found = guess_of(frame)
    assert (found.time, found.order, found.split.method) == (None, name, "leave_last_out")
    assert settings(found, FILES, "x")["ingest"]["files"]["order"] == name
    assert name not in found.features.left_out and not found.features.context
    # Numbers that are called times but are the same order give way to it.
    found = guess_of(frame.assign(time_group=np.arange(len(frame)) // 2))
    assert (found.time, found.order) == (None, name)
    assert f"order the rows like {name}" in found.features.left_out["time_group"]
    # Places in a list that is shown are no places of a user's items.
    assert guess_of(frame.assign(**{name: frame[name] % 3})).order is None
    assert guess_of(frame.assign(timestamp=shops.SECONDS)).order is None


def test_a_file_in_the_wrong_order_is_split_by_its_places(guess_of):
    frame = shops.events()[["visitorid", "itemid"]]
    frame["pos"] = frame.groupby("visitorid").cumcount()
    shuffled = frame.sample(frac=1, random_state=1)
    assert guess_of(shuffled).split == guess_of(frame).split
