"""Serve what a run has published, and ask it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from twotower.pipelines.console import console, stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.lock import is_held, writing
from twotower.pipelines.run import TRITON, Run, write_atomically
from twotower.pipelines.steps.preprocess import ITEMS, load_split
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import MODEL_FILE
from twotower.serving.triton.control import ModelControl

if TYPE_CHECKING:
    from pathlib import Path

    from twotower.serving.client import Recommendations
    from twotower.serving.config import ServingConfig
    from twotower.serving.triton.server import TritonServer

SERVER, SERVE_LOCK = "server.json", ".twotower-serve.lock"
STEADY_SECONDS = 10.0
"""A server that ran for longer is started again at once when it ends."""
MAX_PAUSE_SECONDS = 30.0
"""Before a server is started again that ends soon after each start."""


@dataclass(frozen=True)
class Addresses:
    """Where a server answers: host:port each."""

    http: str
    grpc: str
    metrics: str


@dataclass(frozen=True)
class RunningServer(Addresses):
    """What server.json says of a `twotower serve`: where, its process, the key of its Triton."""

    key: str | None
    pid: int

    def control(self, timeout: float) -> ModelControl | None:
        """What has it load another version; None where its Triton cannot."""
        return ModelControl(self.http, self.key, timeout) if self.key else None


def running_server(run: Run) -> RunningServer | None:
    """The `twotower serve` of this run, if there is one that answers.

    It holds a lock for its life. Its process id would prove nothing: in a container it is another
    process's, or always the same.
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
def serving(run: Run) -> Iterator[Addresses]:
    """Triton on what the run has published, on free ports, while the block runs."""
    free = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    config = run.config.serving.copy(update=free)
    with _triton(run, ModelRepository(run.path / TRITON), config, "triton.log") as server:
        yield Addresses(server.http, server.grpc, server.metrics)


@contextlib.contextmanager
def _triton(
    run: Run, repository: ModelRepository, config: ServingConfig, log: str
) -> Iterator[TritonServer]:
    """The run's server by `config` while the block runs; it writes logs/`log`."""
    from twotower.serving.triton.server import TritonServer

    server = TritonServer(
        repository.root,
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        log=run.path / "logs" / log,
        host=config.host,
        timeout=config.startup_seconds,
    )
    with repository.lock():
        if damaged := repository.mend():
            for problem in damaged:
                console.print(f"[bold red]damaged[/] {escape(problem)}")
            console.print(f"[bold red]version {repository.published} is published now[/]")
        try:
            server.start()
        except ServingError as error:
            raise ServingError(
                f"version {repository.published} was not served: {error}. If the version is to "
                "blame, `twotower rollback` publishes the one before it"
            ) from error
    try:
        yield server
    finally:
        server.stop()


def serve(run: Run) -> None:
    """Serve until Ctrl-C or SIGTERM; `query` finds the address in the run folder.

    Raises ServingError when Triton does not start. Both signals also end the wait for whoever
    publishes and for Triton: then with KeyboardInterrupt and SystemExit (status 143).
    """
    # Also needed when a shell started this in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    path, repository = run.path / SERVER, ModelRepository(run.path / TRITON)
    server = None
    try:
        with contextlib.ExitStack() as stack:
            # Until the file is there: a publish in the meantime would not find the server.
            with stage("serve") as (report, result), contextlib.ExitStack() as starting:
                report(0, 1, "wait for whoever publishes")
                starting.enter_context(repository.lock())
                if other := running_server(run):
                    raise RunError(
                        f"process {other.pid} serves this run already (http {other.http}); "
                        "`twotower publish` changes what it serves"
                    )
                stack.enter_context(writing(run.path, "serve", SERVE_LOCK))
                path.unlink(missing_ok=True)  # of a server that was killed
                report(0, 1, "start Triton")
                # A log of its own: a server for one question may run beside it.
                started = _triton(run, repository, run.config.serving, "serve.log")
                server = stack.enter_context(started)
                stack.callback(path.unlink, missing_ok=True)
                _tell(path, server)
                result(
                    f"model `retrieval`, version {repository.published}: "
                    f"http {server.http}, grpc {server.grpc}"
                )
            console.print(f"metrics http://{server.metrics}/metrics; Ctrl-C stops the server")
            _keep_running(server, repository, path)
    except (KeyboardInterrupt, _Terminated):
        if server is None:  # it has not answered yet
            raise
    console.print("stopped")


class _Terminated(SystemExit):
    """SIGTERM asked this process to end."""


def _terminate(*_: Any) -> None:
    raise _Terminated(128 + signal.SIGTERM)


def _keep_running(server: TritonServer, repository: ModelRepository, path: Path) -> None:
    """Start a Triton that ends by itself again, on the same ports, for ever.

    There are requests that its front end does not survive.
    """
    pause, started = 0.0, time.monotonic()
    while True:
        time.sleep(0.2)
        if reason := server.ended():
            pause = next_pause(pause, lived=time.monotonic() - started)
            time.sleep(pause)
            with repository.lock():
                _start_again(server)
                _tell(path, server)
            started = time.monotonic()
            console.print(f"[bold red]started again[/] {escape(reason)}")


def next_pause(pause: float, lived: float) -> float:
    """Seconds to wait before a server is started again.

    Parameters
    ----------
    pause : seconds that were waited before its last start
    lived : seconds that it ran after it
    """
    return 0.0 if lived > STEADY_SECONDS else min(2 * pause + 1, MAX_PAUSE_SECONDS)


def _tell(path: Path, server: TritonServer) -> None:
    """Write server.json; the key in it is for its owner alone."""
    told = RunningServer(server.http, server.grpc, server.metrics, server.key, os.getpid())
    write_atomically(path, json.dumps(asdict(told)) + "\n", mode=0o600)


def _start_again(server: TritonServer) -> None:
    """Start a server that has ended; its log stays beside the new one."""
    server.stop()
    server.log.replace(server.log.with_name(f"{server.log.name}.ended"))
    server.start()


def query(
    run: Run,
    users: Sequence[int],
    k: int | None = None,
    protocol: str = "http",
    filter_seen: bool = True,
) -> dict[str, Recommendations]:
    """Ask a running server of this run, or start one for the question; print the answer.

    `k` is by default serving.default_k.
    """
    with run.reading("ingest"):
        shown_items(run)  # what cannot be printed shall not be asked
        k = k or run.config.serving.default_k
        if running_server(run) is None:
            check_k(run, k)
        with _server_for(run) as addresses:
            answers = ask(addresses, users, k, [protocol], filter_seen)
        print_recommendations(run, users, answers)
    (version,) = {answer.version for answer in answers.values()}
    published = ModelRepository(run.path / TRITON).published
    console.print(
        f"version {version} answered"
        + ("" if version == published else f"; {published} is published: restart `twotower serve`")
    )
    return answers


@contextlib.contextmanager
def _server_for(run: Run) -> Iterator[Addresses]:
    """The running server of the run, else one for the block."""
    if server := running_server(run):
        yield server
        return
    console.print("no server is running for this run: starting one for this question")
    with serving(run) as addresses:
        yield addresses


def ask(
    addresses: Addresses,
    users: Sequence[int],
    k: int,
    protocols: Sequence[str] = ("http", "grpc"),
    filter_seen: bool = True,
) -> dict[str, Recommendations]:
    """The server's answer for `users` by each protocol."""
    from twotower.serving.client import RetrievalClient

    answers = {}
    for protocol in protocols:
        with RetrievalClient(getattr(addresses, protocol), protocol=protocol) as client:
            answers[protocol] = client.recommend(users, k=k, filter_seen=filter_seen)
    return answers


def most_k(run: Run) -> int | None:
    """The most items that the published version answers a user with; None where it cannot say."""
    repository = ModelRepository(run.path / TRITON)
    try:
        model = repository.model / str(repository.published) / MODEL_FILE
        return int(json.loads(model.read_bytes())["contract"]["max_k"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # none is published, or it is damaged: starting the server says so


def check_k(run: Run, k: int) -> None:
    """Refuse a `k` that the published version will not answer, before a server is started."""
    most = most_k(run)
    if most is not None and k > most:
        raise ConfigError(
            f"-k {k}: the published version answers with at most {most} items; ask for fewer, or "
            f"run `twotower export --set serving.max_k={k}` and `twotower publish`"
        )


def demonstrate(run: Run) -> dict[str, Any]:
    """Start Triton on free ports, ask for three users over HTTP and gRPC, print, stop."""
    serves = run.config.serving
    k = min(10, serves.max_k)
    with stage("serve") as (report, result):
        users = example_users(run, min(3, serves.max_batch_size))
        shown_items(run)
        report(0, 3, "start Triton")
        with serving(run) as addresses:
            report(1, 3, "ask over HTTP and gRPC")
            answers = ask(addresses, users, k)
            report(2, 3, "stop Triton")
        http, grpc = answers["http"], answers["grpc"]
        equal = http.version == grpc.version and all(
            np.array_equal(getattr(http, part), getattr(grpc, part))
            for part in ("item_ids", "scores")
        )
        if not equal:
            raise RunError(f"HTTP and gRPC answered differently:\n{http}\n{grpc}")
        result(
            f"version {http.version} answered over HTTP ({addresses.http}) and gRPC "
            f"({addresses.grpc}), equal; stopped"
        )
    print_recommendations(run, users, answers)
    return {"users": users, "equal": equal}


def example_users(run: Run, count: int = 3) -> list[int]:
    """The first users of the test part."""
    test = load_split(run.path / "processed")["test"]
    return np.unique(test[run.config.features.user_id])[:count].tolist()


def shown_items(run: Run) -> pd.DataFrame:
    """The config's `show` columns by item id."""
    from twotower.workflows.tables import read_frame

    item_id, show = run.config.features.item_id, run.config.show
    run.notes("ingest")
    path = run.path / "data" / ITEMS
    if not path.is_file():
        raise RunError(f"{path}: missing; run `twotower ingest` again")
    items = read_frame(path)
    if missing := [column for column in show if column not in items]:
        raise ConfigError(
            f"show: the item table has no column {', '.join(missing)}; "
            f"it has {', '.join(items.columns)}"
        )
    return items.set_index(item_id, drop=False)[show]


def print_recommendations(
    run: Run, users: Sequence[int], answers: dict[str, Recommendations]
) -> None:
    """A table per user: rank, item id, the config's `show` columns, the score by each protocol.

    The protocols' item ids must be the same.
    """
    item_id, items = run.config.features.item_id, shown_items(run)
    synthetic = " (synthetic data)" if run.notes("ingest")["synthetic"] else ""
    ids = next(iter(answers.values())).item_ids
    foreign = set(ids[ids != -1].tolist()) - set(items.index)
    for row, user in enumerate(users):
        rendered = Table(title=f"user {user}{synthetic}", title_justify="left")
        rendered.add_column("#", justify="right")
        rendered.add_column(Text(item_id), justify="right")
        for column in items:
            rendered.add_column(Text(column))
        for protocol in answers:
            rendered.add_column(f"score, {protocol}", justify="right")
        for place, item in enumerate(ids[row].tolist()):
            if item == -1:
                rendered.add_row(str(place + 1), "-", "no unseen item left")
                break
            shown = [
                Text("?") if item in foreign else _text(items.at[item, column]) for column in items
            ]
            scores = [f"{answer.scores[row, place]:.4f}" for answer in answers.values()]
            rendered.add_row(str(place + 1), str(item), *shown, *scores)
        console.print(rendered)
    if foreign:
        console.print(
            f"[bold red]{len(foreign)} of the items are not in the run's item table[/]: the "
            "version that answered was made of other data. To serve the run's data run `twotower "
            "preprocess`, `twotower train`, `twotower export` and `twotower publish`"
        )


def _text(value: Any) -> Text:
    """Data as it is: in a plain string rich would see tags and emoji codes."""
    if isinstance(value, (list, np.ndarray)):
        return Text(", ".join(str(v) for v in value))
    return Text(str(value))
