"""User tables that cannot be served are refused."""

from __future__ import annotations

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
