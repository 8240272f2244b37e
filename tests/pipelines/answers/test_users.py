"""Users to answer: all, or those in a file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.answers.users import read_users
from twotower.pipelines.errors import ConfigError
from twotower.serving.runtime.contract import Contract
from twotower.workflows.errors import DataError

CONTRACT = Contract(
    user_id="user_id",
    item_id="item_id",
    features={"age": "INT64", "city": "BYTES", "liked": "INT64"},
    default_k=1,
    max_k=1,
    lists=["liked"],
)
VERSION = SimpleNamespace(user_ids=np.array([1, 2**62]), contract=CONTRACT, time_input=None)
TEXTS = SimpleNamespace(
    user_ids=np.array(["007", "7", "C1"], object), contract=CONTRACT, time_input=None
)
UNSIGNED = SimpleNamespace(
    user_ids=np.array([1, 2**63], np.uint64), contract=CONTRACT, time_input=None
)
ROWS = {"note": ["a", "b"], "user_id": [2**62 + 1, 7], "city": ["Oslo", None], "age": [30, None]}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("version", [VERSION, TEXTS, UNSIGNED])
def test_a_file_gives_ids_and_features(tmp_path, suffix, version):
    ids = {object: ["7", "007"], np.uint64: [2**63 + 1, 7]}
    given = ids.get(version.user_ids.dtype.type, ids[object])
    if version is VERSION:
        given = ROWS["user_id"]
    elif version is UNSIGNED:
        given = ids[np.uint64]
    kind = version.user_ids.dtype
    frame = pd.DataFrame({**ROWS, "user_id": pd.Series(given, dtype=kind)})
    frame["age"] = frame["age"].astype("Int64")
    path = tmp_path / f"users{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    users = read_users(str(path), version)
    assert users.ids.tolist() == given
    assert users.features == {"city": ["Oslo", None], "age": [30, None]}
    assert users.unused == ["note"]
    chosen, features = users.batch(1, 2)
    assert (chosen.tolist(), features) == ([given[1]], {"city": [None], "age": [None]})


@pytest.mark.parametrize(
    ("version", "text", "ids"),
    [
        (VERSION, "customer\n7\n", [7]),
        (VERSION, "12\n7\n", [12, 7]),
        (TEXTS, "customer\n7\n", ["7"]),
        (TEXTS, "C1\n007\n", ["C1", "007"]),
    ],
)
def test_without_the_name_the_first_column_has_the_ids(tmp_path, capsys, version, text, ids):
    path = tmp_path / "users.csv"
    path.write_text(text)
    assert read_users(str(path), version).ids.tolist() == ids
    assert "users.csv: the ids are in the first column" in capsys.readouterr().out


def test_all_are_the_users_of_the_version():
    assert read_users("all", VERSION).ids is VERSION.user_ids


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", None, r"none\.csv: no such file; name one, or `all`"),
        ("empty.csv", "user_id\n", r"empty\.csv: no rows"),
        ("blank.csv", "", r"blank\.csv: "),
        ("text.csv", "user_id\nC0001\n", r"text\.csv, line 2, column user_id: 'C0001'"),
        ("null.csv", "user_id,age\n1,2\n,3\n", r"null\.csv, line 3, column user_id: null"),
        ("float.jsonl", '{"user_id": 1.5}', r"float\.jsonl, line 1, column user_id: 1\.5"),
        ("broken.jsonl", '{"user_id": ', r"broken\.jsonl, line 1"),
        ("broken.parquet", "PAR1", r"broken\.parquet: not a readable parquet file"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises((ConfigError, DataError), match=message):
        read_users(str(path), VERSION)
