"""Conditions on columns of the items, against the values themselves."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from twotower.serving.item_columns import item_columns
from twotower.serving.runtime.filters.columns import ItemColumns
from twotower.serving.runtime.filters.predicate import parse

ITEMS = pa.table(
    {
        "year": pa.array([1990, None, 2000, 2**53 + 1, -5, 1990], pa.int64()),
        "big": pa.array([0, 2**64 - 1, 2**63, None, 1, 2], pa.uint64()),
        "price": pa.array([9.99, 0.1, float("nan"), None, -1.5, 9.99], pa.float32()),
        "maker": pa.array(["a", "", "Z", None, "ä", "a\0"]),
        "in_stock": pa.array([True, False, None, True, False, True]),
        "genres": pa.array([["Drama", "War"], [], None, ["War"], ["Drama", None], ["drama"]]),
        "sizes": pa.array([[1, 2], [2], [3, 1], None, [], [5]], pa.list_(pa.int32())),
        "colour": pa.array(["red", "blue", None, "red", "red", "blue"]).dictionary_encode(),
        "odd name / $": pa.array([1, 2, 3, 4, 5, 6], pa.int8()),
    }
)


@pytest.fixture(scope="module", params=["made", "loaded"])
def columns(request, tmp_path_factory):
    made = item_columns(ITEMS, ITEMS.column_names)
    if request.param == "made":
        return made
    folder = tmp_path_factory.mktemp("columns")
    made.save(folder / "filters")
    return ItemColumns.load(folder / "filters", made.kinds, len(ITEMS))


@pytest.mark.parametrize(
    "predicate, expected",
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"year": 1990}, [0, 5]),
        ({"year": 1990.0}, [0, 5]),
        ({"year": 1990.5}, []),
        ({"year": {"$gt": 1990}}, [2, 3]),
        ({"year": {"$gte": 1990}}, [0, 2, 3, 5]),
        ({"year": {"$gt": 1989.5, "$lt": 1990.5}}, [0, 5]),
        ({"year": {"$lte": -5}}, [4]),
        ({"year": {"$ne": 1990}}, [1, 2, 3, 4]),
        ({"year": {"$nin": [1990, 2000]}}, [1, 3, 4]),
        ({"year": 2**53}, []),  # a float64 cannot tell it from the next number
        ({"year": 2**53 + 1}, [3]),
        ({"year": {"$lt": 10**30}}, [0, 2, 3, 4, 5]),
        ({"year": {"$gt": -1e300}}, [0, 2, 3, 4, 5]),
        ({"year": {"$exists": False}}, [1]),
        ({"year": {"$exists": True}}, [0, 2, 3, 4, 5]),
        ({"$not": {"year": {"$gt": 0}}}, [1, 4]),
        ({"big": 2**64 - 1}, [1]),
        ({"big": {"$gte": 2**63}}, [1, 2]),
        ({"big": {"$gt": -1}}, [0, 1, 2, 4, 5]),
        ({"price": 9.99}, [0, 5]),
        ({"price": 0.1}, [1]),
        ({"price": {"$lt": 9.99}}, [1, 4]),
        ({"price": {"$exists": False}}, [2, 3]),
        ({"maker": "a"}, [0]),
        ({"maker": "a\0"}, [5]),
        ({"maker": ""}, [1]),
        ({"maker": {"$gte": "a"}}, [0, 4, 5]),
        ({"maker": {"$lt": "a"}}, [1, 2]),
        ({"maker": {"$in": ["ä", "Z", "no such"]}}, [2, 4]),
        ({"in_stock": True}, [0, 3, 5]),
        ({"in_stock": {"$ne": True}}, [1, 2, 4]),
        ({"in_stock": False}, [1, 4]),
        ({"genres": "Drama"}, [0, 4]),
        ({"genres": {"$in": ["Drama", "drama"]}}, [0, 4, 5]),
        ({"genres": {"$all": ["Drama", "War"]}}, [0]),
        ({"genres": {"$ne": "War"}}, [1, 2, 4, 5]),
        ({"genres": {"$nin": ["War", "drama"]}}, [1, 2, 4]),
        ({"genres": {"$exists": True}}, [0, 3, 4, 5]),
        ({"genres": "no such"}, []),
        ({"sizes": {"$gte": 3}}, [2, 5]),
        ({"sizes": {"$lt": 2}}, [0, 2]),
        ({"sizes": {"$lt": 2, "$gte": 3}}, [2]),  # of one value each
        ({"colour": "red"}, [0, 3, 4]),
        ({"odd name / $": {"$in": [1, 6]}}, [0, 5]),
        ({"year": 1990, "maker": "a"}, [0]),
        ({"$or": [{"year": 2000}, {"maker": "a"}]}, [0, 2]),
        ({"$and": [{"in_stock": True}, {"$or": [{"year": 1990}, {"sizes": 1}]}]}, [0, 5]),
    ],
)
def test_conditions_hold_for_these_items(predicate, expected, columns):
    found = columns.matching(parse(json.dumps(predicate), columns.kinds))
    assert found.dtype == bool
    assert np.flatnonzero(found).tolist() == expected


def test_kinds_of_columns():
    assert list(item_columns(ITEMS, ITEMS.column_names).kinds.values()) == [
        *["INT64", "UINT64", "FP64", "BYTES", "BOOL"],
        *["BYTES[]", "INT64[]", "BYTES", "INT64"],
    ]


def test_columns_of_no_items():
    empty = item_columns(ITEMS.slice(0, 0), ["year", "genres"])
    for predicate in ("{}", '{"year": 1}', '{"genres": {"$ne": "a"}}', '{"year": {"$gt": 1}}'):
        assert empty.matching(parse(predicate, empty.kinds)).tolist() == []


def test_a_column_without_a_value():
    items = pa.table(
        {"year": pa.nulls(2, pa.int64()), "genres": pa.nulls(2, pa.list_(pa.string()))}
    )
    columns = item_columns(items, ["year", "genres"])
    for predicate, expected in (({"year": {"$gt": 0}}, False), ({"genres": {"$ne": "a"}}, True)):
        found = columns.matching(parse(json.dumps(predicate), columns.kinds))
        assert found.tolist() == [expected, expected]
