"""Encoded requests and the file that load generators read them from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from benchmarks.serving.load import WIRES, Request, read_bodies, write_bodies

IDS = np.array([[7], [2**40]], np.int64)
NAMES = np.array([["é"], [""]], object)


@pytest.fixture
def request_of_two() -> Request:
    return Request({"user_id": IDS, "name": NAMES}, {"k": 3, "filter_seen": False})


def test_a_json_body_holds_inputs_and_parameters(request_of_two):
    body, head = request_of_two.body("http json")
    assert head == 0
    assert json.loads(body) == {
        "inputs": [
            {"name": "user_id", "shape": [2, 1], "datatype": "INT64", "data": [7, 2**40]},
            {"name": "name", "shape": [2, 1], "datatype": "BYTES", "data": ["é", ""]},
        ],
        "parameters": {"k": 3, "filter_seen": False},
    }


def test_binary_tensors_follow_the_json_head(request_of_two):
    body, head = request_of_two.body("http binary")
    described = json.loads(body[:head])
    assert described["parameters"]["k"] == 3
    assert [each["shape"] for each in described["inputs"]] == [[2, 1], [2, 1]]
    assert body[head : head + 16] == IDS.tobytes()
    assert deserialize_bytes_tensor(body[head + 16 :]).tolist() == ["é".encode(), b""]


def test_a_grpc_message_holds_inputs_and_parameters(request_of_two):
    body, _ = request_of_two.body("grpc")
    message = service_pb2.ModelInferRequest.FromString(body)
    assert [(each.name, each.datatype, [*each.shape]) for each in message.inputs] == [
        ("user_id", "INT64", [2, 1]),
        ("name", "BYTES", [2, 1]),
    ]
    assert message.raw_input_contents[0] == IDS.tobytes()
    names = deserialize_bytes_tensor(message.raw_input_contents[1])
    assert names.tolist() == ["é".encode(), b""]
    assert message.parameters["k"].int64_param == 3
    assert message.parameters["filter_seen"].bool_param is False


@pytest.mark.parametrize("wire", WIRES)
def test_bodies_are_read_as_they_were_written(tmp_path, wire):
    # Byte 10 is the newline that ends a body; text mode would change byte 13.
    requests = [Request({"user_id": np.array([[i]], np.int64)}, {}) for i in (10, 13, 2**33)]
    path = write_bodies(tmp_path / "bodies", requests, wire)
    assert read_bodies(path) == [request.body(wire)[0] for request in requests]
