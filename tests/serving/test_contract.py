"""Requests to tables: what may be asked and how a wrong one is answered."""

from __future__ import annotations

import numpy as np
import pytest

from serving.runtime.contract import ABSENT, NULL, VALUE, Contract, RequestError

CONTRACT = Contract(
    "user_id", "item_id", {"city": "BYTES", "age": "INT64", "income": "FP64"}, default_k=5, max_k=9
)
IDS = np.array([[3], [4]])


def test_a_request_becomes_a_table():
    inputs = {
        "user_id": IDS,
        "city": np.array([["Zürich".encode()], [b""]], object),
        "income": np.array([[1.5], [np.nan]]),
    }
    table = CONTRACT.read(inputs, {"k": 9, "filter_seen": False})
    assert table["user_id"].tolist() == [3, 4]
    assert table["city"].tolist() == ["Zürich", ""]
    assert table["city__state"].tolist() == [VALUE, VALUE]
    assert table["age__state"].tolist() == [ABSENT, ABSENT]
    assert table["income__state"].tolist() == [VALUE, NULL]
    assert table["k"].tolist() == [9, 9]
    assert table["filter_seen"].tolist() == [False, False]


def test_parameters_have_defaults():
    table = CONTRACT.read({"user_id": IDS}, {})
    assert table["k"].tolist() == [5, 5]
    assert table["filter_seen"].tolist() == [True, True]


@pytest.mark.parametrize(
    "inputs, parameters, message",
    [
        ({}, {}, "input 'user_id' is missing"),
        ({"user_id": IDS, "zip": IDS}, {}, "input 'zip' is unknown.*user_id, city, age, income"),
        ({"user_id": IDS.astype(np.int32)}, {}, "input 'user_id' is int32; expected INT64"),
        ({"user_id": IDS[:, 0]}, {}, r"input 'user_id' has shape \[2\]"),
        ({"user_id": np.ones((2, 2), int)}, {}, r"input 'user_id' has shape \[2, 2\]"),
        ({"user_id": IDS[:0]}, {}, r"input 'user_id' has shape \[0, 1\]"),
        ({"user_id": IDS, "age": IDS[:1]}, {}, "input 'age' has 1 rows, the user ids have 2"),
        ({"user_id": IDS, "income": IDS}, {}, "input 'income' is int64; expected FP64"),
        ({"user_id": IDS, "income": IDS * np.inf}, {}, "input 'income', row 0: infinite"),
        (
            {"user_id": IDS, "city": np.array([[b"ok"], [b"\xff"]], object)},
            {},
            "input 'city', row 1: not UTF-8",
        ),
        ({"user_id": IDS}, {"k": 0}, "parameter 'k' is 0; expected an integer from 1 to 9"),
        ({"user_id": IDS}, {"k": 10}, "parameter 'k' is 10"),
        ({"user_id": IDS}, {"k": "5"}, "parameter 'k' is '5'"),
        ({"user_id": IDS}, {"k": 5.0}, "parameter 'k' is 5.0"),
        ({"user_id": IDS}, {"k": True}, "parameter 'k' is True"),
        ({"user_id": IDS}, {"filter_seen": 1}, "parameter 'filter_seen' is 1"),
        ({"user_id": IDS}, {"top": 3}, "parameter 'top' is unknown.*k and filter_seen"),
    ],
)
def test_a_wrong_request_is_named(inputs, parameters, message):
    with pytest.raises(RequestError, match=message):
        CONTRACT.read(inputs, parameters)
