"""Which rows are positives, and the history made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.workflows.features.conftest import ITEMS, USERS
from twotower.workflows.errors import DataError
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.encode import as_arrays, encode
from twotower.workflows.features.graph import fit_features
from twotower.workflows.features.growth import grow_features
from twotower.workflows.features.positives import (
    add_history,
    filter_positives,
    is_positive,
    pair_weights,
)
from twotower.workflows.interactions.positives import check_stored


def test_positives_are_the_rows_at_or_above_the_threshold():
    rows = pd.DataFrame({"user_id": [1, 2, 3, 4], "rating": [2.5, 3.0, 5.0, 1.0]})
    kept = filter_positives(rows, PositivesConfig(column="rating", at_least=3))
    assert kept["user_id"].tolist() == [2, 3]


@pytest.mark.parametrize("name", ["a.b", "labels", "is click?", "self", "class", "", "../x", "日"])
def test_the_column_of_positives_may_have_any_name(name):
    rows = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 9], name: [0.5, 1.0, 3.0]})
    kept = filter_positives(rows, PositivesConfig(column=name))
    assert kept.to_dict("list") == rows[1:].to_dict("list")


def test_without_a_column_every_row_is_positive():
    rows = pd.DataFrame({"user_id": [1, 2]})
    assert len(filter_positives(rows, PositivesConfig())) == 2


def check(rows: pd.DataFrame, config: PositivesConfig, folder: Path) -> None:
    """Check interactions as they are stored."""
    rows.to_parquet(folder / "interactions.parquet")
    check_stored(folder / "interactions.parquet", config, FeaturesConfig())


def test_no_positive_at_all_says_what_the_largest_value_is(tmp_path):
    rows = pd.DataFrame({"rating": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"no row has rating >= 6 \(its largest value is 2\)"):
        check(rows, PositivesConfig(column="rating", at_least=6), tmp_path)


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    rows = pd.DataFrame({"user_id": [1], "rating": [5.0]})
    with pytest.raises(DataError, match="no column 'stars'; they have user_id, rating"):
        check(rows, PositivesConfig(column="stars"), tmp_path)


HISTORY = FeaturesConfig(history=2)


SEEN = pd.DataFrame({"user_id": [1, 1, 1, 5, 5], "item_id": [10, 20, 30, 20, 10]})


def test_a_history_is_the_latest_positives_of_train_the_latest_first():
    times = [30, 10, 20, 7, 7]
    # Of a pair that is a positive twice the split takes the last row, whose time is 20.
    positives = pd.concat([SEEN[2:3].assign(timestamp=99), SEEN.assign(timestamp=times)])
    known = pa.Table.from_pandas(USERS)
    users = add_history(known, SEEN, positives, HISTORY)
    assert users["history"].to_pylist() == [[10, 30], [10, 20], []]
    assert users["city"].to_pylist() == USERS["city"].tolist()
    without_time = add_history(known, SEEN, SEEN, HISTORY)
    assert without_time["history"].to_pylist() == [[30, 20], [10, 20], []]
    assert add_history(known, SEEN, SEEN, FeaturesConfig()) is known


def test_a_history_has_the_codes_of_the_item_ids(tmp_path):
    from merlin.schema import Tags

    users = add_history(pa.Table.from_pandas(USERS), SEEN, SEEN, HISTORY).to_pandas()
    workflow = fit_features(SEEN, users, ITEMS, HISTORY, tmp_path)
    codes = dict(zip(ITEMS["item_id"], encode(workflow, "item", ITEMS)["item_id"], strict=True))
    lists = as_arrays(encode(workflow, "user", users), {"history": 2})["history"]
    assert lists.tolist() == [[codes[30], codes[20]], [codes[10], codes[20]], [0, 0]]
    assert workflow.output_schema.select_by_tag(Tags.SEQUENCE).column_names == ["history"]
    more_items = pd.DataFrame({"item_id": [10, 20, 30, 40], "year": 1999, "genres": [[]] * 4})
    later = pd.concat([SEEN, pd.DataFrame({"user_id": [9, 9, 9], "item_id": [40, 40, 40]})])
    grown = add_history(pa.Table.from_pandas(USERS), later, later, HISTORY).to_pandas()
    workflow = grow_features(tmp_path, later, grown, more_items, HISTORY, tmp_path / "grown")
    after = encode(workflow, "item", more_items)["item_id"].tolist()
    assert after[:3] == list(codes.values()) and after[3] == max(after)
    lists = as_arrays(encode(workflow, "user", grown), {"history": 2})["history"]
    assert lists[2].tolist() == [after[3], after[3]]


EVENTS = pd.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3],
        "item_id": [7, 8, 7, 9, 7],
        "event": ["view", "purchase", "addtocart", None, "view"],
        "code": [1, 3, 2, 3, 1],
    }
)


@pytest.mark.parametrize(
    "config, rows",
    [
        ({"column": "event", "values": ["purchase", "addtocart"]}, [1, 2]),
        ({"column": "event", "values": {"purchase": 5, "view": 1}}, [0, 1, 4]),
        ({"column": "code", "values": [3, 2.0]}, [1, 2, 3]),
        ({"column": "code", "values": {"3": 2.5}}, [1, 3]),
        ({"column": "code", "at_least": 3}, [1, 3]),
    ],
)
def test_values_select_the_positives(config, rows):
    config = PositivesConfig(**config)
    assert np.flatnonzero(is_positive(EVENTS, config)).tolist() == rows
    assert filter_positives(EVENTS, config)["item_id"].tolist() == EVENTS["item_id"][rows].tolist()


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"column": "event", "values": ["purchase", "buy"]},
            r"no row has 'buy' in column 'event' \(it has 'view', 'purchase', 'addtocart'\); corr",
        ),
        ({"column": "event", "values": [1]}, "column 'event' has texts, so put 1 in quotes"),
        (
            {"column": "code", "values": ["buy"]},
            r"column 'code' has numbers, but 'buy' is none \(it has ",
        ),
        (
            {"column": "event"},
            r"column 'event' has no numbers, .* \(it has 'view', .*\); name the values .* in "
            r"positives\.values",
        ),
        ({"weight": "event"}, "'event' has 'view', not a number; give the weights of texts as a m"),
        ({"weight": "price"}, r"positives\.weight: the interactions have no column 'price'; they"),
    ],
)
def test_what_does_not_fit_the_column_is_named_with_what_is_there(config, message, tmp_path):
    with pytest.raises(DataError, match=message):
        check(EVENTS, PositivesConfig(**config), tmp_path)


@pytest.mark.parametrize(
    "wrong, shown", [(0.0, "0"), (-1.0, "-1"), (np.inf, "inf"), (None, "no v")]
)
def test_a_weight_that_is_not_above_0_is_refused_with_its_row(wrong, shown, tmp_path):
    rows = EVENTS.assign(count=pd.Series([2.0, 1.0, wrong, wrong, 5.0], dtype=float))
    with pytest.raises(DataError, match=rf"has {shown}.* for user_id 2 and item_id 7 \(2 such pos"):
        check(rows, PositivesConfig(weight="count"), tmp_path)
    # Other rows need no weight.
    check(rows, PositivesConfig(column="event", values=["view"], weight="count"), tmp_path)


def test_the_weights_of_repeated_pairs_are_added_up():
    rows = pd.DataFrame({"user_id": [1, 2, 1, 1], "item_id": [7, 7, 7, 8], "n": [3, 1, 5, 2]})
    pairs = pd.DataFrame({"user_id": [1, 2, 1], "item_id": [8, 7, 7]})

    def weights(**config):
        return pair_weights(pairs, rows, PositivesConfig(**config))

    assert weights() is None
    assert weights(weight="n").tolist() == [2, 1, 8]
    np.testing.assert_allclose(weights(weight="n", weight_transform="log1p"), np.log1p([2, 1, 8]))
    np.testing.assert_allclose(weights(weight="n", weight_transform="sqrt"), np.sqrt([2, 1, 8]))
    by_value = weights(column="n", values={"3": 10, "1": 2, "5": 1, "2": 0.5})
    assert by_value.tolist() == [0.5, 2, 11] and by_value.dtype == np.float32


@pytest.mark.parametrize(
    "config, message",
    [
        ({"column": "event", "at_least": 2, "values": ["buy"]}, "at_least and values both say"),
        ({"values": ["buy"]}, "values: name the column"),
        ({"column": "event", "at_least": "buy"}, "'buy' is a text; name the events .* in values"),
        ({"at_least": 2}, "at_least: name the column"),
        ({"column": "event", "values": [True]}, "True is neither a text nor a number"),
        ({"column": "event", "values": {"buy": 0}}, "buy: the weight is 0; give a number from"),
        ({"column": "event", "values": {"buy": 1}, "weight": "n"}, "values and weight both give"),
        ({"weight_transform": "sqrt"}, "weight_transform: there are no weights"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        PositivesConfig(**config)
