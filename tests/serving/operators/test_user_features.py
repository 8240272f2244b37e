"""User tables that cannot be served are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twotower.serving.runtime.errors import ServingError


@pytest.mark.parametrize(
    "change, message",
    [
        ({"columns": "city"}, "has no column 'City!'"),
        ({"rows": 0}, "empty"),
        ({"twice": True}, "occurs more than once"),
        ({"age": [[1, 2]]}, "'Age!' is mixed"),
        ({"age": [True]}, "'Age!' is bool"),
        ({"tags": ["rock"]}, "'Tags!' holds 'rock'; expected a list"),
        ({"tags": [["a", "\uffff"]]}, r"'Tags!' holds the value '\\uffff'"),
        ({"tags": [[-(2**63)]]}, "'Tags!' holds the value -9223372036854775808"),
        ({"tags": [["a", 1]]}, "'Tags!' is mixed"),
        ({"user_id": ["a"]}, "'user_id' of the user table must be int64"),
        ({"user_id": [None]}, "'user_id' of the user table must be int64"),
    ],
)
def test_a_bad_user_table_is_refused(change, message):
    from twotower.serving.operators.user_features import UserFeatures

    users = pd.DataFrame({"user_id": [1], "city": ["x"], "age": [3], "tags": [["a"]]})
    if "columns" in change:
        users = users.drop(columns=change["columns"])
    elif "rows" in change:
        users = users.head(0)
    elif "twice" in change:
        users = pd.concat([users, users])
    else:
        users = users.assign(**change)
    with pytest.raises(ServingError, match=message):
        names = {"city": "City!", "age": "Age!", "tags": "Tags!"}  # as requests call them
        UserFeatures(users, "user_id", ["city", "age", "tags"], {"tags": 3}, names)


@pytest.mark.parametrize("null", [None, []])
def test_lists_are_stored_alike_as_arrays_and_as_python_lists(null):
    from twotower.serving.operators.user_features import UserFeatures

    rows = [[5, 2**60, 7, -1], null, [3]]
    arrays = [row if not row else np.array(row) for row in rows]
    stored = [
        UserFeatures(
            pd.DataFrame({"user_id": [1, 2, 3], "tags": values}), "user_id", ["tags"], {"tags": 3}
        )
        for values in (rows, arrays)
    ]
    for one in stored:
        assert one.features == {"tags": "INT64"}
        assert one.stored["tags"]["tags"].tolist() == [5, 2**60, 7, 3]
        assert one.stored["tags"]["tags"].dtype == np.int64
        assert one.stored["tags"]["tags__count"].tolist() == [3, 0, 1]
    with pytest.raises(ServingError, match="holds the value -9223372036854775808"):
        users = pd.DataFrame({"user_id": [1], "tags": [np.array([-(2**63)])]})
        UserFeatures(users, "user_id", ["tags"], {"tags": 3})
