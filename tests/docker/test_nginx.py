"""nginx.conf: what the gateway lets through, and what it refuses whatever is behind it."""

from __future__ import annotations

import http.client

import grpc
import pytest
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

from tests.gateway import Gateway, free_port, needs_nginx

pytestmark = needs_nginx
INFER = "/v2/models/retrieval/infer"
PASSED = 502
"""What the gateway answers when it passes a request on, because there is no server."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    nobody = [f"127.0.0.1:{free_port()}" for _ in range(4)]
    with Gateway(tmp_path_factory.mktemp("nginx"), nobody[:2], nobody[2:]) as running:
        yield running


def status(gateway, method, path, body=None, headers=None, chunked=False) -> int:
    connection = http.client.HTTPConnection(gateway.http, timeout=5)
    try:
        connection.request(method, path, body, headers or {}, encode_chunked=chunked)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", INFER),
        ("POST", "/v2/models/recommend/infer"),
        ("POST", "/v2/models/similar_items/infer"),
        ("GET", "/v2/models/retrieval"),
        ("GET", "/v2/models/retrieval/ready"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2"),
    ],
)
def test_what_clients_need_is_passed_on(gateway, method, path):
    assert status(gateway, method, path, b"{}" if method == "POST" else None) == PASSED


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/invocations",
        "/ping",
        "/v2/repository/index",
        "/v2//repository/index",
        "/v2/models/retrieval/infer/../../../repository/index",
        "/v2/%72epository/index",
        "/v2/repository/models/retrieval/load",
        "/v2/repository/models/retrieval/unload",
        "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/cudasharedmemory/status",
        "/v2/trace/setting",
        "/v2/models/retrieval/trace/setting",
        "/v2/logging",
        "/v2/models/retrieval/config",
        "/v2/models/retrieval/stats",
        "/v2/models/retrieval/generate",
        "/v2/models/retrieval/versions/1/infer",
        "/v2/models/events/infer",
        "/V2/models/retrieval/infer",
    ],
)
def test_everything_else_is_not_there(gateway, path):
    assert [status(gateway, method, path) for method in ("GET", "POST")] == [404, 404]


def test_other_methods_are_refused(gateway):
    assert status(gateway, "GET", INFER) == status(gateway, "DELETE", INFER) == 403
    assert status(gateway, "POST", "/v2/health/ready", b"{}") == 403


def test_bodies_have_a_limit_with_and_without_their_length(gateway):
    limit = 256 * 1024
    assert status(gateway, "POST", INFER, b"x" * limit) == PASSED
    assert status(gateway, "POST", INFER, b"x" * (limit + 1)) == 413
    chunks = {"Transfer-Encoding": "chunked"}
    assert status(gateway, "POST", INFER, iter([b"x"] * 100), chunks, chunked=True) == PASSED
    big = iter([b"x" * 1024] * 257)
    assert status(gateway, "POST", INFER, big, chunks, chunked=True) == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity, gzip", "br"])
def test_compressed_bodies_are_refused(gateway, coding):
    assert status(gateway, "POST", INFER, b"x", {"Content-Encoding": coding}) == 415
    assert status(gateway, "POST", INFER, b"x", {"Content-Encoding": "identity"}) == PASSED


def test_grpc_passes_what_clients_need_and_nothing_compressed(gateway):
    unavailable = grpc.StatusCode.UNAVAILABLE  # which 502 means in gRPC
    with grpc.insecure_channel(gateway.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def code(method, request, **options):
            with pytest.raises(grpc.RpcError) as error:
                method(request, timeout=5, **options)
            return error.value.code()

        infer = messages.ModelInferRequest(model_name="retrieval")
        assert code(stub.ModelInfer, infer) == unavailable
        metadata = messages.ModelMetadataRequest(name="retrieval")
        assert code(stub.ModelMetadata, metadata) == unavailable
        for method, request in (
            (stub.RepositoryIndex, messages.RepositoryIndexRequest()),
            (stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name="retrieval")),
            (stub.SystemSharedMemoryStatus, messages.SystemSharedMemoryStatusRequest()),
            (stub.TraceSetting, messages.TraceSettingRequest()),
            (stub.LogSettings, messages.LogSettingsRequest()),
            (stub.ModelConfig, messages.ModelConfigRequest(name="retrieval")),
        ):
            assert code(method, request) == grpc.StatusCode.UNIMPLEMENTED
        refused = code(stub.ModelInfer, infer, compression=grpc.Compression.Gzip)
        assert refused not in (unavailable, grpc.StatusCode.UNIMPLEMENTED)
