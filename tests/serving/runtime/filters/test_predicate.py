"""Predicates: what is read, and what is refused with a message that names it."""

from __future__ import annotations

import json

import pytest

from twotower.serving.runtime.errors import RequestError
from twotower.serving.runtime.filters.predicate import Predicate, parse

COLUMNS = {
    "year": "INT64",
    "price": "FP64",
    "genres": "BYTES[]",
    "maker": "BYTES",
    "in_stock": "BOOL",
    "sizes": "INT64[]",
}


@pytest.mark.parametrize(
    "tree, expected",
    [
        ({"year": 1990}, Predicate("$eq", column="year", value=1990)),
        ({"genres": "Drama"}, Predicate("$eq", column="genres", value="Drama")),
        ({"in_stock": {"$ne": True}}, Predicate("$ne", column="in_stock", value=True)),
        ({"price": {"$lt": 9.5}}, Predicate("$lt", column="price", value=9.5)),
        ({"sizes": {"$all": [1, 2]}}, Predicate("$all", column="sizes", value=(1, 2))),
        ({"maker": {"$exists": False}}, Predicate("$exists", column="maker", value=False)),
        (
            {"year": {"$gte": 1990, "$lt": 2000}},
            Predicate(
                "$and",
                (
                    Predicate("$gte", column="year", value=1990),
                    Predicate("$lt", column="year", value=2000),
                ),
            ),
        ),
        (
            {"$or": [{"year": 1}, {"$not": {"maker": "a"}}]},
            Predicate(
                "$or",
                (
                    Predicate("$eq", column="year", value=1),
                    Predicate("$not", (Predicate("$eq", column="maker", value="a"),)),
                ),
            ),
        ),
        ({}, Predicate("$and")),
    ],
)
def test_reads_a_predicate(tree, expected):
    assert parse(json.dumps(tree), COLUMNS) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[]", "[]: expected an object"),
        ("null", "null: expected an object"),
        ('{"yaer": 1}', "column 'yaer' is unknown; this model filters by year, price, genres"),
        ('{"$near": 1}', "operator '$near' is unknown here; expected $and, $or, $not or a column"),
        ('{"year": {"$near": 1}}', "column 'year', $near: unknown operator; expected one of $eq"),
        ('{"year": {"gte": 1}}', "column 'year', gte: unknown operator"),
        ('{"year": {}}', "column 'year' has no condition"),
        ('{"year": "1990"}', "column 'year', $eq \"1990\": expected a number"),
        ('{"year": true}', "column 'year', $eq true: expected a number"),
        ('{"year": null}', "expected a number; $exists tells whether there is a value"),
        ('{"year": [1, 2]}', "column 'year', $eq [1, 2]: expected a number"),
        ('{"year": {"$in": 1}}', "column 'year', $in 1: expected a list of values"),
        ('{"year": {"$in": []}}', "column 'year', $in []: expected a list of values"),
        ('{"year": {"$in": [1, "2"]}}', "column 'year', $in \"2\": expected a number"),
        ('{"year": {"$all": [1]}}', "column 'year', $all: this is for columns of lists; use $in"),
        ('{"year": {"$exists": 1}}', "column 'year', $exists 1: expected true or false"),
        ('{"maker": 1}', "column 'maker', $eq 1: expected text"),
        ('{"genres": {"$gt": 1}}', "column 'genres', $gt 1: expected text"),
        ('{"in_stock": 1}', "column 'in_stock', $eq 1: expected true or false"),
        ('{"in_stock": {"$gt": false}}', "column 'in_stock', $gt: booleans have no order"),
        ('{"price": NaN}', "NaN is no number of JSON"),
        ('{"price": -Infinity}', "-Infinity is no number of JSON"),
        ('{"$or": []}', "$or []: expected a list of predicates"),
        ('{"$and": {"year": 1}}', '$and {"year": 1}: expected a list of predicates'),
        ('{"$or": [1]}', "1: expected an object"),
        ('{"$not": [{"year": 1}]}', '[{"year": 1}]: expected an object'),
        ('{"year": 1, "year": 2}', "'year' occurs twice in an object; use $and"),
        ('{"year": "' + "x" * 100 + '"}', '$eq "' + "x" * 39 + " ..."),
        ('{"maker": "' + "x" * 20_000 + '"}', "it has 20,013 characters; the limit is 16,384"),
        ('{"$not":' * 150 + '{"year": 1}' + "}" * 150, "conditions; the limit is 100"),
        ('{"$not":' * 1500 + '{"year": 1}' + "}" * 1500, "nested too deeply"),
        ("[" * 10_000, "nested too deeply"),
        ('{"$or": [' + ",".join(['{"year": 1}'] * 100) + "]}", "it has 101 conditions"),
    ],
)
def test_refuses_what_is_no_predicate(text, message):
    with pytest.raises(RequestError) as error:
        parse(text, COLUMNS)
    assert str(error.value).startswith("parameter 'where': ")
    assert message in str(error.value)


def test_a_model_without_columns_says_how_to_name_some():
    with pytest.raises(RequestError, match=r"serving\.filters names some at export"):
        parse('{"year": 1}', {})
