"""Load on a running model: HTTP by wrk, gRPC by asyncio clients in a process of their own.

    python -m benchmarks.load <address> <file> --clients 16 --seconds 2        the gRPC side

Both send bodies prepared before, in turn, over one connection a client, and print one line of
JSON. This module is imported by the gRPC process, so it imports little.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from tritonclient.utils import serialize_byte_tensor

from benchmarks.child import child
from twotower.serving.triton.control import MODEL_NAME

LUA = Path(__file__).with_name("load.lua")
ANSWER_SECONDS = 30
# One connection a client, as wrk has it, and none through a web proxy.
CHANNEL = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]

Wire = Literal["http json", "http binary", "grpc"]
WIRES: tuple[Wire, ...] = ("http json", "http binary", "grpc")


@dataclass(frozen=True)
class Request:
    """Inputs, name -> array (its shape is the one sent), and parameters."""

    inputs: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]

    def body(self, wire: Wire) -> tuple[bytes, int]:
        """What is sent, and the length of its JSON head where binary tensors follow, else 0."""
        return {"http json": self._json, "http binary": self._binary, "grpc": self._grpc}[wire]()

    def _json(self) -> tuple[bytes, int]:
        """As people write it for curl."""
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
        """As tritonclient sends it."""
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
    """Triton's name of the array's type; an object array holds strings."""
    kinds = {"int64": "INT64", "float32": "FP32", "float64": "FP64", "object": "BYTES"}
    return kinds[str(array.dtype)]


@dataclass(frozen=True)
class Measured:
    """One run of a load generator; latencies in milliseconds."""

    p50_ms: float
    p99_ms: float
    requests: int
    seconds: float
    errors: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


def write_bodies(path: Path, requests: Sequence[Request], wire: Wire) -> Path:
    """A file of bodies for `Load`; see load.lua for its form."""
    with path.open("wb") as file:
        for request in requests:
            body, head = request.body(wire)
            file.write(b"%d %d\n%s\n" % (len(body), head, body))
    return path


def read_bodies(path: Path) -> list[bytes]:
    """The bodies of a file."""
    bodies = []
    with path.open("rb") as file:
        while line := file.readline():
            bodies.append(file.read(int(line.split()[0])))
            file.readline()
    return bodies


def measure(address: str, wire: Wire, bodies: Path, clients: int, seconds: int) -> Measured:
    """Load for so many seconds; raises ClickException when nothing was answered."""
    with load(address, wire, bodies, clients, seconds) as running:
        return running.result()


class Load:
    """A running load generator."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def result(self) -> Measured:
        """What it measured, once it has ended."""
        output, log = self.process.communicate()
        lines = output.strip().splitlines()
        if self.process.returncode or not lines or not lines[-1].startswith("{"):
            raise click.ClickException(f"{' '.join(self.process.args)} failed: {log or output}")
        measured = Measured(**json.loads(lines[-1]))
        if not measured.requests:
            raise click.ClickException(f"{' '.join(self.process.args)}: no request was answered")
        return measured

    def stop(self) -> Measured:
        """End it early, as Ctrl-C does; what it measured until now."""
        self.process.send_signal(signal.SIGINT)
        return self.result()


@contextmanager
def load(address: str, wire: Wire, bodies: Path, clients: int, seconds: int) -> Iterator[Load]:
    """Load in the background; the block's end kills what still runs of it."""
    command = _grpc_command if wire == "grpc" else _wrk_command
    with child(command(address, bodies, clients, seconds)) as process:
        yield Load(process)


def find_wrk() -> str:
    """The path of the program; raises ClickException when it is missing.

    Benchmarks ask before they begin: the first load may come after minutes of training.
    """
    wrk = shutil.which("wrk")
    if not wrk:
        raise click.ClickException("wrk is missing: apt-get install wrk")
    return wrk


def _wrk_command(address: str, bodies: Path, clients: int, seconds: int) -> list[str]:
    url = f"http://{address}/v2/models/{MODEL_NAME}/infer"
    return [
        *(find_wrk(), "--threads=1", f"--connections={clients}", f"--duration={seconds}s"),
        *(f"--timeout={ANSWER_SECONDS}s", "--latency", f"--script={LUA}", url, "--", str(bodies)),
    ]


def _grpc_command(address: str, bodies: Path, clients: int, seconds: int) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.load", address, str(bodies)),
        *(f"--clients={clients}", f"--seconds={seconds}"),
    ]


async def ask(address: str, bodies: list[bytes], clients: int, seconds: float) -> Measured:
    """Ask by gRPC; every client starts elsewhere in the bodies, once all are connected."""
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
                await infer(messages[position], timeout=ANSWER_SECONDS)
                latencies.append(time.perf_counter() - sent)
            except grpc.aio.AioRpcError:
                errors += 1

    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(clients):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, CHANNEL))
            calls.append(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer)
        await asyncio.gather(*(infer(messages[0], timeout=ANSWER_SECONDS) for infer in calls))
        starts = [i * len(messages) // clients for i in range(clients)]
        started = time.perf_counter()
        end = started + seconds
        await asyncio.gather(*map(client, calls, starts, [end] * clients))
        took = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3 if latencies else (0.0, 0.0)
    return Measured(round(p50, 4), round(p99, 4), len(latencies), round(took, 4), errors)


@click.command()
@click.argument("address")
@click.argument("bodies", type=click.Path(path_type=Path, exists=True))
@click.option("--clients", type=int, required=True)
@click.option("--seconds", type=float, required=True)
def main(address: str, bodies: Path, clients: int, seconds: float) -> None:
    """Ask the model at ADDRESS by gRPC with the prepared BODIES."""
    gc.disable()  # its pauses are not the server's
    measured = asyncio.run(ask(address, read_bodies(bodies), clients, seconds))
    click.echo(json.dumps(measured.__dict__))


if __name__ == "__main__":
    main()
