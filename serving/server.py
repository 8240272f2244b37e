"""Runs a real Triton on a model repository, as a child process that cannot outlive this one."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from .control import KEY_HEADER, MODEL_NAME
from .errors import ServingError
from .triton import find_triton

STOP_SECONDS = 15.0
# Not through the web proxy that the environment may name: the server is on this machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PR_SET_PDEATHSIG = 1
STACK_BYTES = 1 << 29
"""Of a thread of Triton, whose reader of JSON calls itself at every bracket; touched only then."""
RESTRICTED = "model-repository,shared-memory,logging,trace"
LIBC = ctypes.CDLL(None)  # loaded here: a forked child should only call into it


class TritonServer:
    """A Triton inference server; use it in a `with` statement, or `start` and `stop` it.

    Parameters
    ----------
    repository : the model repository; serves its model `retrieval`
    log : file for what the server and its models print
    http_port, grpc_port, metrics_port : 0 takes a free one
    host : address to listen on. Triton asks nobody who they are: only loopback is safe.
    timeout : seconds the models may take to load

    Raises ServingError when a port that is asked for is in use or the host is not one of ours.

    Attributes
    ----------
    http, grpc, metrics : "host:port" of each service
    pid : process id of the running server, else None
    key : made at each start. Whoever has it may have the server load another version
        (`ModelControl`) and use its other protocols beside inference. None where Triton, before
        2.40, cannot tell callers apart: then it never loads anything but what it started with.
    """

    def __init__(
        self,
        repository: Path,
        *,
        log: Path,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        host: str = "127.0.0.1",
        timeout: float = 180.0,
    ) -> None:
        self.repository, self.log = Path(repository).resolve(), Path(log)
        self.host, self.timeout = host, timeout
        self._ports = _free_ports(
            host, {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        )
        self.http, self.grpc, self.metrics = (f"{host}:{port}" for port in self._ports)
        self.key: str | None = None
        self._process: subprocess.Popen | None = None
        self._scratch: tempfile.TemporaryDirectory | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> TritonServer:
        """Start the server; return when its models answer.

        Raises
        ------
        ServingError
            with the reason the log gives, if the server ends or is not ready in time
        """
        if self._process:
            raise ServingError(f"the server already runs (pid {self.pid})")
        _check_repository(self.repository)
        triton = find_triton()
        self.key = secrets.token_hex(16) if triton.restricts_http else None
        self._scratch = tempfile.TemporaryDirectory(prefix="twotower-triton-")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        str(triton.binary),
                        *triton.assemble_backend(Path(self._scratch.name) / "backends"),
                        *self._arguments(),
                    ],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    # Away from the caller's folder, which Python would import from.
                    cwd=self._scratch.name,
                    env=triton.environment(),
                    # A session of its own: Ctrl-C reaches this process, which stops the server.
                    start_new_session=True,
                    preexec_fn=partial(_prepare, os.getpid()),
                )
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and its models; does nothing when it does not run."""
        process, self._process = self._process, None
        scratch, self._scratch = self._scratch, None
        try:
            if process:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
        finally:
            if process:
                _end_group(process)
            if scratch:
                scratch.cleanup()
                # What the Python backend shared with its models stays if it had to be killed.
                for region in Path("/dev/shm").glob(f"{Path(scratch.name).name}*"):
                    region.unlink(missing_ok=True)

    def ended(self) -> str | None:
        """Why the server that was started runs no more; None while it runs."""
        status = self._process.poll() if self._process else None
        if status is None:
            return None
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        return f"Triton ended {how}: {failure(self.log)} (log: {self.log})"

    def __enter__(self) -> TritonServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _arguments(self) -> list[str]:
        services = zip(("http", "grpc", "metrics"), self._ports, strict=True)
        return [
            f"--model-repository={self.repository}",
            *self._control(),
            "--disable-auto-complete-config",
            # Triton would keep the largest requests it has seen over gRPC for reuse.
            "--grpc-infer-allocation-pool-size=0",
            f"--backend-config=python,shm-region-prefix-name={Path(self._scratch.name).name}",
            f"--exit-timeout-secs={int(STOP_SECONDS) - 5}",
            *(
                argument
                for name, port in services
                for argument in (f"--{name}-address={self.host}", f"--{name}-port={port}")
            ),
        ]

    def _control(self) -> list[str]:
        if self.key is None:
            return ["--model-control-mode=none"]
        # The process list shows the key to everybody on this machine; Triton takes it in no
        # other way.
        guard = f"{RESTRICTED}:{KEY_HEADER}={self.key}"
        return [
            "--model-control-mode=explicit",
            f"--load-model={MODEL_NAME}",
            f"--http-restricted-api={guard}",
            f"--grpc-restricted-protocol={guard}",
        ]

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            ready = _answers(f"http://{self.http}/v2/health/ready")
            # Also when something answers: it may be somebody else's server.
            if reason := self.ended():
                raise ServingError(reason)
            if ready:
                return
            if time.monotonic() > deadline:
                raise ServingError(
                    f"Triton was not ready within {self.timeout:g} s: {failure(self.log)} "
                    f"(log: {self.log})"
                )
            time.sleep(0.1)


def failure(log: Path) -> str:
    """What a Triton log gives as the reason that it failed, else its last line."""
    lines = log.read_text(errors="replace").splitlines()
    patterns = (
        r"failed to load '[^']+' version \d+: (?:Internal: )?(.*)",
        r"Poll failed for model directory '[^']+': (.*)",
        r"Failed to preinitialize Python stub: (.*)",
        r"^error: (.*)",
        r"(error while loading shared libraries: .*)",
    )
    for pattern in patterns:
        for line in lines:
            if match := re.search(pattern, line):
                # After it, a line of the log holds the whole Python traceback.
                return match.group(1).split(r"\n\nAt:")[0].strip('" ')
    return lines[-1] if lines else "it printed nothing"


def _check_repository(repository: Path) -> None:
    """Triton starts on an empty repository, and waits for ever for a model without code."""
    models = sorted(path.parent for path in repository.glob("*/config.pbtxt"))
    if not models:
        raise ServingError(f"{repository}: no model repository (no */config.pbtxt); export first")
    for model in models:
        if not any(path.parent.name.isdigit() for path in model.glob("*/model.py")):
            raise ServingError(f"{model}: no version with a model.py; export again")


def _answers(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=1.0) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _free_ports(host: str, ports: dict[str, int]) -> list[int]:
    """The ports asked for, once each is seen to be free; in place of each 0 a free one."""
    with ExitStack() as stack:
        taken = [_listen(stack, host, name, port) for name, port in ports.items()]
        return [each.getsockname()[1] for each in taken]


def _listen(stack: ExitStack, host: str, name: str, port: int) -> socket.socket:
    """A socket that listens on the port until the stack closes it."""
    listener = stack.enter_context(socket.socket())
    # As Triton does: connections of a server that has just stopped do not hold the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServingError(
                f"port {port} is in use on {host}; set serving.{name} to another, "
                "or to 0 for any free one"
            ) from error
        raise ServingError(
            f"cannot listen on {host}, port {port} ({error.strerror}); "
            f"see serving.host and serving.{name}"
        ) from error
    return listener


def _prepare(parent: int) -> None:
    """In the child: have the kernel end it with the thread that started it, and give it stacks."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


def _end_group(process: subprocess.Popen) -> None:
    """Kill the server if it still runs, and what it may have left in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
