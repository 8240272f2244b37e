"""Load generators: wrk over HTTP, asyncio clients in a process of their own over gRPC.

    python -m benchmarks.serving.load <address> <file> --clients 16 --seconds 2     over gRPC

Both send prepared bodies in turn, over one connection per client, and print one line of JSON.
The gRPC process imports this module, so it imports little.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from tritonclient.utils import serialize_byte_tensor

from benchmarks.child import child
from twotower.serving.triton.control import MODEL_NAME

LUA = Path(__file__).with_name("load.lua")
REQUEST_TIMEOUT_S = 30
# One connection per client, as with wrk, and none through a web proxy.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]

Wire = Literal["http json", "http binary", "grpc"]
"""Protocol and format of the tensors."""
WIRES: tuple[Wire, ...] = ("http json", "http binary", "grpc")


@dataclass(frozen=True)
class Request:
    """An inference request.

    Attributes
    ----------
    inputs : mapping of str to ndarray
        Input tensors by name, sent with the shapes they have.
    parameters : mapping of str to bool or int
    """

    inputs: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]

    def body(self, wire: Wire) -> tuple[bytes, int]:
        """Encode the request.

        Returns
        -------
        body : bytes
        head : int
            Length of the JSON head if binary tensors follow it, else 0.
        """
        encoders = {"http json": self._json, "http binary": self._binary, "grpc": self._grpc}
        return encoders[wire]()

    def _json(self) -> tuple[bytes, int]:
        inputs = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype(array),
                "data": array.ravel().tolist(),
            }
            for name, array in self.inputs.items()
        ]
        parameters = {"parameters": dict(self.parameters)} if self.parameters else {}
        return json.dumps({"inputs": inputs, **parameters}).encode(), 0

    def _binary(self) -> tuple[bytes, int]:
        from tritonclient import http

        inputs = []
        for name, array in self.inputs.items():
            inputs.append(http.InferInput(name, list(array.shape), datatype(array)))
            inputs[-1].set_data_from_numpy(array)
        return http.InferenceServerClient.generate_request_body(
            inputs, parameters=dict(self.parameters)
        )

    def _grpc(self) -> tuple[bytes, int]:
        from tritonclient.grpc import service_pb2

        message = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
        for name, array in self.inputs.items():
            message.inputs.add(name=name, datatype=datatype(array), shape=array.shape)
            raw = serialize_byte_tensor(array).item() if array.dtype == object else array.tobytes()
            message.raw_input_contents.append(raw)
        for name, value in self.parameters.items():
            kind = "bool_param" if isinstance(value, bool) else "int64_param"
            setattr(message.parameters[name], kind, value)
        return message.SerializeToString(), 0


def datatype(array: np.ndarray) -> str:
    """Return Triton's name for the array's data type; an object array holds strings."""
    names = {
        "int64": "INT64",
        "uint64": "UINT64",
        "float32": "FP32",
        "float64": "FP64",
        "object": "BYTES",
    }
    return names[str(array.dtype)]


@dataclass(frozen=True)
class LoadResult:
    """What a load generator measured."""

    p50_ms: float
    p99_ms: float
    requests: int
    seconds: float
    errors: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds

    def record(self) -> dict[str, Any]:
        """The figures for a result file."""
        return asdict(self)


def write_bodies(path: Path, requests: Sequence[Request], wire: Wire) -> Path:
    """Write the encoded requests to a file for `load`; load.lua describes its format."""
    with path.open("wb") as file:
        for request in requests:
            body, head = request.body(wire)
            file.write(b"%d %d\n%s\n" % (len(body), head, body))
    return path


def read_bodies(path: Path) -> list[bytes]:
    """Read what `write_bodies` wrote."""
    bodies = []
    with path.open("rb") as file:
        while line := file.readline():
            bodies.append(file.read(int(line.split()[0])))
            file.readline()
    return bodies


def measure(address: str, wire: Wire, bodies: Path, clients: int, seconds: int) -> LoadResult:
    """Generate load for some seconds.

    Parameters
    ----------
    address : str
        Host and port.
    wire : str
        One of `WIRES`.
    bodies : Path
        File of `write_bodies`.
    clients : int
        Concurrent connections; each sends its next request when it has the answer.
    seconds : int

    Raises
    ------
    click.ClickException
        If no request was answered.
    """
    with load(address, wire, bodies, clients, seconds) as running:
        return running.result()


class Load:
    """A running load generator."""

    def __init__(self, process: subprocess.Popen[str], command: list[str]) -> None:
        self.process = process
        self.command = " ".join(command)

    def result(self) -> LoadResult:
        """Wait for the end; return the result. Raises ClickException if nothing was answered."""
        output, log = self.process.communicate()
        lines = output.strip().splitlines()
        if self.process.returncode or not lines or not lines[-1].startswith("{"):
            raise click.ClickException(f"{self.command} failed: {log or output}")
        found = LoadResult(**json.loads(lines[-1]))
        if not found.requests:
            raise click.ClickException(f"{self.command}: no request was answered")
        return found

    def stop(self) -> LoadResult:
        """Stop now, as Ctrl-C does; return the result so far."""
        self.process.send_signal(signal.SIGINT)
        return self.result()


@contextmanager
def load(address: str, wire: Wire, bodies: Path, clients: int, seconds: int) -> Iterator[Load]:
    """Generate load in the background; kill the generator at the block's end."""
    make_command = _grpc_command if wire == "grpc" else _wrk_command
    command = make_command(address, bodies, clients, seconds)
    with child(command) as process:
        yield Load(process, command)


def find_wrk() -> str:
    """Return the path of wrk; raise ClickException if it is missing.

    Benchmarks call this before they train, so that a missing program costs no time.
    """
    wrk = shutil.which("wrk")
    if not wrk:
        raise click.ClickException("wrk is missing: apt-get install wrk")
    return wrk


def _wrk_command(address: str, bodies: Path, clients: int, seconds: int) -> list[str]:
    return [
        find_wrk(),
        "--threads=1",
        f"--connections={clients}",
        f"--duration={seconds}s",
        f"--timeout={REQUEST_TIMEOUT_S}s",
        "--latency",
        f"--script={LUA}",
        f"http://{address}/v2/models/{MODEL_NAME}/infer",
        "--",
        str(bodies),
    ]


def _grpc_command(address: str, bodies: Path, clients: int, seconds: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmarks.serving.load",
        address,
        str(bodies),
        f"--clients={clients}",
        f"--seconds={seconds}",
    ]


async def ask(address: str, bodies: list[bytes], clients: int, seconds: float) -> LoadResult:
    """Send requests over gRPC; each client starts at another body, once all are connected."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    messages = [service_pb2.ModelInferRequest.FromString(body) for body in bodies]
    latencies: list[float] = []
    errors = 0

    async def client(infer: Callable, position: int, end: float) -> None:
        nonlocal errors
        while (sent := time.perf_counter()) < end:
            position = (position + 1) % len(messages)
            try:
                await infer(messages[position], timeout=REQUEST_TIMEOUT_S)
                latencies.append(time.perf_counter() - sent)
            except grpc.aio.AioRpcError:
                errors += 1

    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(clients):
            channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            await stack.enter_async_context(channel)
            calls.append(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer)
        await asyncio.gather(*(infer(messages[0], timeout=REQUEST_TIMEOUT_S) for infer in calls))
        positions = [i * len(messages) // clients for i in range(clients)]
        started = time.perf_counter()
        end = started + seconds
        await asyncio.gather(
            *(client(infer, start, end) for infer, start in zip(calls, positions, strict=True))
        )
        elapsed = time.perf_counter() - started
    p50, p99 = (float(np.percentile(latencies or [0.0], percent)) * 1e3 for percent in (50, 99))
    return LoadResult(
        p50_ms=round(p50, 4),
        p99_ms=round(p99, 4),
        requests=len(latencies),
        seconds=round(elapsed, 4),
        errors=errors,
    )


@click.command()
@click.argument("address")
@click.argument("bodies", type=click.Path(path_type=Path, exists=True))
@click.option("--clients", type=int, required=True)
@click.option("--seconds", type=float, required=True)
def main(address: str, bodies: Path, clients: int, seconds: float) -> None:
    """Send the prepared BODIES to the model at ADDRESS over gRPC."""
    gc.disable()  # pauses of the garbage collector would count as the server's latency
    found = asyncio.run(ask(address, read_bodies(bodies), clients, seconds))
    click.echo(json.dumps(found.record()))


if __name__ == "__main__":
    main()
