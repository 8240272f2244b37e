"""The compiled ensemble: the operators' artifacts, run without Merlin, NVTabular or TensorFlow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .contract import SCORE, Table, row_of
from .encode import EncodeFeatures
from .step import STAGE_SECONDS, Counts
from .steps import QueryTower, UserFeatures, UserRows
from .top_k import FaissTopK
from .vector_cache import VectorCache

PLAN_FILE = "plan.json"


class CompiledEngine:
    """Answers a table of users: rows of the user table, then query vectors, then the best items.

    Parameters
    ----------
    folder : Path
        What `serving.ensemble.compile_ensemble` wrote: plan.json, and a folder for each operator.
    threads : int
        How many threads the selection of the best items may use.
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
        """Answer a table of n requests: item ids int64 [n, max k] and scores float32 of its shape.

        A row that asks for fewer items than the widest, or whose catalogue is exhausted, ends in
        -1 and -inf.
        """
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

    def _vectors(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """Query vectors float32 [n, D] of the users in `rows`, by the tower."""
        columns = {**table, self.row: rows}
        for step in (self.features, self.encoding, self.tower):
            started = time.perf_counter()
            columns = step.run(columns)
            self.seconds[type(step).__name__] += time.perf_counter() - started
        return columns[self.tower.vector]

    def counts(self) -> Counts:
        """What the parts have counted, and the seconds each took."""
        return {
            ("twotower_users_total", "known", "true"): self.users.known,
            ("twotower_users_total", "known", "false"): self.users.unknown,
            ("twotower_users_cached_total", "", ""): self.cache.users_found,
            ("twotower_items_hidden_total", "", ""): self.top_k.items_hidden,
            **{(STAGE_SECONDS, "stage", name): spent for name, spent in self.seconds.items()},
        }


def load(version: Path, threads: int) -> CompiledEngine:
    """`runtime: compiled`: the engine that answers tables."""
    return CompiledEngine(version, threads)
