"""Faults in connections and protocols, and requests without the key that they need."""

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

from tests.serving.faults.clients import (
    ANSWER_SECONDS,
    INFER,
    NO_ANSWER,
    Answer,
    Target,
    abandon,
    call,
    drip,
    grpc_infer,
    grpc_message,
    http,
    http_body,
    http_infer,
    open_connections,
    raw,
    request_bytes,
)
from tests.serving.faults.fault import (
    Fault,
    Send,
    ask_known_user,
    inference,
    one_user,
    over_grpc,
    over_http,
)
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import KEY_HEADER, MODEL_NAME, ModelControl


def _raw(*headers: str, version: str = "1.1") -> Send:
    """Send the request for the known user with more headers."""
    return lambda t: raw(t.server.http, _request(t, *headers, version=version))


def _request(t: Target, *headers: str, version: str = "1.1") -> bytes:
    return request_bytes(http_body([t.ids(t.user)])[0], *headers, version=version)


def _announced(length: int, seconds: float = 5.0) -> Send:
    """Send a Content-Length and no body."""
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
    return lambda t: raw(t.server.http, start, seconds)


def _json_size(length: int) -> Send:
    """Send a request that announces `length` bytes of JSON."""
    headers = {"Inference-Header-Content-Length": str(length)}
    return lambda t: http(t, http_body(one_user(t))[0], headers=headers)


def _binary_size(size: int) -> Send:
    """Send a binary tensor of 8 bytes that announces `size` bytes."""

    def send(t: Target) -> Answer:
        head = http_body([t.ids(data=bytes(8), shape=[1, 1])])[0]
        head = head.replace(b'"binary_data_size": 8', b'"binary_data_size": %d' % size)
        length = {"Inference-Header-Content-Length": str(len(head))}
        return http(t, head + bytes(8), headers=length)

    return send


def _chunks(count: int) -> Send:
    """Send a body in chunks of one byte; each uses the server's stack (CVE-2025-23310)."""
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return lambda t: raw(t.server.http, start + b"1\r\n \r\n" * count + b"0\r\n\r\n")


HTTP: list[Fault] = over_http(
    [
        ("fewer bytes than announced for a tensor", _binary_size(16), 400, "{user_id}"),
        ("more bytes than announced for a tensor", _binary_size(4), 400, "additional input"),
        ("a tensor of negative bytes", _binary_size(-8), 500, "binary_data_size"),
        ("a tensor of 2^62 bytes", _binary_size(2**62), 400, "{user_id}"),
        ("a negative JSON length", _json_size(-5), 400, "inference header"),
        ("a JSON length beyond the body", _json_size(10**11), 400, "inference header"),
        ("an unknown compression", _raw("Content-Encoding: what"), 501, "compression"),
        ("HTTP/1.0", _raw(version="1.0"), 200, "", ask_known_user),
        ("2,000 headers", _raw(*(f"X-{n}: a" for n in range(2_000))), 200, "", ask_known_user),
        ("a header of 100 KB", _raw("X: " + "a" * 100_000), NO_ANSWER),
        ("bytes that are not HTTP", lambda t: raw(t.server.http, b"\0\1\2\r\n\r\n"), NO_ANSWER),
        ("a negative Content-Length", _announced(-5), NO_ANSWER),
        ("a Content-Length of 23 digits", _announced(10**22), NO_ANSWER),
        ("a Content-Length of 1 PB without a body", _announced(10**15, seconds=0.3), NO_ANSWER),
        ("20,000 chunks", _chunks(20_000), 500, "JSON"),
    ]
)


def _send_half(t: Target) -> Answer:
    return abandon(t.server.http, _request(t)[:-20])


def _leave_before_answer(t: Target) -> Answer:
    request = request_bytes(http_body([t.ids(*[t.user] * t.max_batch)])[0])
    return abandon(t.server.http, request)


def _open_and_drop(t: Target) -> Answer:
    for _ in range(20):
        with ExitStack() as stack:
            open_connections(t.server.http, 50, b"", stack)
    return Answer(NO_ANSWER, "")


def _drip_beside_stalled(t: Target) -> Answer:
    """Send a request byte by byte while 200 other clients stop in the middle of their headers."""
    request = _request(t)
    with ExitStack() as stack:
        open_connections(t.server.http, 200, request[:30], stack)
        started = time.monotonic()
        problems = t.problems()
        seconds = time.monotonic() - started
        if problems or seconds > 5:
            return Answer(NO_ANSWER, f"other clients waited {seconds:.1f} s, {problems}")
        return drip(t.server.http, request, after=request.index(b"\n") + 1)


CONNECTIONS = over_http(
    [
        ("half a body, then the client closes", _send_half, NO_ANSWER),
        ("the client closes before the answer", _leave_before_answer, NO_ANSWER),
        ("1,000 connections opened and closed", _open_and_drop, NO_ANSWER),
        ("a slow client beside 200 stalled ones", _drip_beside_stalled, 200, "", ask_known_user),
    ]
)


def _largest(t: Target) -> service_pb2.ModelInferRequest:
    return grpc_message([t.ids(*[t.user] * t.max_batch)], {"k": t.max_k})


def _send_with_deadline(t: Target) -> Answer:
    for _ in range(50):  # until the answer has not come before the deadline
        answer = call(t, "ModelInfer", _largest(t), timeout=0.001)
        if answer.status != "OK":
            break
    return answer


def _cancel(t: Target) -> Answer:
    for _ in range(50):  # until the answer has not come before the cancellation
        answer = t.stub.ModelInfer.future(_largest(t))
        time.sleep(0.001)
        answer.cancel()
        if answer.cancelled():
            break
    return Answer(answer.code().name, "")


def _bytes_to(method: str, content: bytes) -> Send:
    """Send bytes instead of a message."""

    def send(t: Target) -> Answer:
        with grpc.insecure_channel(t.server.grpc, [("grpc.enable_http_proxy", 0)]) as channel:
            path = f"/inference.GRPCInferenceService/{method}"
            try:
                return Answer("OK", str(channel.unary_unary(path)(content, timeout=10)))
            except grpc.RpcError as error:
                return Answer(error.code().name, error.details())

    return send


def _metadata(t: Target) -> Answer:
    return call(t, "ModelInfer", grpc_message(one_user(t)), key="a" * 100_000)


def _empty_parameter(t: Target) -> Answer:
    message = grpc_message(one_user(t))
    message.parameters["k"].SetInParent()
    return call(t, "ModelInfer", message)


GRPC = over_grpc(
    [
        ("a deadline before the answer", _send_with_deadline, "DEADLINE_EXCEEDED"),
        ("cancelled", _cancel, "CANCELLED"),
        ("k without a value", _empty_parameter, "INVALID_ARGUMENT", "'k'"),
        (
            "bytes that are not a message",
            _bytes_to("ModelInfer", b"\xff" * 999),
            "INTERNAL",
            "parse",
        ),
        ("an empty message", _bytes_to("ModelInfer", b""), "NOT_FOUND", "unknown model"),
        ("an unknown method", _bytes_to("Nothing", b""), "UNIMPLEMENTED"),
        ("metadata of 100 KB", _metadata, "RESOURCE_EXHAUSTED", "metadata"),
        (
            "a batch of 2^62",
            inference(grpc_infer, lambda t: [t.ids(5, shape=[2**62, 1])]),
            "INVALID_ARGUMENT",
            "{user_id}",
        ),
        ("HTTP/1.1", lambda t: raw(t.server.grpc, request_bytes(b"")), NO_ANSWER),
    ]
)


def _restricted(path: str, content: object, key: str | None = None) -> Send:
    """Send a request over HTTP that needs the server's key."""
    headers = {} if key is None else {KEY_HEADER: key}
    body = json.dumps(content).encode()
    return lambda t: http(t, body, path, headers=headers)


def _restricted_call(method: str, fields: dict, key: str | None) -> Send:
    """Send a request over gRPC that needs the server's key."""
    return lambda t: call(t, method, getattr(service_pb2, f"{method}Request")(**fields), key)


def _with_key(path: str) -> Send:
    return lambda t: http(t, b"{}", path, headers={KEY_HEADER: t.server.key})


def _override() -> dict:
    """A load request with a configuration and code of its own."""
    config = json.dumps({"backend": "python", "max_batch_size": 1})
    return {"parameters": {"config": config, "file:1/model.py": "cHJpbnQoMSk="}}


class _Planted:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def _planted(folders: Callable[[Path], list[Path]], then: Send) -> Send:
    """Send a request while folders of the repository have pickles; detect whether one is loaded."""

    def send(t: Target) -> Answer:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            marker = Path(scratch) / "loaded"
            for folder in folders(t.server.repository / MODEL_NAME):
                stack.callback((folder / "ensemble.pkl").unlink)
                (folder / "ensemble.pkl").write_bytes(pickle.dumps(_Planted(marker)))
            answer = then(t)
            return Answer("loaded", "") if marker.exists() else answer

    return send


def _served(model: Path) -> Path:
    """Return the folder of the published version."""
    return model / str(ModelRepository(model.parent).published)


def _publish_again(t: Target) -> Answer:
    repository = ModelRepository(t.server.repository)
    try:
        repository.publish(repository.published, _control(t))
    except ServingError as error:
        return Answer("refused", error.args[0].replace(str(t.server.repository), "repository"))
    return ask_known_user(t)


def _load_again(t: Target) -> Answer:
    _control(t).load()
    return ask_known_user(t)


def _control(t: Target) -> ModelControl:
    return ModelControl(t.server.http, t.server.key, ANSWER_SECONDS)


SETTINGS = {"log_file": "/tmp/planted"}
REGION: dict = {"key": "/x", "offset": 0, "byte_size": 8}
WRONG_KEY = "0" * 32

RESTRICTED: list[Fault] = [
    *over_http(
        [
            (f"{kind}, {whose} key", _restricted(path, content, key), 403, KEY_HEADER)
            for whose, key in (("no", None), ("a wrong", WRONG_KEY))
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
        ]
    ),
    *over_grpc(
        [
            (
                f"{kind}, {whose} key",
                _restricted_call(method, fields, key),
                "UNAVAILABLE",
                KEY_HEADER,
            )
            for whose, key in (("no", None), ("a wrong", WRONG_KEY))
            for kind, method, fields in [
                ("load", "RepositoryModelLoad", {"model_name": MODEL_NAME}),
                ("load of ../../etc", "RepositoryModelLoad", {"model_name": "../../etc"}),
                ("unload", "RepositoryModelUnload", {"model_name": MODEL_NAME}),
                ("index", "RepositoryIndex", {}),
                ("shared memory", "SystemSharedMemoryRegister", {"name": "x", **REGION}),
                ("logging", "LogSettings", {}),
                ("trace", "TraceSetting", {}),
            ]
        ]
    ),
    Fault(
        kind="load of ../../etc with the key",
        protocol="http",
        send=_with_key("/v2/repository/models/..%2f..%2fetc/load"),
        status=500,
        message="failed to load",
    ),
    Fault(
        kind="a pickle planted in the served version, and a publish",
        protocol="http",
        send=_planted(lambda model: [_served(model)], _publish_again),
        status="refused",
        message="ensemble.pkl: not listed by the manifest",
    ),
    Fault(
        kind="pickles planted beside the versions, and a load",
        protocol="http",
        send=_planted(lambda model: [model, model.parent], _load_again),
        status=200,
        same_as=ask_known_user,
        reloads=True,
    ),
]

DEADLY: dict[str, Send] = {
    "a batch larger than any memory": inference(
        http_infer, lambda t: [t.ids(5, shape=[2**63 - 1, 1])]
    ),
    "a batch whose bytes overflow": inference(http_infer, lambda t: [t.ids(5, shape=[2**62, 1])]),
}
"""Requests that end Triton: its HTTP front end allocates what the JSON announces."""
