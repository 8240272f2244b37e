"""Orders the candidates of each user by the ranking model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from merlin.dag import ColumnSelector
from merlin.schema import ColumnSchema, Schema
from merlin.table import TensorTable

from twotower.serving.operators.base import ServedOperator, split_rows
from twotower.serving.operators.query_tower import TOLERANCE
from twotower.serving.operators.saved_ranking import SavedRanking
from twotower.serving.operators.top_k import FaissTopK
from twotower.serving.runtime.arrays import find
from twotower.serving.runtime.contract import (
    ABSENT,
    RETRIEVAL_SCORE,
    SCORE,
    count_of,
    row_of,
    state_of,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.parameters import CANDIDATES, K
from twotower.serving.runtime.operators.diversify import wishes_of
from twotower.serving.runtime.ranking import rank_candidates as runtime
from twotower.serving.runtime.ranking.features import CandidateFeatures, History
from twotower.serving.seen import SeenItems

NETWORK = "ranking_network"
"""The folder of the SavedModel in a version for `runtime: merlin`."""


class RankingModel(NamedTuple):
    """What has been trained to rank, for the items of an index in its order.

    Attributes
    ----------
    network : SavedRanking
    item_part : ndarray of float32, shape (n_items, d)
        What the network reads of each item.
    features : CandidateFeatures
    history : SeenItems
        The items that each user is known to like, with one row per row of the user table.
    candidates, max_rows : int
        See `Contract`.
    """

    network: SavedRanking
    item_part: np.ndarray
    features: CandidateFeatures
    history: SeenItems
    candidates: int
    max_rows: int

    def columns(self, encoded: Schema) -> list[str]:
        """Return what the network reads of users, with the columns of the lengths of lists."""
        names = self.network.user_columns
        return [*names, *(count_of(name) for name in names if encoded[name].is_list)]


class RankCandidates(ServedOperator):
    """Orders the candidates of requests to the model `recommend`; passes other rows on.

    The output is codes of items int64 [n, max k], scores float32 of this shape, and the scores of
    retrieval. A row that asks for fewer items, or has fewer left, ends in -1 and -inf.

    Parameters
    ----------
    model : RankingModel
    top : FaissTopK
        What finds the candidates. The items that a request lists as its history replace the stored
        ones here, too.
    user_id : str
        Name of the column of user ids.
    """

    def __init__(self, model: RankingModel, top: FaissTopK, user_id: str) -> None:
        super().__init__()
        self.model, self.index, self.columns = model, top.index, top.columns
        self.user_id, self.item_id, self.history = user_id, top.item_id, top.history

    @property
    def parameters(self) -> list[str]:
        """The columns of a request that the operator reads."""
        given = []
        if self.history is not None:
            given = [self.history, count_of(self.history), state_of(self.history)]
        return [K, CANDIDATES, "diversity", "diversity_by", "max_per", *given]

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        names = {self.item_id: np.int64, SCORE: np.float32, RETRIEVAL_SCORE: np.float32}
        return Schema(
            [ColumnSchema(name, dtype=dtype, dims=(None, None)) for name, dtype in names.items()]
        )

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        items, scores = columns[self.item_id], columns[SCORE]
        ranked = columns[CANDIDATES] > 0
        if not ranked.any():
            return TensorTable({self.item_id: items, SCORE: scores, RETRIEVAL_SCORE: scores})
        found = self._probabilities(columns, items, scores)
        shape = (len(items), columns[K].max())
        answer: dict[str, np.ndarray] = {
            self.item_id: np.full(shape, -1, np.int64),
            SCORE: np.full(shape, -np.inf, np.float32),
            RETRIEVAL_SCORE: np.full(shape, -np.inf, np.float32),
        }
        features = self.model.features
        units = features.vectors * features.scale[:, None]
        for row, wishes in enumerate(wishes_of(columns)):
            order = np.argsort(-found[row], kind="stable")
            order = order[np.isfinite(found[row, order])]
            if wishes.diversity or wishes.max_per:
                pool = np.searchsorted(self.index.item_ids, items[row, order])
                order = order[wishes.choose(pool, found[row, order], units[pool], self.columns)]
            order = order[: wishes.k]
            for name, values in zip(answer, (items, found, scores), strict=True):
                answer[name][row, : len(order)] = values[row, order]
        return TensorTable(answer)

    def _probabilities(
        self, columns: Mapping[str, np.ndarray], items: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities of candidates, given as codes; -inf for padding."""
        positions, known = find(self.index.item_ids, items.ravel())
        positions = np.where(known, positions, 0).reshape(items.shape)
        features = self.model.features.compute(positions, scores, self._histories(columns))
        parts = self.model.network.user_parts(columns, len(items)).repeat(items.shape[1], axis=0)
        own = self.model.item_part[positions.ravel()]
        flat = features.reshape(-1, features.shape[2])
        found = self.model.network.probabilities(parts, own, flat).reshape(scores.shape)
        return np.where(np.isneginf(scores), np.float32(-np.inf), found)

    def _histories(self, columns: Mapping[str, np.ndarray]) -> History:
        """Return the histories of the rows, of the request or else the stored ones."""
        rows = self.model.history.rows(columns[row_of(self.user_id)])
        if self.history is not None:
            given = split_rows(columns[self.history], columns[count_of(self.history)])
            absent = columns[state_of(self.history)] == ABSENT
            rows = [own if absent[n] else np.unique(given[n]) for n, own in enumerate(rows)]
        found = [find(self.index.item_ids, own) for own in rows]
        kept = [position[known] for position, known in found]
        counts = np.array([len(own) for own in kept], np.int64)
        return History(np.concatenate([np.zeros(0, np.int64), *kept]), counts)

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        model = self.model
        model.network.convert(out)
        np.save(out / runtime.ITEM_PART, model.item_part)
        positions, starts = model.history.positions(self.index.item_ids)
        np.save(out / runtime.HISTORY, positions)
        np.save(out / runtime.STARTS, starts)
        entry = {
            "profiles": model.features.save(out),
            "user_columns": model.network.user_columns,
            "history": self.history,
        }
        self._verify(out, entry, schema)
        return entry

    def _verify(self, out: Path, entry: dict[str, Any], schema: Schema) -> None:
        """Check on random inputs that the ONNX graphs give the same as TensorFlow."""
        draw = np.random.default_rng(0)
        with ThreadPoolExecutor(1) as pool:
            compiled = runtime.RankCandidates(out, entry, self.index, threads=1, pool=pool)
        widths = self.model.network.widths
        tensors = [draw.normal(size=(257, width)).astype(np.float32) for width in widths]
        expected = self.model.network.probabilities(*tensors)
        answer = compiled.probabilities_of(*tensors)
        error = float(np.abs(answer - expected).max())
        if not error <= TOLERANCE:
            raise ServingError(
                f"{self.model.network.folder}: the ONNX graph of the ranking model differs from "
                f"TensorFlow by {error:.2g}, more than {TOLERANCE:g}; set serving.runtime to "
                "merlin and export again"
            )

    def save_artifacts(self, artifact_path: Any = None) -> None:
        shutil.copytree(self.model.network.folder, Path(artifact_path) / NETWORK)

    def _load(self, folder: Path) -> None:
        self.model.network.folder = folder / NETWORK
