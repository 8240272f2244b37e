"""The rankings of a real server, as a ranker that the evaluation can measure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from twotower.pipelines.evaluation.evaluator import load_histories
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids, read_ids
from twotower.pipelines.steps.serve import serving
from twotower.serving.client import RetrievalClient

# A gRPC message may have 4 MB, and a user may be answered with the whole catalogue.
USERS_PER_REQUEST = 64


class ServedRanker:
    """Ranks the catalogue for users by asking the server of a run's published version.

    Each request asks for enough items that k remain after seen items, and items that are not
    candidates, are removed here. The server's own filter is off, because it would also remove the
    items that are to be found.

    Parameters
    ----------
    run : Run
        Exported with a `serving.max_k` of at least k plus the seen items of any user. If the next
        item is predicted, users are asked for with their history before the test part.
    grpc : str
        The address of its server.
    """

    def __init__(self, run: Run, grpc: str):
        ids, (user_codes, item_codes) = read_ids(run), load_ids(run)
        self.users = ids.users.decode(user_codes)
        self.items = ids.items.decode(item_codes)
        self.rows = pd.Index(self.items)
        self.histories = load_histories(run, "test")
        self.history = run.config.features.history_column
        self.client = RetrievalClient(grpc, protocol="grpc")

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return item rows int64 [n, k] of user rows [n], best first, padded with -1."""
        ranked = np.full((len(users), k), -1)
        known = np.diff(seen.indptr)
        order = np.argsort(known, kind="stable")  # so that a request has users with equally many
        for start in range(0, len(users), USERS_PER_REQUEST):
            places = order[start : start + USERS_PER_REQUEST]
            wanted = min(k + int(known[places].max() + (~candidates).sum()), len(self.items))
            found = self._answers(users[places], wanted)
            for place, items in zip(places, found, strict=True):
                left_out = seen.indices[seen.indptr[place] : seen.indptr[place + 1]]
                kept = items[(items >= 0) & ~np.isin(items, left_out)]
                kept = kept[candidates[kept]][:k]
                ranked[place, : len(kept)] = kept
        return ranked

    def _answers(self, users: np.ndarray, k: int) -> np.ndarray:
        """The item rows [n, k] that the server answers user rows [n] with, seen ones included."""
        features: dict[str, Any] = {}
        if self.histories is not None:
            features[self.history] = [
                self.items[history[history >= 0]].tolist() for history in self.histories[users]
            ]
        answer = self.client.recommend(
            self.users[users].tolist(), k, filter_seen=False, features=features
        )
        rows = self.rows.get_indexer(np.ravel(answer.item_ids)).reshape(answer.item_ids.shape)
        return np.where(np.isfinite(answer.scores), rows, -1)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


@contextlib.contextmanager
def served_ranker(run: Run) -> Iterator[ServedRanker]:
    """Start a server of a run's published version, and rank by what it answers."""
    with serving(run) as addresses:
        ranker = ServedRanker(run, addresses.grpc)
        try:
            yield ranker
        finally:
            ranker.close()
