"""Runs a real Triton on a model repository; no process of it outlives this one."""

from __future__ import annotations

import errno
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import psutil

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton import guard
from twotower.serving.triton.control import KEY_HEADER, MODEL_NAME
from twotower.serving.triton.installation import find_triton
from twotower.serving.triton.scratch import REPOSITORY, Scratch, sweep, with_real_path

STOP_SECONDS = 15.0
STUB_SECONDS = 3.0
"""Triton notices within this time that its stub has died, or not at all."""
# Not through the web proxy that the environment may name: the server is on this machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RESTRICTED = "model-repository,shared-memory,logging,trace"


REASONS = (
    r"failed to load '[^']+' version \d+: (?:Internal: )?(.*)",
    r"Poll failed for model directory '[^']+': (.*)",
    r"Failed to preinitialize Python stub: (.*)",
    r"^error: (.*)",
    r"(error while loading shared libraries: .*)",
)
NO_REASON = re.compile(
    r"[IWE]\d{4} \d\d:|[|+{]|error: |Error: Failed to initialize NVML|"
    r"Signal \(|\s*$"
)
"""How lines start that give no reason: Triton's log and tables, the model's log, and its end."""


class TritonServer:
    """A Triton inference server; use it in a `with` statement, or `start` and `stop` it.

    Parameters
    ----------
    repository : the model repository; serves its model `retrieval`
    log : file for what the server and its models print
    http_port, grpc_port, metrics_port : 0 takes a free one
    host : IPv4 address to listen on, or a name of one. Triton asks nobody who they are: only
        loopback is safe.
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
        self.host, self.timeout = resolve_host(host), timeout
        self._ports = _free_ports(
            self.host,
            {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port},
        )
        self.http, self.grpc, self.metrics = (f"{self.host}:{port}" for port in self._ports)
        self.key: str | None = None
        self._scratch: Scratch | None = None
        self._guard: subprocess.Popen | None = None
        self._triton = 0  # its process id
        self._exit_status: int | None = None
        self._ready = False
        self._stub_died: float | None = None  # since when

    @property
    def pid(self) -> int | None:
        return self._triton if self._guard else None

    def start(self) -> TritonServer:
        """Start the server; return when its models answer.

        Raises
        ------
        ServingError
            with the reason the log gives, if the server ends or is not ready in time
        """
        if self._guard:
            raise ServingError(f"the server already runs (pid {self.pid})")
        _check_repository(self.repository)
        triton = find_triton()
        self.key = secrets.token_hex(16) if triton.restricts_http else None
        self._triton, self._exit_status, self._stub_died = 0, None, None
        sweep()
        self._scratch = Scratch()
        try:
            arguments = [
                f"--model-repository={self._scratch.link(REPOSITORY, self.repository)}",
                *triton.assemble_backend(self._scratch),
                f"--backend-config=python,shm-region-prefix-name={self._scratch.path.name}",
                *self._arguments(),
            ]
            self._start_guard(
                [str(triton.binary), *arguments], environment=triton.environment(self._scratch)
            )
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and its models; does nothing when it does not run."""
        process, self._guard = self._guard, None
        scratch, self._scratch = self._scratch, None
        ready, self._ready = self._ready, False
        try:
            if process and ready:
                with suppress(BrokenPipeError):  # it has ended by itself
                    process.stdin.write(b"stop\n")
                process.wait()
        finally:
            if process:
                process.stdin.close()  # what still runs is killed now
                if process.wait() != 0 and self._triton:  # the guard was killed itself
                    guard.kill_group(self._triton)
                process.stdout.close()
            if scratch:
                scratch.remove()

    def ended(self) -> str | None:
        """Why the server that was started runs no more; None while it runs."""
        if self._guard is None:
            return None
        if self._guard.poll() is None:
            if not self._has_lost_its_model():
                return None
            when = "" if self._ready else " at its start"
            return f"Triton's process for the model died{when}: {self._reason()}"
        status = self._status()
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        return f"Triton ended {how}: {self._reason()}"

    def _has_lost_its_model(self) -> bool:
        """Whether Triton has had a dead process of a model for STUB_SECONDS.

        For a moment it has one whenever it unloads a version.
        """
        if not _has_dead_child(self._triton):
            self._stub_died = None
            return False
        self._stub_died = self._stub_died or time.monotonic()
        return time.monotonic() > self._stub_died + STUB_SECONDS

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
            *self._control(),
            "--disable-auto-complete-config",
            # Triton would keep the largest requests it has seen over gRPC for reuse.
            "--grpc-infer-allocation-pool-size=0",
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

    def _start_guard(self, command: list[str], environment: dict[str, str]) -> None:
        """Have the guard start Triton."""
        script = [sys.executable, "-I", "-S", guard.__file__]
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.log.open("wb")
        except OSError as error:
            raise ServingError(
                f"{error.filename}: {error.strerror}; the server's log is {self.log}"
            ) from error
        with log:
            self._guard = subprocess.Popen(
                [*script, str(self._scratch.path), str(STOP_SECONDS), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=environment,
                pass_fds=[self._scratch.lock],
                # A session of its own: Ctrl-C reaches this process, which stops the server.
                start_new_session=True,
            )
        self._triton = int(self._guard.stdout.readline() or 0)

    def _status(self) -> int:
        """The exit status of a Triton that has ended; the guard's where it was killed first."""
        if self._exit_status is None:
            self._exit_status = int(self._guard.stdout.readline() or self._guard.returncode)
        return self._exit_status

    def _reason(self) -> str:
        """What the log gives as the reason, and where the log is."""
        return f"{with_real_path(failure(self.log), self.repository)} (log: {self.log})"

    def _await_ready(self) -> None:
        started = time.monotonic()
        while True:
            ready = _answers(f"http://{self.http}/v2/health/ready")
            # Also when something answers: it may be somebody else's server.
            if reason := self.ended():
                raise ServingError(reason)
            if ready:
                self._ready = True
                return
            if time.monotonic() > started + self.timeout:
                raise ServingError(
                    f"Triton was not ready within {self.timeout:g} s, the limit that "
                    f"serving.startup_seconds sets: {self._reason()}"
                )
            time.sleep(0.1)


def resolve_host(host: str) -> str:
    """The IPv4 address of a host name, because Triton listens on nothing else.

    Raises
    ------
    ServingError
        when there is none
    """
    try:
        return socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except (OSError, UnicodeError) as error:
        raise ServingError(
            f"serving.host: {host!r} is not an IPv4 address and no name of one "
            f"({getattr(error, 'strerror', error)}); use 127.0.0.1"
        ) from error


def failure(log: Path) -> str:
    """What a Triton log gives as the reason that it failed, else what was printed last."""
    lines = log.read_text(errors="replace").splitlines()
    printed = [line.strip() for line in lines if not NO_REASON.match(line)]
    last = printed[-1] if printed else "its log gives no reason"
    for pattern in REASONS:
        for line in lines:
            if match := re.search(pattern, line):
                # After it, a line of the log holds the whole Python traceback.
                reason = match.group(1).split(r"\n\nAt:")[0].strip('" ')
                died = "is not healthy" in reason
                return f"the model's process died while it loaded; {last}" if died else reason
    return last if lines else "it printed nothing"


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


def _has_dead_child(pid: int) -> bool:
    """Whether a process has a child that has ended and that it has not noticed."""
    try:
        children = psutil.Process(pid).children()
        return any(child.status() == psutil.STATUS_ZOMBIE for child in children)
    except psutil.Error:
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
