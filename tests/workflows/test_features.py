"""The NVTabular graphs: what is filtered, what is encoded to what, what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from workflows.errors import DataError
from workflows.features import (
    FeaturesConfig,
    PositivesConfig,
    as_arrays,
    encode,
    filter_positives,
    fit_features,
    load_workflow,
)

CONFIG = FeaturesConfig(user=["city", "age"], item=["year"], item_multi_hot={"genres": 2})
USERS = pd.DataFrame(
    {
        "user_id": [1, 5, 9],
        "city": ["Oslo", None, "Rome"],
        "age": [30, 40, 50],
    }
)
ITEMS = pd.DataFrame(
    {
        "item_id": [10, 20, 30],
        "year": [1999, 2001, 1999],
        "genres": [["War", "Drama", "Noir"], ["Drama"], []],
    }
)
# user 9 and item 30 have no training row; Oslo is counted three times, null once.
TRAIN = pd.DataFrame({"user_id": [1, 1, 5, 1], "item_id": [10, 20, 10, 20]})


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "workflow"
    out.mkdir()
    fit_features(TRAIN, USERS, ITEMS, CONFIG, out)
    moved = out.with_name("moved")
    shutil.move(out, moved)  # a run folder may be moved: nothing may point to where it was made
    return load_workflow(moved)


def test_positives_are_the_rows_at_or_above_the_threshold():
    rows = pd.DataFrame({"user_id": [1, 2, 3, 4], "rating": [2.5, 3.0, 5.0, 1.0]})
    kept = filter_positives(rows, PositivesConfig(column="rating", at_least=3))
    assert kept["user_id"].tolist() == [2, 3]


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


def test_codes_are_null_1_unknown_2_then_by_frequency(workflow):
    users = encode(workflow, "user", USERS)
    assert users["user_id"].tolist() == [3, 4, 2]
    assert users["city"].tolist() == [3, 1, 2]
    assert users["age"].tolist() == [3, 4, 2]
    items = encode(workflow, "item", ITEMS)
    assert items["item_id"].tolist() == [3, 4, 2] or items["item_id"].tolist() == [4, 3, 2]
    assert items["year"].tolist()[0] == items["year"].tolist()[2] != items["year"].tolist()[1]


def test_a_side_needs_the_columns_of_its_side_only(workflow):
    assert workflow.get_subworkflow("user").input_schema.column_names == ["user_id", "city", "age"]
    assert workflow.get_subworkflow("item").input_schema.column_names == [
        "item_id",
        "year",
        "genres",
    ]


def test_tags_say_what_a_column_is(workflow):
    from merlin.schema import Tags

    schema = workflow.output_schema
    assert schema.select_by_tag(Tags.USER_ID).column_names == ["user_id"]
    assert schema.select_by_tag(Tags.ITEM_ID).column_names == ["item_id"]
    assert schema.select_by_tag(Tags.USER).column_names == ["user_id", "city", "age"]
    assert schema["city"].int_domain.max == 3


def test_multi_hot_rows_are_cut_and_padded(workflow):
    arrays = as_arrays(encode(workflow, "item", ITEMS), CONFIG.item_multi_hot)
    war, drama = arrays["genres"][0]
    assert arrays["genres"].tolist() == [[war, drama], [drama, 0], [0, 0]]
    assert min(war, drama) >= 3
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        "item_id": ((3, 1), np.int32),
        "year": ((3, 1), np.int32),
        "genres": ((3, 2), np.int32),
    }


def test_rare_values_are_unknown(tmp_path):
    config = FeaturesConfig(user=["city"], min_frequency=2)
    workflow = fit_features(TRAIN, USERS, ITEMS, config, tmp_path)
    assert encode(workflow, "user", USERS)["user_id"].tolist() == [3, 2, 2]


def test_a_feature_that_is_not_in_the_table_is_named(tmp_path):
    config = FeaturesConfig(user=["city", "shoe_size"])
    with pytest.raises(DataError, match="the users table has no column shoe_size; it has user_id"):
        fit_features(TRAIN, USERS, ITEMS, config, tmp_path)
