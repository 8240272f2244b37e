"""Columns that are not what the settings say, and that the advice of the messages works."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workflows.features.conftest import ITEMS, TRAIN, USERS
from twotower.workflows.errors import DataError
from twotower.workflows.features.checks import check_data
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.encode import as_arrays, encode
from twotower.workflows.features.graph import fit_features


@pytest.mark.parametrize(
    "config, change, message",
    [
        (
            {"user_numeric": ["city"]},
            {"city": ["Oslo", None, "Rome"]},
            r"features\.user_numeric: column city has 'Oslo', not a number; store numbers, or name "
            r"it under features\.user$",
        ),
        ({"user_numeric": ["age"]}, {"age": [None] * 3}, "column age has no value; leave it out"),
        ({"user_numeric": ["age"]}, {"age": [1, np.inf, 2]}, "column age has inf; use null"),
        (
            {"user_numeric": ["age"]},
            {"age": [0.1, 0.1, 7.0]},  # user 9, the third, is not in the training part
            "user_numeric: column age has no two different values in the training part; leave",
        ),
        (
            {"user_multi_hot": {"likes": 2}},
            {"likes": [["a"], "b", None]},
            r"features\.user_multi_hot: column likes has 'b', not a list; store lists, or name it "
            r"under features\.user$",
        ),
        ({"user_multi_hot": {"age": 2}}, {}, "column age has 30, not a list"),
        (
            {"user_multi_hot": {"likes": 2}},
            {"likes": [[], None, ["a"]]},
            "user_multi_hot: column likes has only empty lists in the training part; leave it out",
        ),
        ({"user_numeric": ["shoe_size"]}, {}, "the users table has no column shoe_size; it has"),
        (
            {"user": ["age"]},
            {"age": [np.nan] * 3},
            r"features\.user: column age has no value in any",
        ),
        (
            {"user_numeric": ["age"]},
            {"age": [1e200, 2, 3]},
            r"1e\+200, whose square is too",
        ),
    ],
)
def test_a_column_of_another_kind_is_named_with_what_to_do(config, change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        fit_features(TRAIN, USERS.assign(**change), ITEMS, FeaturesConfig(**config), tmp_path)


VECTORS = [[0.5, -1.25], [0.75, 0.5], [2.0, 1.0]]


@pytest.mark.parametrize(
    "column, config, message, advised, followed",
    [
        (
            ["a", None, "b"],
            {"item_numeric": ["x"]},
            r"x has 'a', not a number; .* name it under features\.item$",
            {"item": ["x"]},
            None,
        ),
        (
            [["a"], [], ["b"]],
            {"item_numeric": ["x"]},
            r"not a number; .* name it under features\.item_multi_hot$",
            {"item_multi_hot": {"x": 1}},
            None,
        ),
        (
            [["a"], [], ["b"]],
            {"item": ["x"]},
            r"features\.item: column x has lists; name it under features\.item_multi_hot with",
            {"item_multi_hot": {"x": 1}},
            None,
        ),
        (
            ["a b", "", "b"],
            {"item_multi_hot": {"x": 2}},
            r"'a b', not a list; .* under features\.item or, .* under features\.item_text$",
            {"item_text": {"x": 2}},
            None,
        ),
        (
            [1, 2, 3],
            {"item_text": {"x": 2}},
            "under features.item or item_num",
            {"item": ["x"]},
            None,
        ),
        (
            VECTORS,
            {"item_multi_hot": {"x": 2}},
            r"column x has lists of fractions such as 0\.5, .* features\.item_vectors: \{x: 2\}",
            {"item_vectors": {"x": 2}},
            None,
        ),
        (
            [[38.5], [39.0], [38.5]],
            {"item_multi_hot": {"x": 2}},
            "if the fractions are categories, such as sizes, store them as text",
            {"item_multi_hot": {"x": 2}},
            {"x": [["38.5"], ["39"], ["38.5"]]},
        ),
    ],
)
def test_what_a_message_advises_works(column, config, message, advised, followed, tmp_path):
    items = ITEMS[["item_id"]].assign(x=column)
    with pytest.raises(DataError, match=message):
        fit_features(TRAIN, USERS, items, FeaturesConfig(**config), tmp_path)
    items, config = items.assign(**(followed or {})), FeaturesConfig(**advised)
    workflow = fit_features(TRAIN, USERS, items, config, tmp_path)
    encoded = as_arrays(encode(workflow, "item", items), config.sides[1].multi_hot)
    assert encoded.keys() == {"item_id", *config.sides[1].columns}


def write_tables(folder, interactions=TRAIN, users=USERS, items=ITEMS):
    for name, table in (("interactions", interactions), ("users", users), ("items", items)):
        table.to_parquet(folder / f"{name}.parquet")


@pytest.mark.parametrize(
    "positives, features, message",
    [
        ({}, {"user": ["shoe_size"]}, "the users table has no column shoe_size"),
        ({}, {"item": ["genres"]}, r"features\.item: column genres has lists"),
        ({"column": "click"}, {}, "the interactions have no column 'click'"),
        ({"column": "event"}, {}, r"positives\.column: column 'event' has no numbers"),
    ],
)
def test_data_is_checked_against_the_settings(positives, features, message, tmp_path):
    write_tables(tmp_path, TRAIN.assign(event=["view", "buy", "view", "buy"]))
    check_data(tmp_path, PositivesConfig(), FeaturesConfig(user=["city"], history=3))
    with pytest.raises(DataError, match=message):
        check_data(tmp_path, PositivesConfig(**positives), FeaturesConfig(**features))
    # What the message on texts advises.
    check_data(tmp_path, PositivesConfig(column="event", values=["buy"]), FeaturesConfig())


@pytest.mark.parametrize(
    "lists, shown",
    [
        ([["a", "\uffff"], [], None], r"'\\uffff'"),
        ([[-(2**63)], [5], []], "-9223372036854775808"),
        ([[5, None], [-(2**63)], []], "-9223372036854775808"),
    ],
)
def test_a_value_that_no_request_can_give_is_refused_in_lists_of_users(lists, shown, tmp_path):
    write_tables(tmp_path, users=USERS.assign(tags=lists), items=ITEMS.assign(tags=lists))
    check_data(tmp_path, PositivesConfig(), FeaturesConfig(item_multi_hot={"tags": 3}))
    message = rf"features\.user_multi_hot: column tags has lists with {shown}, which means"
    with pytest.raises(DataError, match=message):
        check_data(tmp_path, PositivesConfig(), FeaturesConfig(user_multi_hot={"tags": 3}))


@pytest.mark.parametrize(
    "config, titles, message",
    [
        (
            {"item_text": {"genres": 2}},
            [None] * 3,
            r"features\.item_text: column genres has a list, not a text; store texts, or name it "
            r"under features\.item_multi_hot$",
        ),
        (
            {"item_text": {"year": 2}},
            [None] * 3,
            r"features\.item_text: column year has 1999, not a text; store texts, or name it under "
            r"features\.item or item_numeric$",
        ),
        (
            {"item_multi_hot": {"title": 2}},
            [None, "Toy Story", None],
            r"features\.item_multi_hot: column title has 'Toy Story', not a list; store lists, or "
            r"name it under features\.item or, to use its words, under features\.item_text$",
        ),
        (
            {"item_text": {"title": 2}},
            ["?!", None, "Toy"],  # item 30, the third, is not in the training part
            r"features\.item_text: column title has no word in the training part; leave it out",
        ),
    ],
)
def test_a_column_that_is_no_text_is_named_with_what_to_do(config, titles, message, tmp_path):
    with pytest.raises(DataError, match=message):
        fit_features(TRAIN, USERS, ITEMS.assign(title=titles), FeaturesConfig(**config), tmp_path)
