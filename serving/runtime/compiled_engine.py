"""Runs the compiled ensemble, without Merlin, NVTabular or TensorFlow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .contract import SCORE, Table, row_of
from .engine import STAGE_SECONDS, Counts
from .operators.base import ColumnOperator
from .operators.encode_features import EncodeFeatures
from .operators.query_tower import QueryTower
from .operators.top_k import FaissTopK
from .operators.user_features import UserFeatures
from .operators.user_rows import UserRows
from .operators.vector_cache import VectorCache

PLAN_FILE = "plan.json"


class CompiledEngine:
    """Answers a table of users: rows of the user table, query vectors, best items.

    Parameters
    ----------
    folder : Path
        What `serving.ensemble.compile_ensemble` wrote: plan.json and a folder for each operator.
    threads : int
        Number of threads for the selection of the best items.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        plan = json.loads((folder / PLAN_FILE).read_text())

        def load(kind: type) -> Any:
            name = kind.__name__
            return kind(folder / name, plan[name], threads)

        self.users, self.features = load(UserRows), load(UserFeatures)
        self.encoding, self.tower = load(EncodeFeatures), load(QueryTower)
        self.top_k = load(FaissTopK)
        self.user_id = self.users.user_id
        self.row = row_of(self.user_id)
        self.cache = VectorCache(self.features.features, len(self.users.user_ids))
        self.seconds = dict.fromkeys(plan, 0.0)

    def run(self, table: Table) -> Table:
        """Answer a table of n requests (see `Engine.run`)."""
        seconds, started = self.seconds, time.perf_counter()
        rows = self.users.rows(table[self.user_id])
        vectors = self.cache.get(table, rows)
        ended = time.perf_counter()
        seconds["UserRows"] += ended - started
        if vectors is None:
            vectors = self._vectors(table, rows)
            self.cache.put(table, rows, vectors)
            ended = time.perf_counter()
        items, scores = self.top_k.best(vectors, rows, table)
        seconds["FaissTopK"] += time.perf_counter() - ended
        return {self.top_k.item_id: items, SCORE: scores}

    def similar(self, table: Table) -> Table:
        """Answer a table of requests for similar items (see `Engine.similar`)."""
        started = time.perf_counter()
        items, scores = self.top_k.similar(table)
        self.seconds["FaissTopK"] += time.perf_counter() - started
        return {self.top_k.item_id: items, SCORE: scores}

    def deny(self, codes: np.ndarray) -> None:
        """Leave items out of all answers (see `Engine.deny`)."""
        self.top_k.deny(codes)

    def vectors(self, table: Table) -> np.ndarray:
        """Return the query vectors float32 [n, D] of a table of n requests."""
        return self._vectors(table, self.users.rows(table[self.user_id]))

    def _vectors(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """Compute the query vectors float32 [n, D] of the users in `rows`."""
        columns = {**table, self.row: rows}
        operators: tuple[ColumnOperator, ...] = (self.features, self.encoding, self.tower)
        for operator in operators:
            started = time.perf_counter()
            columns = operator.run(columns)
            self.seconds[type(operator).__name__] += time.perf_counter() - started
        return columns[self.tower.vector]

    def counts(self) -> Counts:
        """Return the counts of the operators and the seconds that each took."""
        return {
            ("twotower_users_total", "known", "true"): self.users.known,
            ("twotower_users_total", "known", "false"): self.users.unknown,
            ("twotower_users_cached_total", "", ""): self.cache.users_found,
            ("twotower_items_hidden_total", "", ""): self.top_k.items_hidden,
            **{(STAGE_SECONDS, "stage", name): spent for name, spent in self.seconds.items()},
        }


def load(version: Path, threads: int) -> CompiledEngine:
    """Return the engine of `runtime: compiled`."""
    return CompiledEngine(version, threads)
