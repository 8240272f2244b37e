"""Clients that can send invalid requests over HTTP and gRPC, and the server they send them to."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from twotower.serving.client import RetrievalClient
from twotower.serving.triton.control import KEY_HEADER, MODEL_NAME
from twotower.serving.triton.server import TritonServer

INFER = f"/v2/models/{MODEL_NAME}/infer"
GRPC_KEY = f"triton-grpc-protocol-{KEY_HEADER}"
NO_ANSWER = "no answer"
ANSWER_SECONDS = 60.0
# No limits of the client, no web proxy, and a connection per target.
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 2**20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
FORMATS = {"INT64": "<q", "INT32": "<i", "FP64": "<d", "FP32": "<f"}


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes
    ----------
    status : int or str
        HTTP status, name of a gRPC status code, or `NO_ANSWER` if the connection was closed, by
        the server or the client, before there was a status.
    text : str
        Body or message.
    """

    status: int | str
    text: str


@dataclass(frozen=True)
class Tensor:
    """An input tensor; `data` is a list of values, or the bytes of a binary tensor."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: list | bytes

    def binary(self) -> bytes:
        """Encode the values as Triton's binary tensor."""
        if isinstance(self.data, bytes):
            return self.data
        if self.datatype == "BYTES":
            texts = [text.encode() for text in self.data]
            return b"".join(struct.pack("<I", len(text)) + text for text in texts)
        code = FORMATS.get(self.datatype, "<q")
        return b"".join(struct.pack(code, value) for value in self.data)


@dataclass(frozen=True)
class Target:
    """A running server, and the right answer for one user.

    Attributes
    ----------
    server : TritonServer
    user : int
        A user that the model knows.
    expected : ndarray of int64, shape (1, k)
        Item ids for that user, by brute force.
    max_k, max_batch : int
        Limits of the model.
    payload : int
        Bytes of the largest requests.
    user_id, text, number : str
        Names of the inputs: the user id, a feature of strings, a feature of FP64.
    """

    server: TritonServer
    user: int
    expected: np.ndarray
    max_k: int
    max_batch: int
    payload: int
    user_id: str
    text: str
    number: str

    def ids(self, *values: int, **changes: Any) -> Tensor:
        return self._tensor(self.user_id, "INT64", values, changes)

    def texts(self, *values: str, **changes: Any) -> Tensor:
        return self._tensor(self.text, "BYTES", values, changes)

    def numbers(self, *values: float, **changes: Any) -> Tensor:
        return self._tensor(self.number, "FP64", values, changes)

    def _tensor(self, name: str, datatype: str, values: Sequence, changes: Mapping) -> Tensor:
        shape = [len(values), 1]
        return Tensor(
            **{"name": name, "datatype": datatype, "shape": shape, "data": [*values]} | changes
        )

    @cached_property
    def stub(self) -> Any:
        channel = grpc.insecure_channel(self.server.grpc, CHANNEL)
        return service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def problems(self) -> list[str]:
        """List what is wrong with the server; empty if it is ready and answers correctly."""
        if reason := self.server.ended():
            return [reason]
        found = []
        clients = {
            "http": RetrievalClient(self.server.http, "http"),
            "grpc": RetrievalClient(self.server.grpc, "grpc"),
        }
        for protocol, client in clients.items():
            with client:
                if not client.ready():
                    found.append(f"{protocol}: not ready")
                    continue
                answer = client.recommend([self.user], k=self.expected.shape[1])
                if not np.array_equal(answer.item_ids, self.expected):
                    found.append(f"{protocol}: user {self.user} got {answer.item_ids.tolist()}")
        return found


def http(
    target: Target,
    body: bytes = b"",
    path: str = INFER,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request over a new connection."""
    connection = HTTPConnection(target.server.http, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(errors="replace"))
    except (OSError, HTTPException):
        return Answer(NO_ANSWER, "")
    finally:
        connection.close()


def http_infer(target: Target, tensors: Iterable[Tensor], **parts: Any) -> Answer:
    """Send an inference request; `parts` are the other members of its JSON."""
    head, binary = http_body(tensors, **parts)
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary is not None else {}
    return http(target, head + (binary or b""), headers=headers)


def http_body(tensors: Iterable[Tensor], **parts: Any) -> tuple[bytes, bytes | None]:
    """Encode a request as JSON and the binary tensors that follow it, or None."""
    inputs, binary = [], []
    for tensor in tensors:
        record = {"name": tensor.name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
        if isinstance(tensor.data, bytes):
            record["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
        else:
            record["data"] = tensor.data
        inputs.append(record)
    return json.dumps({"inputs": inputs, **parts}).encode(), b"".join(binary) if binary else None


def grpc_infer(
    target: Target,
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
    **parts: Any,
) -> Answer:
    """Send an inference request; `parts` are as over HTTP, or fields of the message."""
    return call(target, "ModelInfer", grpc_message(tensors, **parts), metadata=metadata)


def grpc_message(
    tensors: Iterable[Tensor],
    parameters: Mapping[str, Any] | None = None,
    outputs: Iterable[Mapping[str, str]] = (),
    **fields: str,
) -> Any:
    """Encode a request as ModelInferRequest."""
    message = service_pb2.ModelInferRequest(**{"model_name": MODEL_NAME, **fields})
    for tensor in tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.binary())
    for name, value in (parameters or {}).items():
        kind = {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]
        setattr(message.parameters[name], f"{kind}_param", value)
    for output in outputs:
        message.outputs.add(**output)
    return message


def call(
    target: Target,
    method: str,
    message: Any,
    key: str | None = None,
    timeout: float = ANSWER_SECONDS,
    metadata: Mapping[str, str] | None = None,
) -> Answer:
    """Call a method of the inference service, with or without a key."""
    sent = [*(metadata or {}).items(), *([(GRPC_KEY, key)] if key is not None else [])]
    try:
        answer = getattr(target.stub, method)(message, timeout=timeout, metadata=sent)
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details())
    return Answer("OK", str(answer))


def raw(address: str, data: bytes, seconds: float = 5.0) -> Answer:
    """Send bytes as they are; `NO_ANSWER` if no status line comes for `seconds`."""
    with _connect(address, seconds) as connection:
        try:
            connection.sendall(data)
            return _receive(connection)
        except OSError:
            return Answer(NO_ANSWER, "")


def abandon(address: str, data: bytes) -> Answer:
    """Send bytes and close the connection."""
    with _connect(address, 5.0) as connection:
        connection.sendall(data)
    return Answer(NO_ANSWER, "")


def drip(address: str, data: bytes, after: int) -> Answer:
    """Send the first `after` bytes, then one byte at a time."""
    with _connect(address, ANSWER_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(data[:after])
        for byte in data[after:]:
            time.sleep(0.002)
            connection.sendall(bytes([byte]))
        return _receive(connection)


def open_connections(address: str, count: int, data: bytes, stack: ExitStack) -> None:
    """Open `count` connections that send `data` and stay open until the stack closes them."""
    for _ in range(count):
        stack.enter_context(_connect(address, 5.0)).sendall(data)


def request_bytes(body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """Encode an inference request with its HTTP headers."""
    lines = [f"POST {INFER} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _connect(address: str, seconds: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def _receive(connection: socket.socket) -> Answer:
    """Read an answer up to its Content-Length, or to the end of the connection."""
    received = b""
    while True:
        head, _, text = received.partition(b"\r\n\r\n")
        length = _length(head)
        if length is not None and len(text) >= length:
            break
        part = connection.recv(2**16)
        if not part:
            break
        received += part
    words = received.split(maxsplit=2)
    if len(words) < 2 or not received.startswith(b"HTTP/"):
        return Answer(NO_ANSWER, "")
    return Answer(int(words[1]), text.decode(errors="replace"))


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None
