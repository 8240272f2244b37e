"""Faults in requests to the model `recommend`, and to `retrieval` in its place."""

from __future__ import annotations

import json

from tests.serving.faults.clients import Answer, Target, Tensor, grpc_infer, http, http_body
from tests.serving.faults.fault import ANSWERED, Fault, over_both, over_grpc, over_http
from tests.serving.ranked import CANDIDATES, MAX_ROWS
from twotower.serving.runtime.contract import ALLOW, RECOMMEND_FOR
from twotower.serving.triton.control import RECOMMEND

TOO_MANY = MAX_ROWS // CANDIDATES + 1


def _ranked(*users: int, **changes):
    """The tensors of a request for the candidates of users, in the order of the ranking model."""
    shape = [len(users), 1]
    parts = {"name": RECOMMEND_FOR, "datatype": "INT64", "shape": shape, "data": [*users]}
    return lambda t: [Tensor(**{**parts, **changes})]


def _known_user(t: Target) -> list[Tensor]:
    return _ranked(t.user)(t)


def _beside(*others: Tensor):
    return lambda t: [*_known_user(t), *others]


def _number(name: str, value: int) -> Tensor:
    return Tensor(name=name, datatype="INT64", shape=[1, 1], data=[value])


def _face(tensors, **parts):
    """Send a request to the model `recommend` itself."""

    def send(t: Target) -> Answer:
        head, _ = http_body(tensors(t), **parts)
        return http(t, head, path=f"/v2/models/{RECOMMEND}/infer")

    return send


def _face_over_grpc(tensors, **parts):
    return lambda t: grpc_infer(t, tensors(t), model_name=RECOMMEND, **parts)


WRONG_PARAMETERS = [
    (
        "candidates 0",
        {"candidates": 0},
        f"'candidates' is 0; expected an integer from 1 to {CANDIDATES}",
    ),
    ("candidates negative", {"candidates": -1}, "'candidates' is -1;"),
    ("candidates above the limit", {"candidates": CANDIDATES + 1}, f"from 1 to {CANDIDATES}"),
    ("candidates huge", {"candidates": 2**62}, f"from 1 to {CANDIDATES}"),
    ("candidates a fraction", {"candidates": 2.5}, "'candidates' is 2.5;"),
    ("candidates text", {"candidates": "9"}, "'candidates' is '9';"),
    ("candidates a boolean", {"candidates": True}, "'candidates' is True;"),
    (
        "fewer candidates than k",
        {"candidates": 3, "k": 4},
        "'k' is 4, but the ranking model orders 3",
    ),
    ("k above the candidates", {"k": CANDIDATES + 1}, f"the ranking model orders {CANDIDATES}"),
    ("k 0", {"k": 0}, "'k' is 0; expected an integer from 1 to {max_k}"),
    ("k above max_k", {"k": 10**6}, "expected an integer from 1 to {max_k}"),
    ("filter_seen text", {"filter_seen": "yes"}, "'filter_seen' is 'yes';"),
    ("an unknown parameter", {"rank": True}, "parameter 'rank' is unknown; this model takes k,"),
    ("a wrong predicate", {"where": '{"yaer": 1}'}, "column 'yaer' is unknown"),
    ("a wrong cap", {"max_per": '{"kind": 1}'}, "column 'kind' is unknown"),
    ("diversity above 1", {"diversity": 1.5}, "expected a number from 0 to 1"),
]

RANKING: list[Fault] = [
    *(
        fault
        for kind, parameters, message in WRONG_PARAMETERS
        for fault in over_both(f"ranked: {kind}", _ranked(5), message, parameters=parameters)
    ),
    *over_both("ranked: ids as numbers", _ranked(5, datatype="FP64"), "recommend_for"),
    *over_both("ranked: ids of another type", _ranked(5, datatype="INT32"), "recommend_for"),
    *over_both("ranked: ids of no rows", _ranked(shape=[0, 1]), "recommend_for"),
    *over_both("ranked: ids of one dimension", _ranked(5, shape=[1]), "recommend_for"),
    *over_both("ranked: ids two wide", _ranked(5, 6, shape=[1, 2]), "recommend_for"),
    *over_both(
        "ranked: too many candidates in all",
        _ranked(*range(TOO_MANY)),
        f"{TOO_MANY} users with {CANDIDATES} candidates each are {TOO_MANY * CANDIDATES:,} rows",
    ),
    *over_both(
        "ranked: both inputs of users",
        lambda t: [*_known_user(t), t.ids(t.user)],
        "input '{user_id}' is unknown beside recommend_for",
    ),
    *over_both(
        "ranked: beside similar_to",
        _beside(Tensor(name="similar_to", datatype="INT64", shape=[1, 1], data=[1])),
        "input 'recommend_for' is unknown beside similar_to",
    ),
    *over_both(
        "ranked: a feature of another type",
        lambda t: [*_known_user(t), t.texts("1", name=t.number)],
        "{number}",
    ),
    *over_both(
        "ranked: allow_item_ids too wide",
        _beside(Tensor(name=ALLOW, datatype="INT64", shape=[1, 5_000], data=[1] * 5_000)),
        "1 <= w <= 4096",
    ),
    *over_both(
        "candidates without recommend_for",
        lambda t: [t.ids(t.user)],
        "parameter 'candidates' is unknown",
        parameters={"candidates": 5},
    ),
    *over_both(
        "ranked: all candidates named: the answer without it",
        _known_user,
        statuses=ANSWERED,
        same_as=_known_user,
        parameters={"candidates": CANDIDATES},
    ),
    *over_http(
        [
            (
                "recommend: k above the candidates",
                _face(lambda t: [t.ids(5)], parameters={"k": 41}),
                400,
                "orders 40",
            ),
            (
                "recommend: no input",
                _face(lambda t: []),
                400,
                "missing required input(s) ['user_id']",
            ),
            (
                "recommend: an unknown input",
                _face(lambda t: [t.ids(5), _number("colour", 1)]),
                400,
                "colour",
            ),
            ("recommend: the input of retrieval", _face(_ranked(5)), 400, "recommend_for"),
            (
                "recommend: a wrong predicate",
                _face(lambda t: [t.ids(5)], parameters={"where": "{"}),
                400,
                "'where': it is not JSON",
            ),
            (
                "recommend: deep parameters",
                _face(lambda t: [t.ids(5)], parameters={"where": json.loads("[1]")}),
                400,
                "where",
            ),
        ]
    ),
    *over_grpc(
        [
            (
                "recommend: k above the candidates",
                _face_over_grpc(lambda t: [t.ids(5)], parameters={"k": 41}),
                "INVALID_ARGUMENT",
                "orders 40",
            ),
            (
                "recommend: an unknown input",
                _face_over_grpc(lambda t: [t.ids(5), _number("colour", 1)]),
                "INVALID_ARGUMENT",
                "colour",
            ),
            (
                "recommend: no input",
                _face_over_grpc(lambda t: []),
                "INVALID_ARGUMENT",
                "missing required input(s) ['user_id']",
            ),
        ]
    ),
]
