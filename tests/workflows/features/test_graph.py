"""The NVTabular graphs: what is filtered, what is encoded to what, what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.features.checks import check_data
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.encode import as_arrays, encode, load_workflow
from twotower.workflows.features.graph import fit_features
from twotower.workflows.features.growth import grow_features
from twotower.workflows.features.positives import add_history, filter_positives

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

# Lists and numbers on both sides. In the training part: height 3, 3, null, 1, so mean 7/3 and
# variance 4/3; price 2, 6, 2, 6, so mean 4 and variance 16/3.
WIDE_CONFIG = FeaturesConfig(
    user_multi_hot={"likes": 2, "codes": 3},
    item_multi_hot={"genres": 2},
    user_numeric=["height", "visits"],
    item_numeric=["price"],
)
WIDE_USERS = pd.DataFrame(
    {
        "user_id": [1, 2, 5, 9],
        "likes": [["a", "b", "c"], [], None, ["b", None, "new"]],
        "codes": [[7], [7, 8], None, [8, 9, 7, 7]],
        "height": [3.0, 1.0, np.nan, 5.0],
        "visits": [1, 1, 2, 3],
    }
)
WIDE_ITEMS = ITEMS.assign(price=[2, 6, np.nan])
WIDE_TRAIN = pd.DataFrame({"user_id": [1, 1, 5, 2], "item_id": [10, 20, 10, 20]})


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "workflow"
    out.mkdir()
    fit_features(TRAIN, USERS, ITEMS, CONFIG, out)
    moved = out.with_name("moved")
    shutil.move(out, moved)  # a run folder may be moved: nothing may point to where it was made
    return load_workflow(moved)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The workflow of lists and numbers on both sides, loaded again."""
    out = tmp_path_factory.mktemp("fit_wide")
    fit_features(WIDE_TRAIN, WIDE_USERS, WIDE_ITEMS, WIDE_CONFIG, out)
    return load_workflow(out)


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


def test_large_whole_numbers_are_told_apart_beside_nulls(tmp_path):
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


def test_lists_that_are_null_are_empty_and_nulls_in_a_list_unknown(wide):
    arrays = as_arrays(encode(wide, "user", WIDE_USERS), WIDE_CONFIG.user_multi_hot)
    (a, b), (seven, *_) = arrays["likes"][0], arrays["codes"][0]
    eight = arrays["codes"][1, 1]
    assert len({a, b}) == 2 and min(a, b) >= 3
    assert arrays["likes"].tolist() == [[a, b], [0, 0], [0, 0], [b, 2]]
    assert arrays["codes"].tolist() == [
        [seven, 0, 0],
        [seven, eight, 0],
        [0] * 3,
        [eight, 2, seven],
    ]
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "user_id": ((4, 1), np.int32),
        "likes": ((4, 2), np.int32),
        "codes": ((4, 3), np.int32),
        "height": ((4, 1), np.float32),
        "visits": ((4, 1), np.float32),
    }


def test_lists_and_numbers_survive_parquet(wide, tmp_path):
    expected = as_arrays(encode(wide, "user", WIDE_USERS), WIDE_CONFIG.user_multi_hot)
    WIDE_USERS.to_parquet(tmp_path / "users.parquet")
    encoded = encode(wide, "user", pd.read_parquet(tmp_path / "users.parquet"))
    encoded.to_parquet(tmp_path / "encoded.parquet")
    arrays = as_arrays(pd.read_parquet(tmp_path / "encoded.parquet"), WIDE_CONFIG.user_multi_hot)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype


def test_a_row_is_encoded_alone_as_among_others(wide):
    together = as_arrays(encode(wide, "user", WIDE_USERS), WIDE_CONFIG.user_multi_hot)
    for row in range(len(WIDE_USERS)):
        alone = encode(wide, "user", WIDE_USERS.iloc[[row]])
        for name, array in as_arrays(alone, WIDE_CONFIG.user_multi_hot).items():
            np.testing.assert_array_equal(array[0], together[name][row])


def test_tags_and_widths_of_lists_and_numbers(wide):
    from merlin.schema import Tags

    schema = wide.output_schema
    user, item = schema.select_by_tag(Tags.USER), schema.select_by_tag(Tags.ITEM)
    assert user.column_names == ["user_id", "likes", "codes", "height", "visits"]
    assert item.column_names == ["item_id", "genres", "price"]
    assert schema.select_by_tag(Tags.CONTINUOUS).column_names == ["height", "visits", "price"]
    assert [schema[name].value_count.max for name in ("likes", "codes", "genres")] == [2, 3, 2]


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
            r"column x has lists of fractions such as 0\.5, .* under features\.item_numeric",
            {"item_numeric": ["x0", "x1"]},
            {"x0": [0.5, 0.75, 2.0], "x1": [-1.25, 0.5, 1.0]},
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
    write_tables(tmp_path, TRAIN.assign(bought=[0, 1, 0, 1]))
    check_data(tmp_path, PositivesConfig(column="bought"), FeaturesConfig())


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


@pytest.mark.parametrize(
    "config",
    [
        {"user": ["age"], "user_numeric": ["age"]},
        {"item_multi_hot": {"age": 3}, "item_text": {"age": 3}},
        {"item": ["age"], "item_text": {"age": 3}},
        {"user_multi_hot": {"age": 3}, "item_multi_hot": {"age": 3}},
        {"item_numeric": ["age", "age"]},
    ],
)
def test_a_column_has_one_use(config):
    with pytest.raises(ValueError, match="age: named twice; a column can be used once"):
        FeaturesConfig(**config)


@pytest.mark.parametrize("kind", ["user_multi_hot", "item_multi_hot", "item_text"])
def test_a_list_keeps_at_least_one_value(kind):
    with pytest.raises(ValueError, match="greater than 0"):
        FeaturesConfig(**{kind: {"likes": 0}})


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


def test_a_column_named_as_the_history_is_refused():
    with pytest.raises(ValueError, match=r"features\.history makes the column 'history'"):
        FeaturesConfig(history=2, user_multi_hot={"history": 3})
