"""Runs Triton on a model repository; none of its processes outlives this one."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from twotower.serving.config_file import CONFIG_FILE
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.experiment.split import SETTINGS as EXPERIMENT
from twotower.serving.runtime.filters.parameters import KEY_HEADER
from twotower.serving.runtime.live.opening import KEY, SETTINGS
from twotower.serving.triton.control import FACES, MODEL_NAME
from twotower.serving.triton.guarded import STOP_SECONDS, GuardedProcess
from twotower.serving.triton.installation import find_triton
from twotower.serving.triton.scratch import REPOSITORY, Scratch, sweep, with_real_path

STUB_SECONDS = 3.0
"""If Triton has not noticed after this time that its model's process died, it never will."""
# Without a web proxy, which the environment may name: the server is on this machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RESTRICTED = "model-repository,shared-memory,logging,trace"

EXPORT = "run `twotower export` and `twotower publish`"
REASONS = (
    r"failed to load '[^']+' version \d+: (?:Internal: )?(.*)",
    r"Poll failed for model directory '[^']+': (.*)",
    r"Failed to preinitialize Python stub: (.*)",
    r"^error: (.*)",
    r"(error while loading shared libraries: .*)",
)
NO_REASON = re.compile(
    r"[IWE]\d{4} \d\d:|[|+{]|error: |load failed for model|Error: Failed to initialize NVML|"
    r"Signal \(|\s*$"
)
"""Beginnings of lines without a reason: Triton's log and tables, the model's log, empty lines."""


class TritonServer:
    """A Triton inference server, used in a `with` statement or by `start` and `stop`.

    Parameters
    ----------
    repository : Path
        The model repository; its model `retrieval` is served.
    log : Path
        File for the output of the server and its models.
    http_port, grpc_port, metrics_port : int
        Ports of the services; 0 chooses a free one.
    host : str
        IPv4 address or host name to listen on. Triton does not authenticate clients, so only a
        loopback address is safe.
    timeout : float
        Time limit in seconds for loading the models.
    events : mapping of str to str, optional
        The store of events (see `serving.runtime.live.opening.open_store`); by default the server
        has none.
    experiment : mapping of str to Any, optional
        Arguments of `Split`, if two versions answer side by side.

    Attributes
    ----------
    http, grpc, metrics : str
        "host:port" of each service.
    pid : int or None
        Process id of the running server.
    key : str or None
        Created at each start. Anyone with the key can load other versions (`ModelControl`) and use
        Triton's other restricted protocols. None for Triton before 2.40, which has no keys: it then
        serves only the version that it started with.
    events_key : str or None
        Who has it can record events: the value of the environment variable TWOTOWER_EVENTS_KEY, or
        else created at each start. None without a store or without `key`.

    Raises
    ------
    ServingError
        If a port is in use or the host is not an address of this machine.
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
        events: Mapping[str, str] | None = None,
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        self.events, self.experiment = events, experiment
        self.repository, self.log = Path(repository).resolve(), Path(log)
        self.host, self.timeout = resolve_host(host), timeout
        self._ports = _free_ports(
            self.host,
            {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port},
        )
        self.http, self.grpc, self.metrics = (f"{self.host}:{port}" for port in self._ports)
        self.key: str | None = None
        self.events_key: str | None = None
        self._scratch: Scratch | None = None
        self._process: GuardedProcess | None = None
        self._ready = False
        self._stub_died: float | None = None  # when its death was first seen

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        return self._process.pid if self._process else None

    def start(self) -> TritonServer:
        """Start the server, and return it once its models answer.

        Raises
        ------
        ServingError
            If the server ends or is not ready in time; the message has the reason from its log.
        """
        if self._process:
            raise ServingError(f"the server is already running (pid {self.pid})")
        _check_repository(self.repository)
        triton = find_triton()
        self.key = secrets.token_hex(16) if triton.restricts_http else None
        if self.key and self.events:
            # Another one, because with `key` one can load a model of one's own.
            self.events_key = os.environ.get(KEY) or secrets.token_hex(16)
        self._stub_died = None
        sweep()
        self._scratch = scratch = Scratch()
        try:
            command = [
                str(triton.binary),
                f"--model-repository={scratch.link(REPOSITORY, self.repository)}",
                *triton.assemble_backend(scratch),
                f"--backend-config=python,shm-region-prefix-name={scratch.path.name}",
                *self._arguments(),
            ]
            environment = {**triton.environment(scratch), **self._of_events()}
            self._process = GuardedProcess(command, environment, scratch, self.log)
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and its models; do nothing if it is not running."""
        process, self._process = self._process, None
        scratch, self._scratch = self._scratch, None
        ready, self._ready = self._ready, False
        try:
            if process:
                process.end(gently=ready)
        finally:
            if scratch:
                scratch.remove()

    def ended(self) -> str | None:
        """Return why the server has ended or lost its model; None if neither, or if not started."""
        if self._process is None:
            return None
        if self._process.running:
            if not self._has_lost_its_model(self._process.pid):
                return None
            when = "" if self._ready else " while the server started"
            return f"Triton's process for the model died{when}: {self._reason()}"
        status = self._process.status
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        return f"Triton ended {how}: {self._reason()}"

    def _has_lost_its_model(self, pid: int) -> bool:
        """Whether a model's process has been dead for STUB_SECONDS without Triton noticing it.

        Each time Triton unloads a version, there is a dead process for a moment.
        """
        if not _has_dead_child(pid):
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
            # Otherwise Triton keeps the memory of the largest gRPC requests for reuse.
            "--grpc-infer-allocation-pool-size=0",
            f"--exit-timeout-secs={int(STOP_SECONDS) - 5}",
            *(
                argument
                for name, port in services
                for argument in (f"--{name}-address={self.host}", f"--{name}-port={port}")
            ),
        ]

    def _of_events(self) -> dict[str, str]:
        """Return the environment variables by which the model knows of events and experiments."""
        given = {}
        if self.events:
            given[SETTINGS] = json.dumps(dict(self.events))
        if self.events_key:
            given[KEY] = self.events_key
        if self.experiment:
            given[EXPERIMENT] = json.dumps(dict(self.experiment))
        return given

    def _control(self) -> list[str]:
        if self.key is None:
            return ["--model-control-mode=none"]
        # All users of this machine can see the key in the process list; Triton has no other way
        # to receive it.
        restriction = f"{RESTRICTED}:{KEY_HEADER}={self.key}"
        return [
            "--model-control-mode=explicit",
            *(
                f"--load-model={name}"
                for name in (MODEL_NAME, *FACES)
                if name == MODEL_NAME or (self.repository / name / CONFIG_FILE).is_file()
            ),
            # The model `events` reads the key; the case of HTTP headers means nothing.
            f"--http-header-forward-pattern=(?i){KEY_HEADER}",
            f"--grpc-header-forward-pattern={KEY_HEADER}",
            f"--http-restricted-api={restriction}",
            f"--grpc-restricted-protocol={restriction}",
        ]

    def _reason(self) -> str:
        """Return the reason that the log gives, and the path of the log."""
        return f"{with_real_path(failure(self.log), self.repository)} (log: {self.log})"

    def _await_ready(self) -> None:
        started = time.monotonic()
        while True:
            ready = _answers(f"http://{self.http}/v2/health/ready")
            # Checked even if something answers, which may be another server at the same port.
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
    """Return the IPv4 address of a host name, because Triton listens on IPv4 only.

    Raises
    ------
    ServingError
        If the name has none.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
        return str(found[0][4][0])
    except (OSError, UnicodeError) as error:
        raise ServingError(
            f"serving.host: {host!r} is neither an IPv4 address nor the name of one "
            f"({getattr(error, 'strerror', error)}); use 127.0.0.1"
        ) from error


def failure(log: Path) -> str:
    """Return the reason for a failure that Triton's log gives, else the last line printed."""
    lines = log.read_text(errors="replace").splitlines()
    printed = [line.strip() for line in lines if not NO_REASON.match(line)]
    last = printed[-1] if printed else "its log gives no reason"
    for pattern in REASONS:
        for line in lines:
            if match := re.search(pattern, line):
                # The rest of the line is a Python traceback.
                reason = match.group(1).split(r"\n\nAt:")[0].strip('" ')
                died = "is not healthy" in reason
                return f"the model's process died while it loaded; {last}" if died else reason
    return last if lines else "it printed nothing"


def _check_repository(repository: Path) -> None:
    """Refuse an empty repository and a model without code, for which Triton reports no error."""
    configs = sorted(repository.glob(f"*/{CONFIG_FILE}"))
    models = [path.parent for path in configs if path.parent.name not in FACES]
    if not models:
        raise ServingError(f"{repository}: not a model repository (no */config.pbtxt); {EXPORT}")
    for model in models:
        if not any(path.parent.name.isdigit() for path in model.glob("*/model.py")):
            raise ServingError(f"{model}: no version with a model.py; {EXPORT}")


def _answers(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=1.0) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _has_dead_child(pid: int) -> bool:
    """Whether a process has a child that has ended without the process noticing it."""
    try:
        children = psutil.Process(pid).children()
        return any(child.status() == psutil.STATUS_ZOMBIE for child in children)
    except psutil.Error:
        return False


def _free_ports(host: str, ports: dict[str, int]) -> list[int]:
    """Return the ports, with a free one in place of each 0; refuse those in use."""
    with ExitStack() as stack:
        taken = [_listen(stack, host, name, port) for name, port in ports.items()]
        free = [each.getsockname()[1] for each in taken]
    return free


def _listen(stack: ExitStack, host: str, name: str, port: int) -> socket.socket:
    """Return a socket that listens on the port until the stack closes it."""
    listener = stack.enter_context(socket.socket())
    # As Triton does, so that closed connections of a stopped server do not block the port.
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
