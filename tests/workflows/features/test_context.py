"""The context of interactions: its columns, codes and vocabulary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.workflows.features.conftest import CONFIG, ITEMS, USERS
from tests.workflows.features.test_checks import write_tables
from twotower.workflows.errors import DataError
from twotower.workflows.features.checks import check_data
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.context import (
    add_context,
    add_unknown_context,
    distinct_contexts,
    encode_context,
)
from twotower.workflows.features.encode import encode
from twotower.workflows.features.graph import fit_features
from twotower.workflows.features.growth import grow_features

WITH_CONTEXT = CONFIG.copy(update={"context": ["Month", "place"], "context_numeric": ["size"]})
ROWS = pd.DataFrame(
    {
        "user_id": [1, 1, 5, 1, 5],
        "item_id": [10, 20, 10, 10, 30],
        "Month": pd.array([5, 7, 5, 7, None], "Int64"),
        "place": ["shop", "web", None, "web", "shop"],
        "size": [1.0, 2.0, 3.0, 6.0, np.nan],
    }
)


def test_a_repeated_pair_has_the_context_of_its_last_row():
    pairs = pd.DataFrame({"user_id": [5, 1], "item_id": [30, 10], "part": ["a", "b"]}, index=[7, 3])
    found = add_context(pairs, ROWS, WITH_CONTEXT)
    assert found.index.tolist() == [7, 3] and "part" not in found
    assert found["place"].tolist() == ["shop", "web"] and found["Month"].isna().tolist() == [1, 0]
    assert found["size"][3] == 6.0
    assert list(add_context(pairs, ROWS, CONFIG)) == ["user_id", "item_id"]


def test_equal_contexts_have_the_same_number():
    rows = pd.concat([ROWS, ROWS[::-1]], ignore_index=True)
    numbers, contexts = distinct_contexts(rows, WITH_CONTEXT)
    assert numbers.dtype == np.int32 and len(contexts) == 5
    pd.testing.assert_frame_equal(
        contexts.iloc[numbers].reset_index(drop=True), rows[["Month", "place", "size"]]
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("context")
    return out, fit_features(ROWS, USERS, ITEMS, WITH_CONTEXT, out)


def test_the_context_is_encoded_by_the_user_graph(fitted):
    from merlin.schema import Tags

    _, workflow = fitted
    schema = workflow.output_schema
    month = schema.select_by_tag(Tags.CONTEXT).column_names[0]
    assert schema.select_by_tag(Tags.CONTEXT).column_names == [month, "place", "size"]
    assert {month, "place", "size"} < set(schema.select_by_tag(Tags.USER).column_names)
    contexts = pd.DataFrame(
        {"Month": [5, 7, 9], "place": ["web", None, "moon"], "size": [3.0, np.nan, 3.0]}
    )
    encoded = encode_context(workflow, contexts, WITH_CONTEXT)
    codes = encoded[month].tolist()
    assert sorted(codes[:2]) == [3, 4] and codes[2] == 2
    assert encoded["place"].tolist()[1:] == [1, 2]
    # The sizes 1, 2, 3 and 6 have the mean 3.
    np.testing.assert_allclose(encoded["size"], 0, atol=1e-7)


@pytest.mark.parametrize("months", [[None, None, 5, 7, None], [5, None, None, None, None]])
def test_the_first_or_the_last_months_may_be_null(months, tmp_path):
    rows = ROWS.assign(Month=pd.array(months, "Int64"))
    config = CONFIG.copy(update={"context": ["Month"]})
    workflow = fit_features(rows, USERS, ITEMS, config, tmp_path)
    numbers, contexts = distinct_contexts(rows, config)
    codes = encode_context(workflow, contexts, config).iloc[numbers, 0]
    assert [code == 1 for code in codes] == [month is None for month in months]


def test_a_category_that_the_training_part_does_not_have_is_named(tmp_path):
    # Only user 9, who has no interaction, has an age.
    users = USERS.assign(age=pd.array([None, None, 50], "Int64"))
    message = r"features\.user: column age has no value in the training part; leave it out"
    with pytest.raises(DataError, match=message):
        fit_features(ROWS, users, ITEMS, CONFIG, tmp_path)
    with pytest.raises(DataError, match=r"features\.context: column Month has no value in"):
        months = ROWS.assign(Month=pd.array([None] * 5, "Int64"))
        fit_features(months, USERS, ITEMS, CONFIG.copy(update={"context": ["Month"]}), tmp_path)


def test_users_have_the_codes_of_an_unknown_context(fitted):
    _, workflow = fitted
    encoded = encode(workflow, "user", USERS, without=WITH_CONTEXT.context_columns)
    users = add_unknown_context(pa.Table.from_pandas(encoded), WITH_CONTEXT).to_pandas()
    assert set(users) == set(workflow.get_subworkflow("user").output_schema.column_names)
    assert (users["place"] == 2).all() and (users["size"] == 0).all()
    # The graph itself is as before.
    whole = pd.concat([USERS, ROWS[["Month", "place", "size"]][:3]], axis=1)
    assert set(encode(workflow, "user", whole)) == set(users)


def test_new_contexts_get_new_codes(fitted, tmp_path):
    out, workflow = fitted
    contexts = pd.DataFrame({"Month": [5, 7], "place": ["web", "shop"], "size": [3.0, 6.0]})
    before = encode_context(workflow, contexts, WITH_CONTEXT)
    new = ROWS[:1].assign(Month=9, place="moon", size=100.0)
    train = pd.concat([ROWS, new], ignore_index=True)
    grown = grow_features(out, train, USERS, ITEMS, WITH_CONTEXT, tmp_path / "grown")
    after = encode_context(grown, pd.concat([contexts, new]), WITH_CONTEXT)
    pd.testing.assert_frame_equal(after[:2], before)
    month, place = after.iloc[2, :2]
    assert (month, place) == (5, 5)
    assert grown.output_schema["place"].int_domain.max == 5


@pytest.mark.parametrize(
    "context, message",
    [
        ({"context": ["hour"]}, "features.context: the interactions have no column hour; they ha"),
        ({"context": ["tags"]}, r"features\.context: column tags has lists; context has one val"),
        ({"context": ["empty"]}, r"features\.context: column empty has no value in any row"),
        (
            {"context_numeric": ["place"]},
            r"features\.context_numeric: column place has 'shop', not a num.*features\.context$",
        ),
    ],
)
def test_wrong_columns_are_named(context, message, tmp_path):
    rows = ROWS.assign(tags=[["a"]] * 5, empty=pd.Series([None] * 5, dtype=object))
    write_tables(tmp_path, rows)
    check_data(tmp_path, PositivesConfig(), FeaturesConfig(context=["Month", "place"]))
    with pytest.raises(DataError, match=message):
        check_data(tmp_path, PositivesConfig(), FeaturesConfig(**context))


@pytest.mark.parametrize(
    "config",
    [
        {"user": ["month"], "context": ["month"]},
        {"context": ["month"], "context_numeric": ["month"]},
        {"item_numeric": ["month"], "context": ["month"]},
    ],
)
def test_a_column_is_either_a_feature_or_context(config):
    with pytest.raises(ValueError, match="month: named twice; a column can be used once"):
        FeaturesConfig(**config)


def test_ids_are_no_context():
    with pytest.raises(ValueError, match="the ids are features already"):
        FeaturesConfig(context=["item_id"])
