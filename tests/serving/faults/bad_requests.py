"""Faults in the content of inference requests."""

from __future__ import annotations

import json
import struct

from tritonclient.grpc import service_pb2

from tests.serving.faults.clients import (
    INFER,
    Answer,
    Target,
    call,
    grpc_infer,
    http,
    http_body,
    http_infer,
)
from tests.serving.faults.fault import (
    ANSWERED,
    FRONT_END,
    Fault,
    Send,
    ask_known_user,
    inference,
    one_user,
    over_both,
    over_grpc,
    over_http,
)
from twotower.serving.triton.control import MODEL_NAME

UNKNOWN_USER = 10**12 + 7
"""An id that no data set has."""
NOT_UTF8 = struct.pack("<I", 1) + b"\xff"
DEPTH = 100_000

TENSORS: list[Fault] = [
    *over_both("wrong dtype", lambda t: [t.ids(5, datatype="INT32")], "{user_id}"),
    *over_both("no such dtype", lambda t: [t.ids(5, datatype="WHAT")], "{user_id}"),
    *over_both("no dimensions", lambda t: [t.ids(5, shape=[])], "{user_id}"),
    *over_both("one dimension", lambda t: [t.ids(5, shape=[1])], "{user_id}"),
    *over_both("three dimensions", lambda t: [t.ids(5, shape=[1, 1, 1])], "{user_id}"),
    *over_both("wrong width", lambda t: [t.ids(5, 6, shape=[1, 2])], "{user_id}"),
    *over_both("binary too short", lambda t: [t.ids(data=bytes(4), shape=[1, 1])], "{user_id}"),
    *over_both("binary too long", lambda t: [t.ids(data=bytes(16), shape=[1, 1])], "{user_id}"),
    *over_both("zero width", lambda t: [t.ids(shape=[1, 0])], "{user_id}"),
    *over_both("zero dimensions", lambda t: [t.ids(shape=[0, 0])], "{user_id}"),
    *over_both(
        "negative width",
        lambda t: [t.ids(5, shape=[1, -1])],
        message=("shape", "{user_id}"),
        statuses=FRONT_END,
    ),
    *over_both(
        "negative batch",
        lambda t: [t.ids(5, shape=[-1, 1])],
        message=("shape", "{user_id}"),
        statuses=FRONT_END,
    ),
    *over_both("batch of 0", lambda t: [t.ids()], "{user_id}"),
    *over_both("batch over the limit", lambda t: [t.ids(*range(t.max_batch + 1))], "{max_batch}"),
    *over_both("rows differ", lambda t: [t.ids(5), t.texts("a", "b")], "batch size"),
    *over_both("missing input", lambda t: [t.texts("a")], "{user_id}"),
    *over_both("no input", lambda t: [], "request has 0 inputs"),
    *over_both("unknown input", lambda t: [t.ids(5), t.ids(5, name="zip")], "zip"),
    *over_both("a repeated input", lambda t: [t.ids(5), t.ids(6)], "{user_id}"),
    *over_both("unknown output", lambda t: [t.ids(5)], "title", outputs=[{"name": "title"}]),
    *over_both(
        "minimum and maximum of INT64: unknown users",
        lambda t: [t.ids(-(2**63), 2**63 - 1)],
        statuses=ANSWERED,
        same_as=lambda t: [t.ids(UNKNOWN_USER, UNKNOWN_USER)],
    ),
    *over_both(
        "text that is not UTF-8",
        lambda t: [t.ids(5), t.texts(data=NOT_UTF8, shape=[1, 1])],
        "'{text}', row 0: not UTF-8",
    ),
    *over_both(
        "text shorter than its announced length",
        lambda t: [t.ids(5), t.texts(data=struct.pack("<I", 99) + b"a", shape=[1, 1])],
        "{text}",
    ),
    *over_both(
        "a long text: a value that was never seen",
        lambda t: [t.ids(5), t.texts("x" * min(t.payload, 10**7))],
        statuses=ANSWERED,
        same_as=lambda t: [t.ids(5), t.texts("never seen")],
    ),
    *over_both(
        "infinity",
        lambda t: [t.ids(5), t.numbers(float("inf"))],
        "'{number}', row 0: infinite",
    ),
    *over_both(
        "infinity, binary",
        lambda t: [t.ids(5, 5), t.numbers(data=struct.pack("<2d", 1, float("-inf")), shape=[2, 1])],
        "'{number}', row 1: infinite",
    ),
    *over_both(
        "NaN, binary: an unknown value",
        lambda t: [t.ids(5), t.numbers(data=struct.pack("<Q", 0xFFF0 << 48 | 1), shape=[1, 1])],
        statuses=ANSWERED,
        same_as=lambda t: [t.ids(5), t.numbers(float("nan"))],
    ),
    *over_both(
        "a large binary payload",
        lambda t: [t.ids(data=bytes(t.payload), shape=[t.payload // 8, 1])],
        "{max_batch}",
    ),
    *over_both(
        "a large binary payload for one row",
        lambda t: [t.ids(data=bytes(t.payload), shape=[1, 1])],
        "{user_id}",
    ),
]


PARAMETERS = [
    fault
    for kind, parameters, message in [
        ("k = 0", {"k": 0}, "'k' is 0;"),
        ("k negative", {"k": -3}, "'k' is -3;"),
        ("k huge", {"k": 2**63 - 1}, "from 1 to {max_k}"),
        ("k a string", {"k": "10"}, "'k' is '10';"),
        ("k a boolean", {"k": True}, "'k' is True;"),
        ("filter_seen a string", {"filter_seen": "yes"}, "'filter_seen' is 'yes'"),
        ("unknown parameter", {"top": 3}, "'top'"),
        ("unknown parameter with a long name", {"x" * 100_000: 3}, "'xxx"),
        ("k a long string", {"k": "9" * 100_000}, "'k' is '999"),
    ]
    for fault in over_both(kind, one_user, message, parameters=parameters)
] + [
    *over_both(
        "k too large",
        one_user,
        "from 1 to {max_k}",
        parameters=lambda t: {"k": t.max_k + 1},
    ),
    *over_http(
        [
            (kind, inference(http_infer, one_user, parameters={"k": value}), 400, "'k'")
            for kind, value in [
                ("k a float", 2.5),
                ("k null", None),
                ("k a list", [10]),
                ("k an object", {}),
                ("k = 10^30", 10**30),
                ("k NaN", float("nan")),
            ]
        ]
    ),
]


def _http_region(t: Target) -> Answer:
    place = {"shared_memory_region": "unregistered", "shared_memory_byte_size": 8}
    tensor = {"name": t.user_id, "datatype": "INT64", "shape": [1, 1], "parameters": place}
    return http(t, json.dumps({"inputs": [tensor]}).encode())


def _grpc_region(t: Target) -> Answer:
    message = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    tensor = message.inputs.add(name=t.user_id, datatype="INT64", shape=[1, 1])
    tensor.parameters["shared_memory_region"].string_param = "unregistered"
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    return call(t, "ModelInfer", message)


def _at(path: str, method: str = "POST") -> Send:
    """Send a valid request to another path, or with another method."""
    body = method != "GET"
    return lambda t: http(t, http_body(one_user(t))[0] if body else b"", path, method)


def _with(**fields: str) -> Send:
    """Send a valid request with other fields of the message."""
    return lambda t: grpc_infer(t, one_user(t), **fields)


PATHS = [
    *over_http(
        [
            ("unknown model", _at("/v2/models/other/infer"), 404, "'other'"),
            ("unknown version", _at(f"/v2/models/{MODEL_NAME}/versions/99/infer"), 404, "99"),
            ("a version that is text", _at(f"/v2/models/{MODEL_NAME}/versions/new/infer"), 404),
            (
                "version beyond INT64",
                _at(f"/v2/models/{MODEL_NAME}/versions/{10**20}/infer"),
                400,
                str(10**20),
            ),
            ("path traversal", _at("/v2/models/..%2f..%2fetc/infer"), 404, "'..%2f..%2fetc'"),
            ("path traversal, plain", _at("/v2/models/../../etc/infer"), 404),
            ("path traversal to a config", _at("/v2/models/..%2f..%2fetc/config", "GET"), 404),
            ("no such path", _at("/etc/passwd", "GET"), 404),
            ("a long path", _at(f"/v2/models/{'a' * 1_500}/infer"), 404),
            ("GET of an inference", _at(INFER, "GET"), 405),
            ("DELETE", _at(INFER, "DELETE"), 405),
            ("an unknown method", _at(INFER, "BREW"), 405),
            ("an unregistered shared memory region", _http_region, 404, "'unregistered'"),
        ]
    ),
    *over_grpc(
        [
            ("unknown model", _with(model_name="other"), "NOT_FOUND", "'other'"),
            ("no model", _with(model_name=""), "NOT_FOUND"),
            ("unknown version", _with(model_version="99"), "NOT_FOUND", "99"),
            ("a version that is text", _with(model_version="../1"), "INVALID_ARGUMENT", "'../1'"),
            ("path traversal", _with(model_name="../../etc"), "NOT_FOUND", "'../../etc'"),
            ("an unregistered shared memory region", _grpc_region, "NOT_FOUND", "'unregistered'"),
        ]
    ),
]


def _body(template: str | bytes) -> Send:
    """Send a body in which ID and TEXT stand for names of inputs and USER for the known user."""
    body = template.encode() if isinstance(template, str) else template

    def send(t: Target) -> Answer:
        named = body.replace(b"TEXT", t.text.encode()).replace(b"USER", str(t.user).encode())
        return http(t, named.replace(b"ID", t.user_id.encode()))

    return send


def _id_of(value: str, more: str = "") -> str:
    """Write an inference request with `value` as the data of the user id."""
    tensor = f'{{"name": "ID", "datatype": "INT64", "shape": [1, 1], "data": {value}}}'
    return f'{{{more}"inputs": [{tensor}]}}'


def _text_of(value: bytes) -> bytes:
    """Write an inference request with `value` as the data of the text feature."""
    tensor = b'{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["%s"]}' % value
    return _id_of("[USER]").encode()[:-2] + b", " + tensor + b"]}"


def _large_json(t: Target) -> Answer:
    """Send as many ids as the payload holds."""
    count = t.payload // 8
    empty = http_body([t.ids(shape=[count, 1])])[0]
    return http(t, empty.replace(b"[]", b"[" + b"1234567," * (count - 1) + b"1]"))


JSON = over_http(
    [
        ("not JSON", _body("hello"), 500, "JSON"),
        ("no body", _body(""), 400),
        ("truncated JSON", _body(_id_of("[5]")[:-9]), 500, "JSON"),
        ("JSON and more after it", _body(_id_of("[5]") + "{}"), 500, "JSON"),
        ("a list", _body("[]"), 500, "inputs"),
        ("no inputs", _body("{}"), 500, "inputs"),
        ("inputs a number", _body('{"inputs": 3}'), 500, "inputs"),
        ("parameters a list", _body(_id_of("[5]", '"parameters": [1], ')), 500, "params"),
        ("too few values", lambda t: http_infer(t, [t.ids(5, shape=[2, 1])]), 500, "data"),
        ("too many values", lambda t: http_infer(t, [t.ids(5, 6, shape=[1, 1])]), 500, "data"),
        ("an id that is text", _body(_id_of('["five"]')), 500, "data"),
        ("an id null", _body(_id_of("[null]")), 500, "data"),
        ("an id NaN", _body(_id_of("[NaN]")), 500, "data"),
        ("an id Infinity", _body(_id_of("[Infinity]")), 500, "data"),
        ("an id of 2^63", _body(_id_of(f"[{2**63}]")), 500, "data"),
        ("an id of 10^30", _body(_id_of(f"[{10**30}]")), 500, "data"),
        ("a number beyond FP64", _body(_id_of("[1e400]")), 500, "JSON"),
        ("half a surrogate pair", _body(_text_of(b"\\ud800")), 500, "JSON"),
        ("text that is not UTF-8, in JSON", _body(_text_of(b"\xff")), 400, "not UTF-8"),
        (
            "a parameter that is not UTF-8",
            _body(_id_of("[5]", '"parameters": {"k": "?"}, ').encode().replace(b"?", b"\xff")),
            400,
            "UTF-8",
        ),
        (
            "a repeated key: the first counts",
            _body(_id_of("[USER]", '"parameters": {"k": 10, "k": 0}, ')),
            200,
            "",
            ask_known_user,
        ),
        (
            "repeated inputs: the first count",
            _body(_id_of("[USER]")[:-1] + ', "inputs": [], "inputs": 3}'),
            200,
            "",
            ask_known_user,
        ),
        ("deep JSON", _body("[" * DEPTH), 500, "JSON"),
        ("deep JSON, objects", _body('{"a":' * DEPTH + "1" + "}" * DEPTH), 500, "inputs"),
        (
            "deep JSON in a parameter",
            _body(_id_of("[5]", f'"parameters": {{"k": {"[" * DEPTH}1{"]" * DEPTH}}}, ')),
            400,
            "'k'",
        ),
        (
            "deep JSON in the data: brackets are ignored",
            _body(_id_of("[" * DEPTH + "USER" + "]" * DEPTH)),
            200,
            "",
            ask_known_user,
        ),
        ("a large payload of ids", _large_json, 400, "{max_batch}"),
    ]
)
