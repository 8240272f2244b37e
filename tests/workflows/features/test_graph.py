"""The feature graph: codes, tags, numbers and texts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflows.features.conftest import ITEMS, TRAIN, USERS, WIDE_ITEMS, WIDE_USERS
from twotower.workflows.errors import DataError
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import as_arrays, encode, load_workflow
from twotower.workflows.features.graph import fit_features
from twotower.workflows.features.growth import grow_features


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


def test_rare_values_are_unknown(tmp_path):
    config = FeaturesConfig(user=["city"], min_frequency=2)
    workflow = fit_features(TRAIN, USERS, ITEMS, config, tmp_path)
    assert encode(workflow, "user", USERS)["user_id"].tolist() == [3, 2, 2]


def test_a_feature_that_is_not_in_the_table_is_named(tmp_path):
    config = FeaturesConfig(user=["city", "shoe_size"])
    with pytest.raises(DataError, match="the users table has no column shoe_size; it has user_id"):
        fit_features(TRAIN, USERS, ITEMS, config, tmp_path)


def test_numbers_are_standardised_over_the_training_part_and_null_is_its_mean(wide):
    users, items = encode(wide, "user", WIDE_USERS), encode(wide, "item", WIDE_ITEMS)
    np.testing.assert_allclose(
        users["height"], [(3 - 7 / 3) / np.sqrt(4 / 3), (1 - 7 / 3) / np.sqrt(4 / 3), 0, 4 / 3**0.5]
    )
    np.testing.assert_allclose(users["visits"], [-0.5, -0.5, 1.5, 3.5])
    np.testing.assert_allclose(items["price"], [-2 / np.sqrt(16 / 3), 2 / np.sqrt(16 / 3), 0])
    assert {users["height"].dtype, users["visits"].dtype, items["price"].dtype} == {
        np.dtype(np.float32)
    }


def test_tags_and_widths_of_lists_and_numbers(wide):
    from merlin.schema import Tags

    schema = wide.output_schema
    user, item = schema.select_by_tag(Tags.USER), schema.select_by_tag(Tags.ITEM)
    assert user.column_names == ["user_id", "likes", "codes", "height", "visits"]
    assert item.column_names == ["item_id", "genres", "price"]
    assert schema.select_by_tag(Tags.CONTINUOUS).column_names == ["height", "visits", "price"]
    assert [schema[name].value_count.max for name in ("likes", "codes", "genres")] == [2, 3, 2]


def test_whole_numbers_beside_nulls_in_lists_are_categories(tmp_path):
    items = ITEMS.assign(x=[[1.0, np.nan], [1.0], [2.0]])
    fit_features(TRAIN, USERS, items, FeaturesConfig(item_multi_hot={"x": 2}), tmp_path)


def test_moments_are_exact_where_the_deviation_is_tiny_beside_the_mean(tmp_path):
    """Milliseconds of 2020 within a minute: their squares have no digit for the variance."""
    from twotower.serving.vocabularies import moments

    users = USERS[["user_id"]].assign(since=1577836800000.0 + np.array([0, 30000, 60000]))
    train = pd.DataFrame({"user_id": [1, 5, 9], "item_id": 10})
    config = FeaturesConfig(user_numeric=["since"])
    fit_features(train, users, ITEMS, config, tmp_path)
    workflow = load_workflow(tmp_path)
    np.testing.assert_allclose(encode(workflow, "user", users)["since"], [-1, 0, 1])
    assert moments(workflow.get_subworkflow("user")) == {"since": (1577836830000.0, 30000.0)}


# In the training part: story six times, toy four, ii once; the last two films are not in it.
FILMS = pd.DataFrame(
    {
        "item_id": [10, 20, 30, 40, 50],
        "title": ["Toy Story", "Story!", "TOY: story, II", "New toy", None],
    }
)


FILMS_TRAIN = pd.DataFrame({"user_id": 1, "item_id": [10, 10, 10, 20, 20, 30]})


def words_of(workflow, films=FILMS):
    encoded = encode(workflow, "item", films)
    return as_arrays(encoded[["title"]], {"title": 3})["title"].tolist()


def test_a_text_is_the_list_of_its_words(tmp_path):
    config = FeaturesConfig(item_text={"title": 3})
    workflow = fit_features(FILMS_TRAIN, USERS, FILMS, config, tmp_path)
    story, toy, ii, unknown = 3, 4, 5, 2
    expected = [[toy, story, 0], [story, 0, 0], [toy, story, ii], [unknown, toy, 0], [0, 0, 0]]
    assert words_of(workflow) == expected
    for row in range(len(FILMS)):
        assert words_of(workflow, FILMS.iloc[[row]]) == [expected[row]]
    assert config.sides[1].multi_hot == {"title": 3}  # as wide as the tower reads it
    assert workflow.output_schema["title"].value_count.max == 3
    # Two more of the film that was new, and one in which a word is new that is rarer.
    films = FILMS.assign(title=[*FILMS["title"][:4], "Ugly story"])
    train = pd.concat([FILMS_TRAIN, pd.DataFrame({"user_id": 1, "item_id": [40, 40, 50]})])
    grown = grow_features(tmp_path, train, USERS, films, config, tmp_path / "grown")
    assert words_of(grown, films) == [*expected[:3], [6, toy, 0], [7, story, 0]]


def test_the_first_words_are_kept_and_rare_ones_unknown(tmp_path):
    config = FeaturesConfig(item_text={"title": 2}, min_frequency=2)
    films = FILMS.assign(title=["Toy Story", "Story!", "II: toy, story", "New toy", None])
    workflow = fit_features(FILMS_TRAIN, USERS, films, config, tmp_path)
    assert words_of(workflow, films)[:3] == [[4, 3, 0], [3, 0, 0], [2, 4, 0]]
