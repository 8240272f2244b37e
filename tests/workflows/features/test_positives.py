"""Which rows are positives, and the history made of them."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.workflows.features.conftest import ITEMS, USERS
from twotower.workflows.errors import DataError
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.encode import as_arrays, encode
from twotower.workflows.features.graph import fit_features
from twotower.workflows.features.growth import grow_features
from twotower.workflows.features.positives import add_history, filter_positives


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


def test_no_positive_at_all_says_what_the_largest_value_is():
    rows = pd.DataFrame({"rating": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"no row has rating >= 6 \(its largest value is 2\)"):
        filter_positives(rows, PositivesConfig(column="rating", at_least=6))


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(DataError, match="no column 'stars'; they have user_id, rating"):
        filter_positives(
            pd.DataFrame({"user_id": [1], "rating": [5.0]}), PositivesConfig(column="stars")
        )


HISTORY = FeaturesConfig(history=2)


SEEN = pd.DataFrame({"user_id": [1, 1, 1, 5, 5], "item_id": [10, 20, 30, 20, 10]})


def test_a_history_is_the_latest_positives_of_train_the_latest_first():
    times = [30, 10, 20, 7, 7]
    # Of a pair that is a positive twice the split takes the last row, whose time is 20.
    positives = pd.concat([SEEN[2:3].assign(timestamp=99), SEEN.assign(timestamp=times)])
    users = add_history(USERS, SEEN, positives, HISTORY)
    assert users["history"].tolist() == [[10, 30], [10, 20], []]
    assert users["city"].tolist() == USERS["city"].tolist()
    without_time = add_history(USERS, SEEN, SEEN, HISTORY)
    assert without_time["history"].tolist() == [[30, 20], [10, 20], []]
    assert add_history(USERS, SEEN, SEEN, FeaturesConfig()) is USERS


def test_a_history_has_the_codes_of_the_item_ids(tmp_path):
    from merlin.schema import Tags

    users = add_history(USERS, SEEN, SEEN, HISTORY)
    workflow = fit_features(SEEN, users, ITEMS, HISTORY, tmp_path)
    codes = dict(zip(ITEMS["item_id"], encode(workflow, "item", ITEMS)["item_id"], strict=True))
    lists = as_arrays(encode(workflow, "user", users), {"history": 2})["history"]
    assert lists.tolist() == [[codes[30], codes[20]], [codes[10], codes[20]], [0, 0]]
    assert workflow.output_schema.select_by_tag(Tags.SEQUENCE).column_names == ["history"]
    more_items = pd.DataFrame({"item_id": [10, 20, 30, 40], "year": 1999, "genres": [[]] * 4})
    later = pd.concat([SEEN, pd.DataFrame({"user_id": [9, 9, 9], "item_id": [40, 40, 40]})])
    grown = add_history(USERS, later, later, HISTORY)
    workflow = grow_features(tmp_path, later, grown, more_items, HISTORY, tmp_path / "grown")
    after = encode(workflow, "item", more_items)["item_id"].tolist()
    assert after[:3] == list(codes.values()) and after[3] == max(after)
    lists = as_arrays(encode(workflow, "user", grown), {"history": 2})["history"]
    assert lists[2].tolist() == [after[3], after[3]]
