"""Rows of the fault table: what clients do to a connection, and what the key protects."""

from __future__ import annotations

import json
import pickle
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2

from benchmarks.fault_rows import Ask, Row, asking, known, one, over
from benchmarks.hostile import (
    ANSWER_SECONDS,
    INFER,
    NO_ANSWER,
    Answer,
    Target,
    abandoned,
    call,
    crowd,
    dripped,
    grpc_infer,
    grpc_message,
    http,
    http_body,
    http_infer,
    raw,
    request_bytes,
)
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import KEY_HEADER, MODEL_NAME, ModelControl


def _raw(*headers: str, version: str = "1.1") -> Ask:
    """The request for the known user with more headers."""
    return lambda t: raw(t.server.http, _request(t, *headers, version=version))


def _request(t: Target, *headers: str, version: str = "1.1") -> bytes:
    return request_bytes(http_body([t.ids(t.user)])[0], *headers, version=version)


def _announced(length: int, seconds: float = 5.0) -> Ask:
    """A Content-Length, and nothing after it."""
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
    return lambda t: raw(t.server.http, start, seconds)


def _json_size(length: int) -> Ask:
    """A request whose JSON is said to be `length` bytes long."""
    headers = {"Inference-Header-Content-Length": str(length)}
    return lambda t: http(t, http_body(one(t))[0], headers=headers)


def _binary_size(size: int) -> Ask:
    """A binary tensor of 8 bytes that is said to have `size`."""

    def ask(t: Target) -> Answer:
        head = http_body([t.ids(data=bytes(8), shape=[1, 1])])[0]
        head = head.replace(b'"binary_data_size": 8', b'"binary_data_size": %d' % size)
        length = {"Inference-Header-Content-Length": str(len(head))}
        return http(t, head + bytes(8), headers=length)

    return ask


def _chunks(count: int) -> Ask:
    """A body in chunks of one byte; each takes space on the server's stack (CVE-2025-23310)."""
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return lambda t: raw(t.server.http, start + b"1\r\n \r\n" * count + b"0\r\n\r\n")


HTTP = over(
    "http",
    [
        ("fewer bytes than announced for a tensor", _binary_size(16), 400, "{user_id}"),
        ("more bytes than announced for a tensor", _binary_size(4), 400, "additional input"),
        ("a tensor of negative bytes", _binary_size(-8), 500, "binary_data_size"),
        ("a tensor of 2^62 bytes", _binary_size(2**62), 400, "{user_id}"),
        ("a negative JSON length", _json_size(-5), 400, "inference header"),
        ("a JSON length beyond the body", _json_size(10**11), 400, "inference header"),
        ("a compression nobody knows", _raw("Content-Encoding: what"), 501, "compression"),
        ("HTTP/1.0", _raw(version="1.0"), 200, "", known),
        ("2,000 headers", _raw(*(f"X-{n}: a" for n in range(2_000))), 200, "", known),
        ("a header of 100 KB", _raw("X: " + "a" * 100_000), NO_ANSWER),
        ("bytes that are no HTTP", lambda t: raw(t.server.http, b"\0\1\2\r\n\r\n"), NO_ANSWER),
        ("a negative Content-Length", _announced(-5), NO_ANSWER),
        ("a Content-Length of 23 digits", _announced(10**22), NO_ANSWER),
        ("a Content-Length of 1 PB, and nothing", _announced(10**15, seconds=0.3), NO_ANSWER),
        ("20,000 chunks", _chunks(20_000), 500, "JSON"),
    ],
)


def _half(t: Target) -> Answer:
    return abandoned(t.server.http, _request(t)[:-20])


def _unread(t: Target) -> Answer:
    request = request_bytes(http_body([t.ids(*[t.user] * t.max_batch)])[0])
    return abandoned(t.server.http, request)


def _dropped(t: Target) -> Answer:
    for _ in range(20):
        with ExitStack() as stack:
            crowd(t.server.http, 50, b"", stack)
    return Answer(NO_ANSWER, "")


def _slow(t: Target) -> Answer:
    """One client drips its request while 200 others stop in the middle of their headers."""
    request = _request(t)
    with ExitStack() as stack:
        crowd(t.server.http, 200, request[:30], stack)
        started = time.monotonic()
        problems = t.faults()
        took = time.monotonic() - started
        if problems or took > 5:
            return Answer(NO_ANSWER, f"meanwhile others waited {took:.1f} s, {problems}")
        return dripped(t.server.http, request, after=request.index(b"\n") + 1)


CONNECTIONS = over(
    "http",
    [
        ("half a body, then gone", _half, NO_ANSWER),
        ("gone before the answer", _unread, NO_ANSWER),
        ("1,000 connections opened and dropped", _dropped, NO_ANSWER),
        ("a slow client beside 200 that stall", _slow, 200, "", known),
    ],
)


def _longest(t: Target) -> service_pb2.ModelInferRequest:
    return grpc_message([t.ids(*[t.user] * t.max_batch)], {"k": t.max_k})


def _late(t: Target) -> Answer:
    return call(t, "ModelInfer", _longest(t), timeout=0.001)


def _cancelled(t: Target) -> Answer:
    for _ in range(50):  # until one was not quicker than this client
        answer = t.stub.ModelInfer.future(_longest(t))
        time.sleep(0.001)
        answer.cancel()
        if answer.cancelled():
            break
    return Answer(answer.code().name, "")


def _bytes_to(method: str, content: bytes) -> Ask:
    """Bytes in place of a message."""

    def ask(t: Target) -> Answer:
        with grpc.insecure_channel(t.server.grpc, [("grpc.enable_http_proxy", 0)]) as channel:
            path = f"/inference.GRPCInferenceService/{method}"
            try:
                return Answer("OK", str(channel.unary_unary(path)(content, timeout=10)))
            except grpc.RpcError as error:
                return Answer(error.code().name, error.details())

    return ask


def _metadata(t: Target) -> Answer:
    return call(t, "ModelInfer", grpc_message(one(t)), key="a" * 100_000)


def _empty_parameter(t: Target) -> Answer:
    message = grpc_message(one(t))
    message.parameters["k"].SetInParent()
    return call(t, "ModelInfer", message)


GRPC = over(
    "grpc",
    [
        ("a deadline before the answer", _late, "DEADLINE_EXCEEDED"),
        ("cancelled", _cancelled, "CANCELLED"),
        ("k without a value", _empty_parameter, "INVALID_ARGUMENT", "'k'"),
        ("bytes that are no message", _bytes_to("ModelInfer", b"\xff" * 999), "INTERNAL", "parse"),
        ("an empty message", _bytes_to("ModelInfer", b""), "NOT_FOUND", "unknown model"),
        ("a method nobody knows", _bytes_to("Nothing", b""), "UNIMPLEMENTED"),
        ("metadata of 100 KB", _metadata, "RESOURCE_EXHAUSTED", "metadata"),
        (
            "a batch of 2^62",
            asking(grpc_infer, lambda t: [t.ids(5, shape=[2**62, 1])]),
            "INVALID_ARGUMENT",
            "{user_id}",
        ),
        ("HTTP/1.1", lambda t: raw(t.server.grpc, request_bytes(b"")), NO_ANSWER),
    ],
)


def _kept(path: str, content: object, key: str | None = None) -> Ask:
    """A request for what the key protects."""
    headers = {} if key is None else {KEY_HEADER: key}
    body = json.dumps(content).encode()
    return lambda t: http(t, body, path, headers=headers)


def _kept_call(method: str, fields: dict, key: str | None) -> Ask:
    return lambda t: call(t, method, getattr(service_pb2, f"{method}Request")(**fields), key)


def _with_key(path: str) -> Ask:
    return lambda t: http(t, b"{}", path, headers={KEY_HEADER: t.server.key})


def _override() -> dict:
    """A load request that brings its own configuration and code."""
    config = json.dumps({"backend": "python", "max_batch_size": 1})
    return {"parameters": {"config": config, "file:1/model.py": "cHJpbnQoMSk="}}


class _Planted:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def _planted(folders: Callable[[Path], list[Path]], then: Ask) -> Ask:
    """Pickles lie in `folders` of the model's folder while `then` is asked; is one loaded?"""

    def ask(t: Target) -> Answer:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            marker = Path(scratch) / "loaded"
            for folder in folders(t.server.repository / MODEL_NAME):
                stack.callback((folder / "ensemble.pkl").unlink)
                (folder / "ensemble.pkl").write_bytes(pickle.dumps(_Planted(marker)))
            answer = then(t)
            return Answer("loaded", "") if marker.exists() else answer

    return ask


def _served(model: Path) -> Path:
    """The folder of the published version."""
    return model / str(ModelRepository(model.parent).published)


def _published_again(t: Target) -> Answer:
    repository = ModelRepository(t.server.repository)
    try:
        repository.publish(repository.published, _control(t))
    except ServingError as error:
        return Answer("refused", error.args[0].replace(str(t.server.repository), "repository"))
    return known(t)


def _loaded_again(t: Target) -> Answer:
    _control(t).load()
    return known(t)


def _control(t: Target) -> ModelControl:
    return ModelControl(t.server.http, t.server.key, ANSWER_SECONDS)


SETTINGS = {"log_file": "/tmp/planted"}
REGION = {"key": "/x", "offset": 0, "byte_size": 8}
WRONG = "0" * 32

RESTRICTED = [
    *over(
        "http",
        [
            (f"{kind}, {whose} key", _kept(path, content, key), 403, KEY_HEADER)
            for whose, key in (("no", None), ("a wrong", WRONG))
            for kind, path, content in [
                ("load", f"/v2/repository/models/{MODEL_NAME}/load", {}),
                (
                    "load with a configuration",
                    f"/v2/repository/models/{MODEL_NAME}/load",
                    _override(),
                ),
                ("load of ../../etc", "/v2/repository/models/..%2f..%2fetc/load", {}),
                ("unload", f"/v2/repository/models/{MODEL_NAME}/unload", {}),
                ("index", "/v2/repository/index", {}),
                ("shared memory", "/v2/systemsharedmemory/region/x/register", REGION),
                ("logging", "/v2/logging", SETTINGS),
                ("trace", "/v2/trace/setting", {"trace_file": "/tmp/planted"}),
            ]
        ],
    ),
    *over(
        "grpc",
        [
            (f"{kind}, {whose} key", _kept_call(method, fields, key), "UNAVAILABLE", KEY_HEADER)
            for whose, key in (("no", None), ("a wrong", WRONG))
            for kind, method, fields in [
                ("load", "RepositoryModelLoad", {"model_name": MODEL_NAME}),
                ("load of ../../etc", "RepositoryModelLoad", {"model_name": "../../etc"}),
                ("unload", "RepositoryModelUnload", {"model_name": MODEL_NAME}),
                ("index", "RepositoryIndex", {}),
                ("shared memory", "SystemSharedMemoryRegister", {"name": "x", **REGION}),
                ("logging", "LogSettings", {}),
                ("trace", "TraceSetting", {}),
            ]
        ],
    ),
    Row(
        *("load of ../../etc with the key", "http"),
        _with_key("/v2/repository/models/..%2f..%2fetc/load"),
        *(500, "failed to load"),
    ),
    Row(
        *("a pickle planted in the served version, and a publish", "http"),
        _planted(lambda model: [_served(model)], _published_again),
        *("refused", "ensemble.pkl: not listed by the manifest"),
    ),
    Row(
        *("pickles planted beside the versions, and a load", "http"),
        _planted(lambda model: [model, model.parent], _loaded_again),
        *(200, "", known),
        reloads=True,
    ),
]

DEADLY = {
    "a batch beyond every memory": asking(http_infer, lambda t: [t.ids(5, shape=[2**63 - 1, 1])]),
    "a batch whose bytes overflow": asking(http_infer, lambda t: [t.ids(5, shape=[2**62, 1])]),
}
"""What Triton's HTTP front end does not survive: it makes room for what the JSON announces."""
