"""The models that are measured side by side, each served by a Triton of its own.

`OURS` is the exported model, `MERLIN` the same ensemble run by merlin-systems' executor, `STOCK`
an ensemble of merlin-systems' own operators, `IDENTITY` a model that echoes the user id.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import psutil

from benchmarks.serving.load import Request, Wire, write_bodies
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import load_tables, read_ids
from twotower.pipelines.steps.processed import ITEMS, USERS
from twotower.serving.triton.control import MODEL_NAME
from twotower.serving.triton.server import TritonServer

OURS, IDENTITY = "ours", "identity"
OURS_WITH_FEATURES = "ours, features given"
"""The served model, asked with all features, which makes it skip its cache of query vectors."""
MERLIN, STOCK = "runtime merlin", "stock ensemble"
SUBJECTS = (OURS, OURS_WITH_FEATURES, IDENTITY, MERLIN, STOCK)
BODIES = 512
"""Different requests per file of prepared bodies."""
MODEL_PROCESS = "triton_python_backend_stub"


@dataclass(frozen=True)
class Subject:
    """A running server, and the seconds that it took to become ready."""

    server: TritonServer
    seconds: float


class ServedRun:
    """A copy of a run, exported anew with the present code.

    Parameters
    ----------
    source : Path
        The run folder that is copied.
    folder : Path
        New folder for the copy, the model repositories, logs and prepared requests.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.run = _export_copy(source, folder / "run", runtime="compiled")

    @cached_property
    def users(self) -> pd.DataFrame:
        """User id as given and raw features that the model reads, one row per user."""
        names = self.run.config.features
        users = pd.read_parquet(self.run.path / "data" / USERS)[names.sides[0].columns]
        codes = users[names.user_id].to_numpy()
        return users.assign(**{names.user_id: read_ids(self.run).users.decode(codes)})

    @cached_property
    def vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Item ids, user vectors and item vectors by the reloaded TensorFlow towers.

        Returns
        -------
        item_ids : ndarray of int64, shape (n_items,)
        user_vectors : ndarray of float32, shape (n_users, dim)
            In the order of `users`.
        item_vectors : ndarray of float32, shape (n_items, dim)
        """
        from twotower.models.training.saving import CANDIDATE_TOWER, QUERY_TOWER, load_tower
        from twotower.models.two_tower import embed

        users, items = load_tables(self.run)
        towers = self.run.path / "model"
        item_table = pd.read_parquet(self.run.path / "data" / ITEMS)
        return (
            item_table[self.run.config.features.item_id].to_numpy(),
            embed(load_tower(towers / QUERY_TOWER), users),
            embed(load_tower(towers / CANDIDATE_TOWER), items),
        )

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Score every item, seen ones included, for rows of `users`.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, n_items)
        """
        _, users, items = self.vectors
        return users[rows] @ items.T

    def inputs(self, rows: np.ndarray, features: bool = False) -> dict[str, np.ndarray]:
        """Input tensors of shape (n, 1) of a request for n rows of `users`."""
        users = self.users.iloc[rows]
        names = users.columns if features else users.columns[:1]
        return {name: users[name].to_numpy()[:, None] for name in names}

    def repository(self, subject: str) -> Path:
        """Write the model repository of a subject; return its folder."""
        if subject == OURS:
            return self.run.path / TRITON
        if subject == MERLIN:
            merlin = _export_copy(self.run.path, self.folder / "merlin", runtime="merlin")
            return merlin.path / TRITON
        out = self.folder / subject.replace(" ", "-")
        if subject == IDENTITY:
            from benchmarks.serving.peers import write_identity

            write_identity(out, self.run.path / TRITON / MODEL_NAME / "config.pbtxt")
        else:
            self._write_stock(out)
        return out

    def _write_stock(self, out: Path) -> None:
        from benchmarks.serving.peers import write_stock
        from twotower.models.training.saving import load
        from twotower.workflows.features.encode import load_workflow

        item_ids, _, vectors = self.vectors
        tower = self.folder / "keras-query-tower"  # the stock operator reads this format
        load(self.run.path / "model").model.query_encoder.save(str(tower), include_optimizer=False)
        write_stock(
            repository=out,
            workflow=load_workflow(self.run.path / "workflow").get_subworkflow("user"),
            query_tower=tower,
            item_ids=item_ids,
            vectors=vectors,
        )

    def server(self, subject: str) -> TritonServer:
        """Return the subject's server, which is not started yet."""
        log = self.folder / "logs" / f"{subject.replace(' ', '-')}.log"
        return TritonServer(self.repository(subject), log=log)

    def start(self, stack: ExitStack) -> dict[str, Subject]:
        """Start the server of every subject; `stack` stops them."""
        started = {}
        for name in (OURS, IDENTITY, MERLIN, STOCK):
            server = self.server(name)
            before = time.perf_counter()
            stack.enter_context(server)
            started[name] = Subject(server, time.perf_counter() - before)
            click.echo(f"  {name}: ready after {started[name].seconds:.1f} s")
        return {**started, OURS_WITH_FEATURES: started[OURS]}

    def bodies(self, subject: str, wire: Wire, batch: int) -> Path:
        """Write prepared requests to a file; every subject is asked for the same users."""
        kind = subject if subject in (STOCK, OURS_WITH_FEATURES) else "plain"
        path = self.folder / f"{kind}-{wire}-{batch}.bodies"
        if path.is_file():
            return path
        draw = np.random.default_rng(batch)
        rows = draw.integers(0, len(self.users), (BODIES, batch))
        if subject == STOCK:  # it needs every feature and has no batch dimension
            inputs = [_flat(self.inputs(each, features=True)) for each in rows]
        else:
            inputs = [self.inputs(each, features=subject == OURS_WITH_FEATURES) for each in rows]
        requests = [Request(inputs=each, parameters={}) for each in inputs]
        return write_bodies(path, requests, wire)


def resident_memory(server: TritonServer) -> dict[str, float]:
    """Measure resident memory in MB (10^6 bytes).

    Returns
    -------
    dict of str to float
        "model_mb" for the model's process, "whole_mb" for the model and the server together.

    Raises
    ------
    click.ClickException
        If no model process runs.
    """
    whole = psutil.Process(server.pid)
    processes = [whole, *whole.children(recursive=True)]
    models = [p for p in processes if any(MODEL_PROCESS in word for word in p.cmdline()[:1])]
    if not models:
        raise click.ClickException(f"Triton (pid {server.pid}) has no model process")
    return {
        "model_mb": round(sum(p.memory_info().rss for p in models) / 1e6, 1),
        "whole_mb": round(sum(p.memory_info().rss for p in processes) / 1e6, 1),
    }


def _export_copy(source: Path, copy: Path, runtime: str) -> Run:
    """Copy a run; export and publish one version of it."""
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
