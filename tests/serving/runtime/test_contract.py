"""Requests to tables: what may be asked and how a wrong one is answered."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from twotower.serving.runtime.contract import ABSENT, NULL, VALUE, Contract
from twotower.serving.runtime.errors import RequestError

CONTRACT = Contract(
    "user_id", "item_id", {"city": "BYTES", "age": "INT64", "income": "FP64"}, default_k=5, max_k=9
)
IDS = np.array([[3], [4]])
LISTS = Contract(
    "user_id",
    "item_id",
    {"tags": "BYTES", "visits": "INT64", "marks": "FP32", "spend": "FP64"},
    default_k=5,
    max_k=9,
    lists=["tags", "visits", "marks"],
    ranges={"spend": (-10.0, 1e6)},
)
NONE, LEAST = "\uffff", -(2**63)
FILTERS = {"where", "max_per", "diversity", "diversity_by"} | {
    f"{name}{end}"
    for name in ("allow_item_ids", "exclude_item_ids")
    for end in ("", "__count", "__state")
}


def test_a_request_becomes_a_table():
    inputs = {
        "user_id": IDS,
        "city": np.array([["Zürich".encode()], [b""]], object),
        "income": np.array([[1.5], [np.nan]]),
    }
    table = CONTRACT.read(inputs, {"k": 9, "filter_seen": False})
    assert not {"age", "age__state"} & table.keys()  # which the request does not give
    table = CONTRACT.complete(table)
    assert table["user_id"].tolist() == [3, 4]
    assert table["city"].tolist() == ["Zürich", ""]
    assert table["city__state"].tolist() == [VALUE, VALUE]
    assert table["age__state"].tolist() == [ABSENT, ABSENT]
    assert table["income__state"].tolist() == [VALUE, NULL]
    assert table["k"].tolist() == [9, 9]
    assert table["filter_seen"].tolist() == [False, False]


def texts(*rows):
    return np.array([[value.encode() for value in row] for row in rows], object)


def test_lists_are_read_as_their_values_and_their_counts():
    inputs = {
        "user_id": IDS,
        "tags": texts(["é", "", "c", "d"], [NONE] * 4),
        "visits": np.array([[7, LEAST], [-1, 0]]),
        "marks": np.array([[np.nan], [0.5]], np.float32),
    }
    table = LISTS.read(inputs, {})
    assert table["tags"].tolist() == ["é", "", "c", "d"]
    assert table["visits"].tolist() == [7, -1, 0]
    assert table["marks"].dtype == np.float32
    assert table["marks"].tolist() == [0.5]
    counts = [table[f"{name}__count"].tolist() for name in LISTS.lists]
    assert counts == [[4, 0], [1, 2], [0, 1]]
    assert table["tags__state"].tolist() == [VALUE, VALUE]
    assert LISTS.read({"user_id": IDS}, {}).keys() == {"user_id", "k", "filter_seen"}
    plain = LISTS.complete(LISTS.read({"user_id": IDS}, {}))
    assert plain["tags__state"].tolist() == [ABSENT, ABSENT]
    assert plain["tags__count"].tolist() == [0, 0]
    for name, column in table.items():  # requests of a batch are concatenated
        assert plain[name].dtype == column.dtype, name
        assert len(plain[name]) in (2, 0 if name in LISTS.lists else 2), name


def test_requests_that_give_different_features_are_joined():
    some = LISTS.read({"user_id": IDS, "tags": texts(["a", "b"], [NONE, NONE])}, {"k": 2})
    none = LISTS.read({"user_id": IDS[:1] + 4}, {"filter_seen": False})
    spent = LISTS.read({"user_id": IDS[:1], "spend": np.array([[2.5]])}, {})
    table = LISTS.join([some, none, spent])
    assert table["user_id"].tolist() == [3, 4, 7, 3]
    assert table["k"].tolist() == [2, 2, 5, 5]
    assert table["filter_seen"].tolist() == [True, True, False, True]
    assert table["tags"].tolist() == ["a", "b"]
    assert table["tags__count"].tolist() == [2, 0, 0, 0]
    assert table["tags__state"].tolist() == [VALUE, VALUE, ABSENT, ABSENT]
    assert table["spend"].tolist() == [0, 0, 0, 2.5]
    assert table["spend__state"].tolist() == [ABSENT, ABSENT, ABSENT, VALUE]
    assert LISTS.join([none]) is none
    assert LISTS.join([none, none]).keys() == {"user_id", "k", "filter_seen"}


def test_a_null_can_be_asked_in_every_type():
    inputs = {
        "user_id": IDS,
        "city": np.array([["\uffff".encode()], [b"Oslo"]], object),
        "age": np.array([[LEAST], [-1]]),
        "income": np.array([[np.nan], [1.5]]),
    }
    table = CONTRACT.read(inputs, {})
    assert [table[f"{name}__state"].tolist() for name in CONTRACT.features] == [[NULL, VALUE]] * 3
    assert table["city"].tolist() == ["", "Oslo"]
    assert table["age"].tolist() == [0, -1]
    assert table["income"].tolist() == [0.0, 1.5]
    for name, column in CONTRACT.complete(CONTRACT.read({"user_id": IDS}, {})).items():
        assert name not in table or table[name].dtype == column.dtype, name
    least = CONTRACT.read({"user_id": np.array([[LEAST]])}, {})
    assert least["user_id"].tolist() == [LEAST]  # an id is an id


def test_reading_keeps_nothing_of_requests_of_any_size():
    """What is kept is as long as the largest request, however many sizes there are."""
    LISTS.read({"user_id": np.zeros((1024, 1), np.int64)}, {"k": 9})
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for rows in range(1, 1025, 3):
            LISTS.read({"user_id": np.zeros((rows, 1), np.int64)}, {"k": 1 + rows % 9})
        assert tracemalloc.get_traced_memory()[0] - before < 600_000
    finally:
        tracemalloc.stop()


def test_numbers_have_a_range():
    spend = np.array([[-10.0], [np.nan]])
    table = LISTS.read({"user_id": IDS, "spend": spend}, {})
    assert table["spend__state"].tolist() == [VALUE, NULL]
    with pytest.raises(RequestError, match=r"'spend', row 1: 1.1e\+06; expected -10 to 1e\+06"):
        LISTS.read({"user_id": IDS, "spend": np.array([[1e6], [1.1e6]])}, {})


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"tags": texts(["a"], ["b"])[:, 0]}, r"'tags' has shape \[2\]; expected \[n, w\]"),
        ({"tags": texts([], [])}, r"'tags' has shape \[2, 0\]"),
        ({"visits": np.zeros((2, 4097), np.int64)}, "1 <= w <= 4096"),
        ({"visits": np.zeros((2, 2))}, "'visits' is float64; expected INT64"),
        ({"visits": np.zeros((1, 2), np.int64)}, "'visits' has 1 rows, the user ids have 2"),
        ({"visits": np.array([[1, 2], [LEAST, 2]])}, "'visits', row 1: a value after the padding"),
        ({"marks": np.array([[1], [np.inf]], np.float32)}, "'marks', row 1: infinite"),
        ({"tags": np.array([[b"a", b"b"], [b"\xff", b"a"]], object)}, "'tags', row 1: not UTF-8"),
    ],
)
def test_a_wrong_list_is_named(inputs, message):
    with pytest.raises(RequestError, match=message):
        LISTS.read({"user_id": IDS, **inputs}, {})


def with_time() -> Contract:
    """Hours, and a number from 0 to 10^10, of the input `at`."""
    times = {
        "input": "at",
        "columns": {"hour_of_day": "hour", "number": "since"},
        "edges": [],
        "low": 0,
        "high": 10**10,
        "shifts": [0],
        "changes": [],
    }
    features = {"city": "BYTES", "at": "INT64"}
    return Contract("user_id", "item_id", features, default_k=5, max_k=9, times=times)


def test_the_time_of_a_request_is_the_given_one_or_the_clocks(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 7 * 3600 + 0.9)
    contract = with_time()
    table = contract.read({"user_id": IDS, "at": np.array([[3600], [LEAST]])}, {})
    assert table["hour"].tolist() == [1, 0] and table["since"].tolist() == [3600.0, 0.0]
    assert table["hour__state"].tolist() == table["since__state"].tolist() == [VALUE, ABSENT]
    assert "at" not in table
    now = contract.read({"user_id": IDS}, {})
    assert now["hour"].tolist() == [7, 7] and now["since"].tolist() == [25_200.0] * 2
    assert now["hour__state"].tolist() == [VALUE] * 2
    for name, column in table.items():
        assert now[name].dtype == column.dtype, name
    joined = contract.join([table, now])
    assert joined["hour"].tolist() == [1, 0, 7, 7]
    new = {"city", "city__state", "candidates", *FILTERS}
    assert contract.complete(joined).keys() == {*joined, *new}


@pytest.mark.parametrize(
    "given, message",
    [
        (
            np.array([[0], [1_714_588_200_000]]),
            "'at', row 1: 1714588200000; expected seconds since",
        ),
        (np.array([[-(10**12)], [0]]), "'at', row 0: -1000000000000; expected seconds"),
        (np.array([[0.0], [1.0]]), "'at' is float64; expected INT64"),
        (np.array([[0]]), "'at' has 1 rows, the user ids have 2"),
    ],
)
def test_a_wrong_time_is_named(given, message):
    with pytest.raises(RequestError, match=message):
        with_time().read({"user_id": IDS, "at": given}, {})


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
        ({"user_id": IDS}, {"top": 3}, "parameter 'top' is unknown.*k, filter_seen, where"),
    ],
)
def test_a_wrong_request_is_named(inputs, parameters, message):
    with pytest.raises(RequestError, match=message):
        CONTRACT.read(inputs, parameters)


FILTERED = Contract(
    "user_id", "item_id", {}, default_k=5, max_k=9, item_id_type="BYTES", filters={"year": "INT64"}
)


def test_filters_become_columns():
    where = '{"year": {"$gte": 1990}}'
    inputs = {
        "user_id": IDS,
        "allow_item_ids": texts(["a", "b"], [NONE, NONE]),
        "exclude_item_ids": texts(["\xff", NONE], ["c", "d"]),
    }
    table = FILTERED.read(inputs, {"where": where})
    assert table["where"].tolist() == [where, where]
    assert table["allow_item_ids"].tolist() == [b"a", b"b"]
    assert table["allow_item_ids__count"].tolist() == [2, 0]
    assert table["allow_item_ids__state"].tolist() == [VALUE, VALUE]
    assert table["exclude_item_ids"].tolist() == ["\xff".encode(), b"c", b"d"]
    assert table["exclude_item_ids__count"].tolist() == [1, 2]


def test_a_request_without_filters_has_no_columns_for_them():
    assert not FILTERS & FILTERED.read({"user_id": IDS}, {}).keys()


def test_requests_with_and_without_filters_are_joined():
    where = '{"year": 1}'
    filtered = FILTERED.read({"user_id": IDS, "allow_item_ids": texts(["a"], ["b"])}, {})
    tables = [FILTERED.read({"user_id": IDS}, {}), filtered]
    tables.append(FILTERED.read({"user_id": IDS[:1]}, {"where": where}))
    joined = FILTERED.join(tables)
    assert joined["where"].tolist() == ["", "", "", "", where]
    assert joined["allow_item_ids"].tolist() == [b"a", b"b"]
    assert joined["allow_item_ids__count"].tolist() == [0, 0, 1, 1, 0]
    assert joined["allow_item_ids__state"].tolist() == [ABSENT, ABSENT, VALUE, VALUE, ABSENT]
    assert joined["exclude_item_ids__count"].tolist() == [0] * 5


@pytest.mark.parametrize(
    "inputs, parameters, message",
    [
        ({}, {"where": 1}, "parameter 'where' is 1; expected text that holds JSON"),
        ({}, {"where": ""}, "parameter 'where': it is not JSON"),
        ({}, {"where": '{"yaer": 1}'}, "column 'yaer' is unknown; this model filters by year"),
        ({"allow_item_ids": IDS}, {}, "input 'allow_item_ids' is int64; expected BYTES"),
        ({"allow_item_ids": texts(["a"])}, {}, "'allow_item_ids' has 1 rows, the user ids have 2"),
        (
            {"exclude_item_ids": texts([NONE, "a"], ["a", "b"])},
            {},
            "input 'exclude_item_ids', row 0: a value after the padding",
        ),
        (
            {"exclude_item_ids": texts(["a"], ["b"])[:, 0]},
            {},
            r"has shape \[2\]; expected \[n, w\]",
        ),
        ({"deny_item_ids": IDS}, {}, "takes user_id, allow_item_ids, exclude_item_ids"),
    ],
)
def test_a_wrong_filter_is_named(inputs, parameters, message):
    for _ in range(2):  # a wrong predicate is not remembered as a right one
        with pytest.raises(RequestError, match=message):
            FILTERED.read({"user_id": IDS, **inputs}, parameters)
