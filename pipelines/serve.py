"""Serve a run's repository, and ask it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from pipelines.console import console, stage
from pipelines.errors import ConfigError, RunError
from pipelines.preprocess import ITEMS, load_split
from pipelines.run import Run, write_atomically

if TYPE_CHECKING:
    from serving.client import Recommendations
    from serving.config import ServingConfig
    from serving.server import TritonServer

ADDRESSES = "server.json"


@dataclass(frozen=True)
class Addresses:
    """Where a server answers: host:port each."""

    http: str
    grpc: str
    metrics: str

    @classmethod
    def of(cls, server: TritonServer) -> Addresses:
        return cls(server.http, server.grpc, server.metrics)


@contextlib.contextmanager
def serving(run: Run) -> Iterator[Addresses]:
    """Triton on the run's repository, on free ports, while the block runs."""
    free = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with _triton(run, run.config.serving.copy(update=free), "triton.log") as server:
        yield Addresses.of(server)


def _triton(run: Run, config: ServingConfig, log: str) -> TritonServer:
    """The run's server by `config`, not started yet; it writes logs/`log`."""
    run.verified("export")
    from serving.server import TritonServer

    (run.path / "logs").mkdir(exist_ok=True)
    return TritonServer(
        run.path / "triton",
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        log=run.path / "logs" / log,
        host=config.host,
        timeout=config.startup_seconds,
    )


def serve(run: Run) -> None:
    """Serve until Ctrl-C or SIGTERM; `query` finds the address in the run folder.

    Raises RunError when Triton ends by itself.
    """
    import signal
    import threading

    # Both signals end the wait, and the context manager then stops Triton.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    path = run.path / ADDRESSES
    with contextlib.ExitStack() as stack:
        with stage("serve") as (report, result):
            report(0, 1, "start Triton")
            export = run.identity("export")
            # A log of its own: a server for one question may run beside it.
            server = stack.enter_context(_triton(run, run.config.serving, "serve.log"))
            addresses = Addresses.of(server)
            result(f"model `retrieval`: http {addresses.http}, grpc {addresses.grpc}")
        stack.callback(path.unlink, missing_ok=True)
        write_atomically(path, json.dumps({"export": export, **asdict(addresses)}) + "\n")
        console.print(f"metrics http://{addresses.metrics}/metrics; Ctrl-C stops the server")
        while not stopped.wait(1.0):
            if reason := server.ended():
                raise RunError(f"{reason}; start it again with `twotower serve`")
    console.print("stopped")


def query(
    run: Run, users: Sequence[int], k: int, protocol: str = "http", filter_seen: bool = True
) -> dict[str, Recommendations]:
    """Ask a running server of this run, or start one for the question; print the answer."""
    shown_items(run)  # what cannot be printed shall not be asked
    with _server_for(run) as addresses:
        answers = ask(addresses, users, k, [protocol], filter_seen)
    print_recommendations(run, users, answers)
    return answers


@contextlib.contextmanager
def _server_for(run: Run) -> Iterator[Addresses]:
    """The running server of the run's current export, else one for the block."""
    addresses, reason = _running(run)
    if addresses:
        yield addresses
        return
    console.print(f"{reason}: starting one for this question")
    with serving(run) as addresses:
        yield addresses


def _running(run: Run) -> tuple[Addresses | None, str]:
    """Where `twotower serve` answers for the run's current export, else why nobody does."""
    from serving.client import RetrievalClient

    path = run.path / ADDRESSES
    if path.is_file():
        recorded = json.loads(path.read_text())
        export = recorded.pop("export", None)
        addresses = Addresses(**recorded)
        with RetrievalClient(addresses.http) as client:
            running = client.ready()
        if running and export == run.identity("export"):
            return addresses, ""
        if running:
            return None, "the running server serves an older export; restart `twotower serve`"
    return None, "no server is running for this run"


def ask(
    addresses: Addresses,
    users: Sequence[int],
    k: int,
    protocols: Sequence[str] = ("http", "grpc"),
    filter_seen: bool = True,
) -> dict[str, Recommendations]:
    """The server's answer for `users` by each protocol."""
    from serving.client import RetrievalClient

    answers = {}
    for protocol in protocols:
        with RetrievalClient(getattr(addresses, protocol), protocol=protocol) as client:
            answers[protocol] = client.recommend(users, k=k, filter_seen=filter_seen)
    return answers


def demonstrate(run: Run, k: int = 10) -> dict[str, Any]:
    """Start Triton on free ports, ask for three users over HTTP and gRPC, print, stop."""
    with stage("serve") as (report, result):
        users = example_users(run)
        shown_items(run)
        report(0, 2, "start Triton")
        with serving(run) as addresses:
            report(1, 2, "ask over HTTP and gRPC")
            answers = ask(addresses, users, k)
        http, grpc = answers["http"], answers["grpc"]
        equal = np.array_equal(http.item_ids, grpc.item_ids) and np.array_equal(
            http.scores, grpc.scores
        )
        if not equal:
            raise RunError(f"HTTP and gRPC answered differently:\n{http}\n{grpc}")
        result(
            f"Triton answered over HTTP ({addresses.http}) and gRPC ({addresses.grpc}), "
            "equal; stopped"
        )
    print_recommendations(run, users, answers)
    return {"users": users, "equal": equal}


def example_users(run: Run, count: int = 3) -> list[int]:
    """The first users of the test part."""
    test = load_split(run.path / "processed")["test"]
    return np.unique(test[run.config.features.user_id])[:count].tolist()


def shown_items(run: Run) -> pd.DataFrame:
    """The config's `show` columns by item id."""
    item_id, show = run.config.features.item_id, run.config.show
    items = pd.read_parquet(run.path / "data" / ITEMS)
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
            shown = [_text(items.at[item, column]) for column in items]
            scores = [f"{answer.scores[row, place]:.4f}" for answer in answers.values()]
            rendered.add_row(str(place + 1), str(item), *shown, *scores)
        console.print(rendered)


def _text(value: Any) -> Text:
    """Data as it is: in a plain string rich would see tags and emoji codes."""
    if isinstance(value, (list, np.ndarray)):
        return Text(", ".join(str(v) for v in value))
    return Text(str(value))
