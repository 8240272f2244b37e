"""What is measured: the served model, its reference, the stock ensemble and an identity model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import psutil

from benchmarks.load import Request, Wire, write_bodies
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import ITEMS, USERS, load_tables
from twotower.serving.triton.control import MODEL_NAME
from twotower.serving.triton.server import TritonServer

OURS, GIVEN, IDENTITY = "ours", "ours, features given", "identity"
MERLIN, STOCK = "runtime merlin", "stock ensemble"
SUBJECTS = (OURS, GIVEN, IDENTITY, MERLIN, STOCK)
BODIES = 512
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Subject:
    """A running server, and how long it took until it was ready."""

    server: TritonServer
    seconds: float


class World:
    """A copy of a run in `folder`, exported anew by this code, and its users.

    `source`, the run it is copied from, is left as it is.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.run = _exported(source, folder / "run", "compiled")

    @cached_property
    def users(self) -> pd.DataFrame:
        """The user id and the raw features the model reads, one row a user."""
        names = self.run.config.features
        return pd.read_parquet(self.run.path / "data" / USERS)[names.sides[0].columns]

    @cached_property
    def vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Raw item ids int64 [items], and what the reloaded TensorFlow towers say.

        That is user vectors float32 [users, D], in the order of `users`, and item vectors
        float32 [items, D].
        """
        from twotower.models.training.saving import CANDIDATE_TOWER, QUERY_TOWER, load_tower
        from twotower.models.two_tower import embed

        users, items = load_tables(self.run)
        towers = self.run.path / "model"
        item_ids = pd.read_parquet(self.run.path / "data" / ITEMS)
        return (
            item_ids[self.run.config.features.item_id].to_numpy(),
            embed(load_tower(towers / QUERY_TOWER), users),
            embed(load_tower(towers / CANDIDATE_TOWER), items),
        )

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Score float32 [n, items] of every item, seen or not, for rows [n] of `users`."""
        _, users, items = self.vectors
        return users[rows] @ items.T

    def inputs(self, rows: np.ndarray, features: bool = False) -> dict[str, np.ndarray]:
        """The input tensors [n, 1] of a request for rows [n] of `users`."""
        users = self.users.iloc[rows]
        names = users.columns if features else users.columns[:1]
        return {name: users[name].to_numpy()[:, None] for name in names}

    def repository(self, subject: str) -> Path:
        """Write the model repository of a subject."""
        if subject == OURS:
            return self.run.path / TRITON
        if subject == MERLIN:
            return _exported(self.run.path, self.folder / "merlin", "merlin").path / TRITON
        from benchmarks import peers

        out = self.folder / subject.replace(" ", "-")
        if subject == IDENTITY:
            peers.write_identity(out, self.run.path / TRITON / MODEL_NAME / "config.pbtxt")
        else:
            self._write_stock(out, peers.write_stock)
        return out

    def _write_stock(self, out: Path, write: Callable) -> None:
        from twotower.models.training.saving import load
        from twotower.workflows.features import load_workflow

        workflow = load_workflow(self.run.path / "workflow").get_subworkflow("user")
        item_ids, _, vectors = self.vectors
        tower = self.folder / "keras-query-tower"  # the format that the stock operator calls
        load(self.run.path / "model").model.query_encoder.save(str(tower), include_optimizer=False)
        write(out, workflow, tower, item_ids, vectors)

    def server(self, subject: str) -> TritonServer:
        """The subject's server, not started yet."""
        log = self.folder / "logs" / f"{subject.replace(' ', '-')}.log"
        return TritonServer(self.repository(subject), log=log)

    def start(self, stack: ExitStack) -> dict[str, Subject]:
        """Start every subject's server; `stack` stops them."""
        started = {}
        for name in (OURS, IDENTITY, MERLIN, STOCK):
            server = self.server(name)
            before = time.perf_counter()
            stack.enter_context(server)
            started[name] = Subject(server, time.perf_counter() - before)
            click.echo(f"  {name}: ready after {started[name].seconds:.1f} s")
        return {**started, GIVEN: started[OURS]}

    def bodies(self, subject: str, wire: Wire, batch: int) -> Path:
        """A file of prepared requests for many users: of the same ones for every subject."""
        kind = subject if subject in (STOCK, GIVEN) else "plain"
        path = self.folder / f"{kind}-{wire}-{batch}.bodies"
        if path.is_file():
            return path
        draw = np.random.default_rng(batch)
        rows = draw.integers(0, len(self.users), (BODIES, batch))
        if subject == STOCK:  # which wants every feature, and knows no batch dimension
            requests = [Request(_flat(self.inputs(r, features=True)), {}) for r in rows]
        else:
            requests = [Request(self.inputs(r, features=subject == GIVEN), {}) for r in rows]
        return write_bodies(path, requests, wire)


def memory(server: TritonServer) -> dict[str, float]:
    """Resident MB (10^6 bytes) of the model's process, and of it and the server together."""
    whole = psutil.Process(server.pid)
    processes = [whole, *whole.children(recursive=True)]
    models = [p for p in processes if any(STUB in word for word in p.cmdline()[:1])]
    if not models:
        raise click.ClickException(f"Triton (pid {server.pid}) has no model process")
    return {
        "model_mb": round(sum(p.memory_info().rss for p in models) / 1e6, 1),
        "whole_mb": round(sum(p.memory_info().rss for p in processes) / 1e6, 1),
    }


def _exported(source: Path, copy: Path, runtime: str) -> Run:
    """A copy of a run whose one published version this code has just written."""
    from twotower.pipelines.steps.export import export
    from twotower.serving.repository import ModelRepository

    shutil.copytree(source, copy)
    shutil.rmtree(copy / TRITON, ignore_errors=True)
    run = Run(copy)
    run.override((f"serving.runtime={runtime}",))
    export(run)
    ModelRepository(run.path / TRITON).publish()
    return run


def _flat(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: array.ravel() for name, array in inputs.items()}
