"""Faults in requests to the model `events`, and to `retrieval` in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.serving.faults.clients import Answer, Target, Tensor, grpc_infer, http, http_body
from tests.serving.faults.fault import ANSWERED, REFUSED, Fault, MakeTensors, over_both
from twotower.serving.runtime.filters.parameters import KEY_HEADER
from twotower.serving.runtime.live.recording import PREFIX
from twotower.serving.triton.control import EVENTS as FACE
from twotower.serving.triton.control import MODEL_NAME

TYPES = {"user_id": "INT64", "item_id": "INT64", "timestamp": "INT64", "rating": "FP64"}
TYPES |= {"place": "BYTES", "visit": "INT64"}
LATER = 1_700_000_000_000
"""A time in milliseconds."""
NO_NUMBER, NOTHING = -(2**63), "\uffff"


def _event(
    changes: Mapping[str, Any] | None = None, without: str = "", rows: int = 1
) -> MakeTensors:
    """The tensors of an event, with other values, or None for none, of some inputs."""
    values: dict[str, Any] = {"user_id": 5, "item_id": 7, "rating": 4.0, **(changes or {})}
    return lambda t: [
        each
        if isinstance(each, Tensor)
        else Tensor(
            name=name, datatype=TYPES.get(name, "INT64"), shape=[rows, 1], data=[each] * rows
        )
        for name, each in values.items()
        if name != without
    ]


def _tensor(name: str, data: list | bytes, shape: list[int], datatype: str = "") -> dict:
    """Another tensor for an input of `_event`."""
    return {name: Tensor(name=name, datatype=datatype or TYPES[name], shape=shape, data=data)}


def _as_retrieval(tensors: MakeTensors) -> MakeTensors:
    """The tensors with the names that the model `retrieval` has for them."""

    def renamed(t: Target) -> list[Tensor]:
        return [
            Tensor(f"{PREFIX}{each.name}", each.datatype, each.shape, each.data)
            for each in tensors(t)
        ]

    return renamed


def _over_both(
    kind: str,
    tensors: MakeTensors,
    message: str,
    *,
    model: str = FACE,
    key: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[Fault]:
    """A fault over each protocol; `key` is sent in place of the server's."""

    def headers(t: Target) -> dict[str, str]:
        given = t.server.events_key if key is None else key
        return {KEY_HEADER: given} if given else {}

    def over_http(t: Target) -> Answer:
        head, binary = http_body(tensors(t), parameters=dict(parameters or {}))
        length = {"Inference-Header-Content-Length": str(len(head))} if binary is not None else {}
        path = f"/v2/models/{model}/infer"
        return http(t, head + (binary or b""), path=path, headers={**headers(t), **length})

    def over_grpc(t: Target) -> Answer:
        given = dict(parameters or {})
        return grpc_infer(t, tensors(t), parameters=given, metadata=headers(t), model_name=model)

    return [
        Fault(f"events: {kind}", protocol, send, status, message)
        for protocol, send, status in zip(
            ("http", "grpc"), (over_http, over_grpc), REFUSED, strict=True
        )
    ]


WRONG_VALUES = [
    ("rating missing", {"rating": float("nan")}, "row 0: rating is missing"),
    ("a time in milliseconds", {"timestamp": LATER}, f"timestamp is {LATER}, which is not in the"),
    ("a time before the year 1", {"timestamp": -(10**12)}, "which is not in the past"),
    ("the largest time", {"timestamp": 2**63 - 1}, "which is not in the past"),
    ("a time of next week", {"timestamp": 4_000_000_000}, "which is not in the past"),
    ("an infinite rating", {"rating": float("inf")}, "'rating', row 0: infinite"),
    ("an infinite rating below", {"rating": float("-inf")}, "'rating', row 0: infinite"),
    ("a long text", {"place": "x" * 5_000}, "row 0: place is 'xxx"),
    ("a very long text", {"place": "x" * 1_000_000}, "expected a text of at most 4,096"),
]
WRONG_TENSORS = [
    ("users of another type", _tensor("user_id", [5], [1, 1], "INT32"), "user_id"),
    ("users as text", _tensor("user_id", ["5"], [1, 1], "BYTES"), "user_id"),
    ("users as numbers", _tensor("user_id", [5.0], [1, 1], "FP64"), "user_id"),
    ("items of another type", _tensor("item_id", [5], [1, 1], "INT32"), "item_id"),
    ("items as text", _tensor("item_id", ["5"], [1, 1], "BYTES"), "item_id"),
    ("ratings of another type", _tensor("rating", [5.0], [1, 1], "FP32"), "rating"),
    ("ratings as whole numbers", _tensor("rating", [5], [1, 1], "INT64"), "rating"),
    ("times as text", _tensor("timestamp", ["1"], [1, 1], "BYTES"), "timestamp"),
    ("places as numbers", _tensor("place", [1], [1, 1], "INT64"), "place"),
    ("users of one dimension", _tensor("user_id", [5], [1]), "user_id"),
    ("users two wide", _tensor("user_id", [5, 6], [1, 2]), "user_id"),
    ("users without width", _tensor("user_id", [], [1, 0]), "user_id"),
    ("users of three dimensions", _tensor("user_id", [5], [1, 1, 1]), "user_id"),
    ("items two wide", _tensor("item_id", [5, 6], [1, 2]), "item_id"),
    ("ratings two wide", _tensor("rating", [5.0, 4.0], [1, 2]), "rating"),
    ("items without width", _tensor("item_id", [], [1, 0]), "item_id"),
    ("items of one dimension", _tensor("item_id", [5], [1]), "item_id"),
    ("more items than users", _tensor("item_id", [5, 6], [2, 1]), "batch size"),
    ("more ratings than users", _tensor("rating", [5.0, 4.0], [2, 1]), "batch size"),
    ("no such type", _tensor("user_id", [5], [1, 1], "WHAT"), "user_id"),
    (
        "text that is not UTF-8",
        _tensor("place", b"\1\0\0\0\xff", [1, 1]),
        "input 'place', row 0: not UTF-8",
    ),
    (
        "text shorter than its announced length",
        _tensor("place", b"\x63\0\0\0a", [1, 1]),
        "place",
    ),
    ("users too short", _tensor("user_id", bytes(4), [1, 1]), "user_id"),
    ("users too long", _tensor("user_id", bytes(16), [1, 1]), "user_id"),
]

EVENTS: list[Fault] = [
    *(
        fault
        for kind, changes, message in WRONG_VALUES
        for fault in _over_both(kind, _event(changes), message)
    ),
    *(
        fault
        for kind, changes, message in WRONG_TENSORS
        for fault in _over_both(kind, _event(changes), message)
    ),
    *_over_both("no user", _event(without="user_id"), "user_id"),
    *_over_both("no item", _event(without="item_id"), "input 'item_id' is missing"),
    *_over_both("no rating", _event(without="rating"), "row 0: rating is missing"),
    *_over_both("nothing", lambda t: [], "request has 0 inputs"),
    *_over_both("an unknown input", _event({"colour": 1}), "colour"),
    *_over_both("no rows", lambda t: [Tensor("user_id", "INT64", [0, 1], [])], "user_id"),
    *_over_both("too many rows", _event(rows=257), "256"),
    *_over_both("no key", _event(), f"needs the server's key in the header {KEY_HEADER}", key=""),
    *_over_both("a wrong key", _event(), "needs the server's key", key="0" * 32),
    *_over_both("a long key", _event(), "needs the server's key", key="x" * 5_000),
    *_over_both(
        "a wrong key and a wrong value", _event({"timestamp": LATER}), "server's key", key="no"
    ),
    *_over_both("a parameter", _event(), "parameter 'k' is unknown", parameters={"k": 3}),
    *_over_both(
        "an unknown parameter", _event(), "parameter 'now' is unknown", parameters={"now": True}
    ),
    *_over_both(
        "as retrieval, no key",
        _as_retrieval(_event()),
        "needs the server's key",
        model=MODEL_NAME,
        key="",
    ),
    *_over_both(
        "as retrieval, no item",
        _as_retrieval(_event(without="item_id")),
        "input 'item_id' is missing",
        model=MODEL_NAME,
    ),
    *_over_both(
        "as retrieval, no user",
        _as_retrieval(_event(without="user_id")),
        "input 'user_id' is missing",
        model=MODEL_NAME,
    ),
    *_over_both(
        "as retrieval, beside users",
        lambda t: [*_as_retrieval(_event())(t), t.ids(t.user)],
        "input 'user_id' is unknown beside event:user_id",
        model=MODEL_NAME,
    ),
    *_over_both(
        "as retrieval, beside items",
        lambda t: [*_as_retrieval(_event())(t), Tensor("similar_to", "INT64", [1, 1], [1])],
        "input 'similar_to' is unknown",
        model=MODEL_NAME,
    ),
    *over_both(
        "a key where none is needed: the answer without it",
        lambda t: [t.ids(t.user)],
        statuses=ANSWERED,
        same_as=lambda t: [t.ids(t.user)],
        parameters={KEY_HEADER: "any"},
    ),
]
