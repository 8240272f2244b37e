"""Users to answer: all, or those in a file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.answers.users import read_users
from twotower.pipelines.errors import ConfigError
from twotower.serving.runtime.contract import Contract

CONTRACT = Contract(
    user_id="user_id",
    item_id="item_id",
    features={"age": "INT64", "city": "BYTES", "liked": "INT64"},
    default_k=1,
    max_k=1,
    lists=["liked"],
)
VERSION = SimpleNamespace(user_ids=np.array([1, 2**62]), contract=CONTRACT)
ROWS = {"note": ["a", "b"], "user_id": [2**62 + 1, 7], "city": ["Oslo", None]}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_gives_ids_and_features(tmp_path, suffix):
    frame, path = pd.DataFrame(ROWS), tmp_path / f"users{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    users = read_users(str(path), VERSION)
    assert users.ids.tolist() == ROWS["user_id"]
    assert users.features == {"city": ["Oslo", None]}
    assert users.unused == ["note"]
    ids, features = users.batch(1, 2)
    assert (ids.tolist(), features) == ([7], {"city": [None]})


def test_without_the_name_the_first_column_has_the_ids(tmp_path):
    path = tmp_path / "users.csv"
    path.write_text("customer\n7\n")
    assert read_users(str(path), VERSION).ids.tolist() == [7]


def test_all_are_the_users_of_the_version():
    assert read_users("all", VERSION).ids is VERSION.user_ids


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", None, r"none\.csv: no such file; name one, or `all`"),
        ("users.txt", "1", r"users\.txt: expected a file named \.parquet, \.csv or \.jsonl"),
        ("empty.csv", "user_id\n", r"empty\.csv: no users"),
        ("nothing.csv", "", r"nothing\.csv: cannot be read: .*[Ee]mpty"),
        ("text.csv", "user_id\nC0001\n", r"text\.csv: cannot be read: .*C0001"),
        ("list.csv", "user_id,liked\n1,2\n", r"column liked: CSV cannot hold lists"),
        ("null.csv", "user_id,age\n1,2\n,3\n", r"column user_id, row 2: no user id"),
        ("float.jsonl", '{"user_id": 1.5}', r"ids are double, but those of the model are int64"),
        ("text.jsonl", '{"user_id": "1"}', r"ids are string, but those of the model are int64"),
        ("broken.jsonl", '{"user_id": ', r"broken\.jsonl: cannot be read"),
        ("broken.parquet", "PAR1", r"broken\.parquet: cannot be read"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_users(str(path), VERSION)
