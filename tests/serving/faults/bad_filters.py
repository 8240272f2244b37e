"""Faults in what a request says about the items of its answers."""

from __future__ import annotations

import struct

from tests.serving.faults.clients import Target, Tensor, http_infer
from tests.serving.faults.fault import (
    ANSWERED,
    Fault,
    inference,
    one_user,
    over_both,
    over_http,
)
from twotower.serving.runtime.contract import ALLOW, EXCLUDE, SIMILAR_TO
from twotower.serving.runtime.filters.predicate import MAX_LENGTH

YEAR = '{"year": {"$gte": 1990}}'


def _items(name: str, *values: int, **changes) -> Tensor:
    shape = [1, len(values)]
    parts = {"name": name, "datatype": "INT64", "shape": shape, "data": [*values]}
    return Tensor(**{**parts, **changes})


def _beside(name: str, *values: int, **changes):
    """The tensors of a valid request for the known user, and a list of items."""
    return lambda t: [t.ids(t.user), _items(name, *values, **changes)]


def _twice(name: str):
    return lambda t: [t.ids(t.user), _items(name, 1), _items(name, 4)]


def _similar(*values: int, **changes):
    """The tensors of a request for items that are similar to a basket."""
    return lambda t: [_items(SIMILAR_TO, *values, **changes)]


def _known_user(t: Target) -> list[Tensor]:
    return [t.ids(t.user)]


PREDICATES = [
    ("where an empty text", "", "'where': it is not JSON"),
    ("where not JSON", "year > 1990", "'where': it is not JSON"),
    ("where truncated JSON", '{"year": 1', "'where': it is not JSON"),
    ("where and more after it", YEAR + "}", "'where': it is not JSON"),
    ("where null", "null", "null: expected an object"),
    ("where a list", "[]", "[]: expected an object"),
    ("where text in JSON", '"year"', "expected an object such as"),
    ("where a number in JSON", "1990", "1990: expected an object"),
    ("where an unknown column", '{"yaer": 1}', "column 'yaer' is unknown; this model filters by"),
    ("where an empty name", '{"": 1}', "column '' is unknown"),
    ("where the name of an id", '{"item_id": 1}', "column 'item_id' is unknown"),
    ("where a name with a path", '{"../year": 1}', "column '../year' is unknown"),
    ("where a long name", '{"' + "x" * 10_000 + '": 1}', "column 'xxx"),
    ("where an unknown operator", '{"year": {"$near": 1}}', "$near: unknown operator"),
    ("where an operator without $", '{"year": {"gte": 1}}', "gte: unknown operator"),
    ("where an unknown connective", '{"$nor": [{}]}', "operator '$nor' is unknown here"),
    ("where code", '{"$where": "sleep(9)"}', "operator '$where' is unknown here"),
    ("where no condition", '{"year": {}}', "column 'year' has no condition"),
    ("where text for a number", '{"year": "1990"}', "column 'year', $eq "),
    ("where a boolean for a number", '{"year": true}', "expected a number"),
    ("where null for a number", '{"year": null}', "$exists tells whether there is a value"),
    ("where a list for a number", '{"year": [1990]}', "expected a number"),
    ("where NaN", '{"year": NaN}', "NaN is no number of JSON"),
    ("where Infinity", '{"year": {"$lt": Infinity}}', "Infinity is no number of JSON"),
    ("where a number for text", '{"kinds": 1}', "column 'kinds', $eq 1: expected text"),
    ("where a number for a boolean", '{"in_stock": 1}', "expected true or false"),
    ("where an order of booleans", '{"in_stock": {"$gt": false}}', "booleans have no order"),
    ("where $all of no list", '{"year": {"$all": [1]}}', "this is for columns of lists"),
    ("where $in without a list", '{"year": {"$in": 1990}}', "$in 1990: expected a list of values"),
    ("where $in of nothing", '{"year": {"$in": []}}', "$in []: expected a list of values"),
    ("where $in of two kinds", '{"year": {"$in": [1, "2"]}}', "column 'year', $in "),
    ("where $exists a number", '{"year": {"$exists": 1}}', "$exists 1: expected true or false"),
    ("where $or without a list", '{"$or": {"year": 1}}', "expected a list of predicates"),
    ("where $or of nothing", '{"$or": []}', "$or []: expected a list of predicates"),
    ("where $or of text", '{"$or": ["year"]}', "expected an object such as"),
    ("where $not a list", f'{{"$not": [{YEAR}]}}', "expected an object"),
    ("where a repeated key", '{"year": 1, "year": 2}', "'year' occurs twice"),
    ("where too long", '{"kinds": "' + "x" * MAX_LENGTH + '"}', "the limit is 16,384"),
    ("where too many conditions", f'{{"$or": [{", ".join([YEAR] * 101)}]}}', "the limit is 100"),
    ("where nested deeply", '{"$not": ' * 1_500 + YEAR + "}" * 1_500, "nested too deeply"),
    ("where deep JSON", "[" * 10_000, "nested too deeply"),
]

CAPS = [
    ("max_per an empty text", "", "'max_per' is ''"),
    ("max_per not JSON", "genres=2", "'max_per' is 'genres=2'"),
    ("max_per a list", '["kinds"]', "expected JSON such as"),
    ("max_per a number", "2", "'max_per' is '2'"),
    ("max_per an empty object", "{}", "expected JSON such as"),
    ("max_per an unknown column", '{"kind": 2}', "column 'kind' is unknown; this model has year"),
    ("max_per 0", '{"kinds": 0}', "column 'kinds': 0; expected an integer of 1 or more"),
    ("max_per negative", '{"kinds": -1}', "column 'kinds': -1"),
    ("max_per a fraction", '{"kinds": 1.5}', "column 'kinds': 1.5"),
    ("max_per a boolean", '{"kinds": true}', "column 'kinds': true"),
    ("max_per too long", '{"' + "x" * 2_000 + '": 1}', "of at most 1,024 characters"),
]

FILTERS: list[Fault] = [
    *(
        fault
        for kind, caps, message in CAPS
        for fault in over_both(kind, one_user, message, parameters={"max_per": caps})
    ),
    *over_both("max_per no text", one_user, "'max_per' is 2;", parameters={"max_per": 2}),
    *(
        fault
        for kind, value in [("negative", -0.1), ("above 1", 1.1), ("text", "0.5"), ("true", True)]
        for fault in over_both(
            f"diversity {kind}",
            one_user,
            "expected a number from 0 to 1",
            parameters={"diversity": value},
        )
    ),
    *over_both(
        "diversity 0: the answer without it",
        _known_user,
        statuses=ANSWERED,
        same_as=_known_user,
        parameters={"diversity": 0},
    ),
    *(
        fault
        for kind, where, message in PREDICATES
        for fault in over_both(kind, one_user, message, parameters={"where": where})
    ),
    *over_both(
        "where a number", one_user, "'where' is 1990; expected text", parameters={"where": 1990}
    ),
    *over_both("where a boolean", one_user, "'where' is True", parameters={"where": True}),
    *over_http(
        [
            (kind, inference(http_infer, one_user, parameters={"where": value}), 400, "'where'")
            for kind, value in [
                ("where an object", {"year": 1990}),
                ("where a list of JSON", [YEAR]),
                ("where null of JSON", None),
            ]
        ]
    ),
    *over_both(
        "where all items satisfy it: the answer without it",
        _known_user,
        statuses=ANSWERED,
        same_as=_known_user,
        parameters={"where": "{}"},
    ),
    *(
        fault
        for name in (ALLOW, EXCLUDE)
        for fault in [
            *over_both(f"{name} of another type", _beside(name, 1, datatype="INT32"), name),
            *over_both(f"{name} as numbers", _beside(name, 1, datatype="FP64"), name),
            *over_both(f"{name} of no width", _beside(name, shape=[1, 0]), name),
            *over_both(f"{name} of one dimension", _beside(name, 1, shape=[1]), name),
            *over_both(f"{name} of three dimensions", _beside(name, 1, shape=[1, 1, 1]), name),
            *over_both(f"{name} of more rows", _beside(name, 1, 2, shape=[2, 1]), "batch size"),
            *over_both(
                f"{name} too wide",
                _beside(name, *[1] * 5_000),
                f"'{name}' has shape [1, 5000]; expected [n, w], 1 <= w <= 4096",
            ),
            *over_both(
                f"{name} with a value after the padding",
                _beside(name, 1, -(2**63), 4),
                f"'{name}', row 0: a value after the padding",
            ),
            *over_both(
                f"{name} as text",
                _beside(name, 1, datatype="BYTES", data=struct.pack("<I", 1) + b"1", shape=[1, 1]),
                name,
            ),
            *over_both(
                f"{name} twice", lambda t, n=name: [t.ids(5), _items(n, 1), _items(n, 4)], name
            ),
        ]
    ),
    *over_both(
        "exclude_item_ids of no item: the answer without it",
        _beside(EXCLUDE, 2, 5, -1, 2**63 - 1),
        statuses=ANSWERED,
        same_as=_known_user,
    ),
    *over_both(
        "exclude_item_ids empty: the answer without it",
        _beside(EXCLUDE, -(2**63)),
        statuses=ANSWERED,
        same_as=_known_user,
    ),
    *over_both(
        "allow_item_ids of no item: the same as an empty list",
        _beside(ALLOW, 2, 5, -1, 2**63 - 1),
        statuses=ANSWERED,
        same_as=_beside(ALLOW, -(2**63)),
    ),
    *over_both(
        "similar_to beside a user",
        _beside(SIMILAR_TO, 1),
        "input '{user_id}' is unknown beside similar_to",
    ),
    *over_both("similar_to of another type", _similar(1, datatype="INT32"), "similar_to"),
    *over_both("similar_to as numbers", _similar(1, datatype="FP64"), "similar_to"),
    *over_both("similar_to of no width", _similar(shape=[1, 0]), "similar_to"),
    *over_both("similar_to of one dimension", _similar(1, shape=[1]), "similar_to"),
    *over_both("similar_to of no rows", _similar(shape=[0, 1]), "similar_to"),
    *over_both("similar_to too wide", _similar(*[1] * 5_000), "1 <= w <= 4096"),
    *over_both("similar_to too many rows", _similar(*[1] * 257, shape=[257, 1]), "{max_batch}"),
    *over_both(
        "similar_to with a value after the padding",
        _similar(1, -(2**63), 4),
        "'similar_to', row 0: a value after the padding",
    ),
    *over_both(
        "similar_to with filter_seen",
        _similar(1),
        "parameter 'filter_seen' is unknown",
        parameters={"filter_seen": True},
    ),
    *over_both("similar_to with k = 0", _similar(1), "'k' is 0;", parameters={"k": 0}),
    *over_both(
        "similar_to with a wrong predicate",
        _similar(1),
        "column 'yaer' is unknown",
        parameters={"where": '{"yaer": 1}'},
    ),
    *over_both(
        "similar_to no items: the same as an empty list",
        _similar(2, 5, -1),
        statuses=ANSWERED,
        same_as=_similar(-(2**63)),
    ),
    *over_both(
        "similar_to an item twice: the same as once",
        _similar(1, 1, 2, 4),
        statuses=ANSWERED,
        same_as=_similar(4, 1),
    ),
    *over_both(
        "diversity_by an unknown column",
        one_user,
        "expected a column: this model has year",
        parameters={"diversity": 0.5, "diversity_by": "yaer"},
    ),
    *over_both(
        "diversity of too many",
        lambda t: [t.ids(*range(10))],
        "with diversity or max_per, rows",
        parameters=lambda t: {"diversity": 0.5, "k": t.max_k},
    ),
]
