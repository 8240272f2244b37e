"""Features that a request does not give come from the user table, unchanged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.serving.conftest import request_table
from twotower.serving.runtime.contract import row_of


def test_users_complete_what_the_request_leaves_out(world, engine):
    from twotower.serving.runtime.contract import ABSENT, NULL, VALUE

    user = world.users.dropna().iloc[0]
    nobody = int(world.users["user_id"][world.users["city"].isna()].iloc[0])
    table = request_table(
        world.ensemble, [user["user_id"], nobody, world.unknown_user], features={"age": [5, 6, 7]}
    )
    table[row_of("user_id")] = engine.users.rows(table["user_id"])
    completed = engine.features.run(table)
    assert completed["age"].tolist() == [5, 6, 7]
    assert completed["city"][0] == user["city"]
    assert completed["city__state"].tolist() == [VALUE, NULL, ABSENT]


def test_whole_numbers_stay_whole_and_exact_beside_nulls(tmp_path):
    from twotower.serving.operators.user_features import UserFeatures
    from twotower.serving.runtime.contract import NULL, VALUE, Contract
    from twotower.serving.runtime.operators.user_features import UserFeatures as Compiled

    big = 2**60 + 1
    users = pd.DataFrame(
        {
            "user": [1, 2, 3],
            "age": pd.array([big, None, 7], "Int64"),
            "shops": [[big, None], None, [7]],
        }
    )
    operator = UserFeatures(users, "user", ["age", "shops"], {"shops": 2})
    assert operator.features == {"age": "INT64", "shops": "INT64"}
    entry = operator.compile(tmp_path, None)
    reads = Contract("user", "item", operator.features, 1, 1, operator.lists)
    table = reads.read({"user": np.array([[1], [2], [3]])}, {})
    table[row_of("user")] = np.arange(3)
    completed = Compiled(tmp_path, entry, threads=1).run(table)
    assert completed["age"].tolist() == [big, 0, 7]
    assert completed["age__state"].tolist() == [VALUE, NULL, VALUE]
    assert completed["shops__count"].tolist() == [2, 0, 1]
    assert completed["shops"].tolist() == [big, -(2**63), 7]


def test_the_first_values_of_a_users_list_are_kept(tmp_path):
    from twotower.serving.operators.user_features import UserFeatures
    from twotower.serving.runtime.contract import Contract
    from twotower.serving.runtime.operators.user_features import UserFeatures as Compiled

    tags = [["a", "b", "a", "c"], None, ["x", None], []]
    users = pd.DataFrame({"user": [4, 1, 3, 2], "tags": tags})
    operator = UserFeatures(users, "user", ["tags"], {"tags": 3})
    entry = operator.compile(tmp_path, None)
    reads = Contract("user", "item", operator.features, 1, 1, operator.lists)
    table = reads.read({"user": np.array([[4], [1], [3], [2], [404]])}, {})
    users = Compiled(tmp_path, entry, threads=1)
    completed = users.run({**table, row_of("user"): np.array([3, 0, 2, 1, 4])})
    assert completed["tags__count"].tolist() == [3, 0, 2, 0, 0]
    assert completed["tags"].tolist() == ["a", "b", "a", "x", "\uffff"]
    given = {"user": np.array([[4]]), "tags": np.array([[b"z", "\uffff".encode()]], object)}
    completed = users.run({**reads.read(given, {}), row_of("user"): np.array([3])})
    assert completed["tags"].tolist() == ["z"]
    assert completed["tags__count"].tolist() == [1]
    both = reads.join([reads.read(given, {}), table])
    completed = users.run({**both, row_of("user"): np.array([0, 3, 0, 2, 1, 4])})
    assert completed["tags"].tolist() == ["z", "a", "b", "a", "x", "\uffff"]
    assert completed["tags__count"].tolist() == [1, 3, 0, 2, 0, 0]
