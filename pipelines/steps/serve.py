"""Serve what a run has published, until Ctrl-C or for the duration of a block."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from twotower.pipelines.console import console, stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.lock import is_held, writing
from twotower.pipelines.run import TRITON, Run, write_atomically
from twotower.serving.config import EventsConfig
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import ModelControl

if TYPE_CHECKING:
    from twotower.serving.config import ExperimentConfig, ServingConfig
    from twotower.serving.triton.server import TritonServer

SERVER, SERVE_LOCK = "server.json", ".twotower-serve.lock"
STEADY_SECONDS = 10.0
"""A server that ran for longer than this is restarted at once when it ends."""
MAX_PAUSE_SECONDS = 30.0
"""The longest pause before a server is restarted that ends soon after each start."""


@dataclass(frozen=True)
class Addresses:
    """Where a server answers, as "host:port" per service."""

    http: str
    grpc: str
    metrics: str


@dataclass(frozen=True)
class RunningServer(Addresses):
    """The content of server.json: addresses, keys and process id of a `twotower serve`."""

    key: str | None
    pid: int
    events_key: str | None = None

    def control(self, timeout: float) -> ModelControl | None:
        """The control that loads another version; None if its Triton cannot do that."""
        return ModelControl(self.http, self.key, timeout) if self.key else None


def running_server(run: Run) -> RunningServer | None:
    """The `twotower serve` of the run, if one is running and answers.

    It holds a lock while it runs. Its process id would prove nothing: in a container the id may
    belong to another process, or be the same every time.
    """
    from twotower.serving.client import RetrievalClient

    if not is_held(run.path / SERVE_LOCK):
        return None
    try:
        server = RunningServer(**json.loads((run.path / SERVER).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    with RetrievalClient(server.http) as client:
        return server if client.ready() else None


@contextlib.contextmanager
def serving(run: Run, events: bool = False) -> Iterator[Addresses]:
    """Serve what the run has published on free ports while the block runs.

    Without `events`, it answers as if none had been recorded.
    """
    free = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    config = run.config.serving.copy(update=free)
    if not events:
        config.events, config.experiment = EventsConfig(), None
    log = run.path / "logs" / "triton.log"
    with _triton(ModelRepository(run.path / TRITON), config, log) as server:
        yield Addresses(server.http, server.grpc, server.metrics)


@contextlib.contextmanager
def _triton(
    repository: ModelRepository, config: ServingConfig, log: Path
) -> Iterator[TritonServer]:
    """Run Triton with the settings `config` while the block runs; it writes `log`."""
    from twotower.serving.triton.server import TritonServer

    server = TritonServer(
        repository.root,
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        log=log,
        host=config.host,
        timeout=config.startup_seconds,
        events=config.events.settings,
        experiment=config.experiment.dict() if config.experiment else None,
    )
    with repository.lock():
        if damaged := repository.mend():
            for problem in damaged:
                console.print(f"[bold red]damaged[/] {escape(problem)}")
            console.print(f"[bold red]version {repository.published} is published now[/]")
        if config.experiment:
            _check_experiment(config.experiment, repository)
        try:
            server.start()
        except ServingError as error:
            raise ServingError(
                f"version {repository.published} did not start: {error}. If the version is to "
                "blame, `twotower rollback` publishes the one before it"
            ) from error
    try:
        yield server
    finally:
        server.stop()


def _check_experiment(experiment: ExperimentConfig, repository: ModelRepository) -> None:
    """Raise ConfigError if an experiment is not of the published version and another one."""
    numbers, published = [each.number for each in repository.versions()], repository.published
    if experiment.control != published:
        raise ConfigError(
            f"serving.experiment.control is {experiment.control}, but version {published} is "
            f"published; publish {experiment.control}, or make control {published}"
        )
    if experiment.treatment not in numbers:
        raise ConfigError(
            f"serving.experiment.treatment is {experiment.treatment}, but there are only versions "
            f"{', '.join(map(str, numbers))}"
        )


def serve(run: Run, *, replica: bool = False, version: int | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM; `query` finds the addresses in the run folder.

    Parameters
    ----------
    run : Run
        What to serve.
    replica : bool
        Whether this is one of several servers of the run. It writes nothing in the run folder, so
        commands do not find it there; it loads what is published by itself.
    version : int, optional
        The version that a replica serves, whatever is published.

    Raises
    ------
    RunError
        If the run is already served.
    ServingError
        If Triton does not start.
    KeyboardInterrupt, SystemExit
        If a signal arrives before the server answers; the exit status is 143 after SIGTERM.
    """
    # Also needed if a shell started this in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    answers = False
    try:
        with contextlib.ExitStack() as stack:
            started = _start_replica(run, version, stack) if replica else _start(run, stack)
            answers = True
            metrics = started.server.metrics
            console.print(f"metrics http://{metrics}/metrics; Ctrl-C stops the server")
            _keep_running(started)
    except (KeyboardInterrupt, _Terminated):
        if not answers:
            raise
    console.print("stopped")


@dataclass(frozen=True)
class _Started:
    """A running server, and what to do after a restart and five times per second."""

    server: TritonServer
    repository: ModelRepository
    restarted: Callable[[], None]
    meanwhile: Callable[[], None]


def _start(run: Run, stack: contextlib.ExitStack) -> _Started:
    """Start the server of `serve`; `stack` stops it."""
    path, repository = run.path / SERVER, ModelRepository(run.path / TRITON)
    # The lock is held until server.json exists: otherwise `publish` could miss this server.
    with stage("serve") as (progress, result), contextlib.ExitStack() as starting:
        progress(0, 1, "wait for other commands that publish")
        starting.enter_context(repository.lock())
        if other := running_server(run):
            raise RunError(
                f"process {other.pid} already serves this run (http {other.http}); "
                "`twotower publish` changes the version that it serves"
            )
        stack.enter_context(writing(run.path, "serve", SERVE_LOCK))
        path.unlink(missing_ok=True)  # a killed server may have left one
        progress(0, 1, "start Triton")
        # It has its own log, since a server for one query may run at the same time.
        log = run.path / "logs" / "serve.log"
        started = _triton(repository, run.config.serving, log)
        server = stack.enter_context(started)
        stack.callback(path.unlink, missing_ok=True)
        _write_addresses(path, server)
        result(
            f"model `retrieval`, version {repository.published}: "
            f"http {server.http}, grpc {server.grpc}"
        )
    return _Started(server, repository, partial(_write_addresses, path, server), lambda: None)


def _start_replica(run: Run, version: int | None, stack: contextlib.ExitStack) -> _Started:
    """Start a server that writes nothing in the run folder; `stack` stops it."""
    from twotower.serving.triton.replica import Replica

    config = run.config.serving
    if config.events.store == "sqlite":
        raise ConfigError(
            "serving.events.store is sqlite, which a replica cannot share with other servers; set "
            "it to redis or none"
        )
    if config.experiment:
        raise ConfigError(
            "serving.experiment needs two versions, of which a replica copies one; leave it out "
            "with --set serving.experiment=null"
        )
    replica = stack.enter_context(Replica(run.path / TRITON, version))
    log = replica.repository.root / "triton.log"
    with stage("serve") as (progress, result):
        progress(0, 2, "copy and check the version")
        for problem in replica.begin():
            console.print(f"[bold red]damaged[/] {escape(problem)}")
        progress(1, 2, "start Triton")
        server = stack.enter_context(_triton(replica.repository, config, log))
        result(
            f"model `retrieval`, version {replica.repository.published}: "
            f"http {server.http}, grpc {server.grpc}"
        )
    printed = stack.enter_context(_PrintedLog(log))

    def meanwhile() -> None:
        printed.print()
        key, seconds = server.key, config.startup_seconds
        control = ModelControl(server.http, key, seconds) if key else None
        try:
            if (loaded := replica.follow(control)) is not None:
                console.print(f"version {loaded} was published and answers now")
        except ServingError as error:
            console.print(f"[bold red]not loaded[/] {escape(str(error))}")

    return _Started(server, replica.repository, lambda: None, meanwhile)


class _PrintedLog:
    """Prints what is added to a server's log on stderr, where a cluster collects it.

    Parameters
    ----------
    path : Path
        The log, which may be replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open(errors="replace")

    def __enter__(self) -> _PrintedLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.print()
        self._file.close()

    def print(self) -> None:
        """Print what has been added since the last call."""
        shutil.copyfileobj(self._file, sys.stderr)
        sys.stderr.flush()
        if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
            self._file.close()
            self._file = self._path.open(errors="replace")


class _Terminated(SystemExit):
    """SIGTERM asked this process to end."""


def _terminate(*_: Any) -> None:
    raise _Terminated(128 + signal.SIGTERM)


def _keep_running(running: _Started) -> None:
    """Restart Triton on the same ports whenever it ends by itself; never returns.

    Some malformed requests crash Triton's front end.
    """
    server, pause, started = running.server, 0.0, time.monotonic()
    while True:
        time.sleep(0.2)
        running.meanwhile()
        if reason := server.ended():
            pause = next_pause(pause, lived=time.monotonic() - started)
            time.sleep(pause)
            with running.repository.lock():
                _restart(server)
                running.restarted()
            started = time.monotonic()
            console.print(f"[bold red]restarted[/] {escape(reason)}")


def next_pause(pause: float, lived: float) -> float:
    """Seconds to wait before a server is restarted.

    Parameters
    ----------
    pause : float
        Seconds that were waited before its last start.
    lived : float
        Seconds that it ran since then.
    """
    return 0.0 if lived > STEADY_SECONDS else min(2 * pause + 1, MAX_PAUSE_SECONDS)


def _write_addresses(path: Path, server: TritonServer) -> None:
    """Write server.json, readable only by its owner because of the key."""
    running = RunningServer(
        http=server.http,
        grpc=server.grpc,
        metrics=server.metrics,
        key=server.key,
        events_key=server.events_key,
        pid=os.getpid(),
    )
    write_atomically(path, json.dumps(asdict(running)) + "\n", mode=0o600)


def _restart(server: TritonServer) -> None:
    """Start a server that has ended, and keep its log under another name."""
    server.stop()
    server.log.replace(server.log.with_name(f"{server.log.name}.ended"))
    server.start()
