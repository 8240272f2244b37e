"""Runs the compiled ensemble, without Merlin, NVTabular or TensorFlow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .contract import RETRIEVAL_SCORE, SCORE, Table, row_of
from .engine import STAGE_SECONDS, Counts
from .filters.parameters import CANDIDATES
from .live.users import LIVE, NO_SLOT, LiveUsers
from .operators.base import ColumnOperator
from .operators.encode_features import EncodeFeatures
from .operators.query_tower import QueryTower
from .operators.top_k import FaissTopK
from .operators.user_features import UserFeatures
from .operators.user_rows import UserRows
from .operators.vector_cache import VectorCache
from .ranking.rank_candidates import RankCandidates

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

    live: LiveUsers | None

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
        self.ranking = None
        if RankCandidates.__name__ in plan:
            name = RankCandidates.__name__
            self.ranking = RankCandidates(
                folder / name, plan[name], self.top_k.index, threads, self.top_k.pool
            )
            self.parts = VectorCache(self.features.features, len(self.users.user_ids))
        self.item_codes, self.live = self.top_k.index.item_ids, None
        self.seconds = dict.fromkeys(plan, 0.0)

    def run(self, table: Table) -> Table:
        """Answer a table of n requests (see `Engine.run`)."""
        seconds, started = self.seconds, time.perf_counter()
        rows = self.users.rows(table[self.user_id])
        cached = self._cached_rows(table, rows)
        vectors = self.cache.get(table, cached)
        ended = time.perf_counter()
        seconds["UserRows"] += ended - started
        if vectors is None:
            vectors = self._vectors(table, rows)
            self.cache.put(table, cached, vectors)
            ended = time.perf_counter()
        items, scores = self.top_k.best(vectors, rows, table)
        seconds["FaissTopK"] += time.perf_counter() - ended
        return {self.top_k.item_id: items, SCORE: scores}

    def recommend(self, table: Table) -> Table:
        """Answer a table of requests to the model `recommend` (see `Engine.recommend`)."""
        assert self.ranking is not None  # the contract refuses such requests otherwise
        seconds, started = self.seconds, time.perf_counter()
        rows = self.users.rows(table[self.user_id])
        seconds["UserRows"] += time.perf_counter() - started
        vectors, parts = self._vectors_and_parts(table, rows, self.ranking)
        started = time.perf_counter()
        count = int(table[CANDIDATES].max())
        positions, scores = self.top_k.candidates(vectors, rows, table, count)
        if count > table[CANDIDATES].min():  # of several requests
            scores[np.arange(count) >= table[CANDIDATES][:, None]] = -np.inf
        ended = time.perf_counter()
        seconds["FaissTopK"] += ended - started
        found = self.ranking.probabilities(positions, scores, parts, rows, table)
        items, places = self.top_k.ordered(positions, found, table)
        seconds["RankCandidates"] += time.perf_counter() - ended
        return {
            self.top_k.item_id: items,
            SCORE: _at(found, places),
            RETRIEVAL_SCORE: _at(scores, places),
        }

    def _vectors_and_parts(
        self, table: Table, rows: np.ndarray, ranking: RankCandidates
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return query vectors float32 [n, D], and what the ranking model reads of users [n, d]."""
        cached = self._cached_rows(table, rows)
        vectors = self.cache.get(table, cached)
        if ranking.user_part is None:
            parts: np.ndarray | None = np.zeros((len(rows), 0), np.float32)
        else:
            parts = self.parts.get(table, cached)
        if vectors is None or parts is None:
            columns = self._encoded(table, rows)
            if parts is None:
                parts = ranking.parts(columns)
                self.parts.put(table, cached, parts)
            if vectors is None:
                vectors = self._run(self.tower, columns)[self.tower.vector]
                self.cache.put(table, cached, vectors)
        return vectors, parts

    def similar(self, table: Table) -> Table:
        """Answer a table of requests for similar items (see `Engine.similar`)."""
        started = time.perf_counter()
        items, scores = self.top_k.similar(table)
        self.seconds["FaissTopK"] += time.perf_counter() - started
        return {self.top_k.item_id: items, SCORE: scores}

    def deny(self, codes: np.ndarray) -> None:
        """Leave items out of all answers (see `Engine.deny`)."""
        self.top_k.deny(codes)

    def follow(self, live: LiveUsers) -> None:
        """Take the events of users into account from now on (see `Engine.follow`)."""
        self.live = self.top_k.live = live
        if self.ranking is not None:
            self.ranking.live = live

    def changed(self, slot: int) -> None:
        """Forget what was computed for a user with events (see `Engine.changed`)."""
        self.cache.forget(slot)
        if self.ranking is not None:
            self.parts.forget(slot)

    def _cached_rows(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """Return the rows under which the vectors of users are cached."""
        if LIVE not in table:
            return rows
        slots = table[LIVE]
        return np.where(slots == NO_SLOT, rows, self.cache.row_of_slot(slots))

    def vectors(self, table: Table) -> np.ndarray:
        """Return the query vectors float32 [n, D] of a table of n requests."""
        return self._vectors(table, self.users.rows(table[self.user_id]))

    def _vectors(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """Compute the query vectors float32 [n, D] of the users in `rows`."""
        return self._run(self.tower, self._encoded(table, rows))[self.tower.vector]

    def _encoded(self, table: Table, rows: np.ndarray) -> Table:
        """Return what the query tower reads of the users in `rows`."""
        if LIVE in table and self.live and self.top_k.history:
            name = self.top_k.history
            table = self.live.with_history(
                table, name, lambda row: self.features.stored_list(name, rows[row])
            )
        completed = self._run(self.features, {**table, self.row: rows})
        return self._run(self.encoding, completed)

    def _run(self, operator: ColumnOperator, columns: Table) -> Table:
        """Run an operator, and count its time."""
        started = time.perf_counter()
        answer = operator.run(columns)
        self.seconds[type(operator).__name__] += time.perf_counter() - started
        return answer

    def counts(self) -> Counts:
        """Return the counts of the operators and the seconds that each took."""
        return {
            ("twotower_users_total", "known", "true"): self.users.known,
            ("twotower_users_total", "known", "false"): self.users.unknown,
            ("twotower_users_cached_total", "", ""): self.cache.users_found,
            ("twotower_items_hidden_total", "", ""): self.top_k.items_hidden,
            **{(STAGE_SECONDS, "stage", name): spent for name, spent in self.seconds.items()},
        }


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the values [n, c] at places [n, k]; -inf where there is none, at -1."""
    found = np.take_along_axis(values, np.maximum(places, 0), axis=1)
    return np.where(places < 0, np.float32(-np.inf), found)


def load(version: Path, threads: int) -> CompiledEngine:
    """Return the engine of `runtime: compiled`."""
    return CompiledEngine(version, threads)
