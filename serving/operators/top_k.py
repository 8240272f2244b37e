"""The best unseen items of each user, by the FAISS index, and their selection as ONNX."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from merlin.dag import ColumnSelector
from merlin.schema import ColumnSchema, Schema
from merlin.table import TensorTable

from twotower.serving.operators.base import ONNX_IR, ONNX_OPSET, ServedOperator, split_rows
from twotower.serving.runtime.contract import (
    ALLOW,
    EXCLUDE,
    SCORE,
    SIMILAR_TO,
    VALUE,
    count_of,
    state_of,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.caps import MAX_PER
from twotower.serving.runtime.filters.columns import ItemColumns
from twotower.serving.runtime.filters.parameters import (
    CANDIDATES,
    DIVERSITY,
    DIVERSITY_BY,
    FILTER_SEEN,
    K,
)
from twotower.serving.runtime.filters.predicate import WHERE, parse
from twotower.serving.runtime.index import (
    INDEX_FILE,
    METADATA_FILE,
    ApproximateIndex,
    ItemIndex,
    load_index,
)
from twotower.serving.runtime.operators.diversify import Wishes, pool_size
from twotower.serving.runtime.operators.top_k import (
    BIAS,
    FILTERS,
    HIDDEN_SCORES,
    ITEMS,
    MASKED_SCORING,
    POSITIONS,
    SCALE,
    SCORES,
    SCORING,
    SIZE,
    VECTORS,
)
from twotower.serving.seen import SeenItems

LISTS = (ALLOW, EXCLUDE)
PARAMETERS: dict[str, Any] = {
    K: np.int64,
    FILTER_SEEN: np.bool_,
    WHERE: str,
    MAX_PER: str,
    DIVERSITY: np.float64,
    DIVERSITY_BY: str,
    CANDIDATES: np.int64,
    **{
        column: dtype
        for name in (ALLOW, EXCLUDE)
        for column, dtype in (
            (name, np.int64),
            (count_of(name), np.int64),
            (state_of(name), np.int8),
        )
    },
}
"""The columns of a request that the selection of the items reads, with their types."""
NO_COLUMNS = ItemColumns({}, 0)


class FaissTopK(ServedOperator):
    """Selects the k items with the highest inner products that the user has not seen.

    The output is codes of items int64 [n, max k] and scores float32 of the same shape, descending;
    equal scores are ordered by item id. A row that asks for fewer items, or has fewer left, ends in
    -1 and -inf.

    Parameters
    ----------
    index_dir : Path
        Folder that `serving.runtime.index.build_index` wrote.
    seen : SeenItems
        The items that `filter_seen` removes, with one row per row of the user table.
    row, vector : str
        Names of the columns with the user's row and the query vector.
    history : str or None
        Name of the feature that lists items. Items that a request lists there count as seen, too.
    item_id : str
        Name of the output column of item ids.
    towers_sha256 : str
        Hash of the towers; the index of other towers is refused.
    columns : ItemColumns, optional
        The columns by which a request may filter, of the items of the index in its order.

    Attributes
    ----------
    denied : ndarray of int64
        Codes of items that are in no answer.
    """

    def __init__(
        self,
        index_dir: Path,
        seen: SeenItems,
        *,
        row: str,
        vector: str,
        history: str | None,
        item_id: str,
        towers_sha256: str,
        columns: ItemColumns = NO_COLUMNS,
    ) -> None:
        super().__init__()
        self.columns, self.denied = columns, np.zeros(0, np.int64)
        self.index_dir, self.seen = Path(index_dir), seen
        self.row, self.vector, self.history, self.item_id = row, vector, history, item_id
        self.towers_sha256 = towers_sha256

    @property
    def parameters(self) -> list[str]:
        """The columns of a request that the selection reads."""
        given = [] if self.history is None else [self.history, count_of(self.history)]
        return [*PARAMETERS, *given]

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        return Schema(
            [
                ColumnSchema(self.item_id, dtype=np.int64, dims=(None, None)),
                ColumnSchema(SCORE, dtype=np.float32, dims=(None, None)),
            ]
        )

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        index = self.index
        scores, positions = index.search(columns[self.vector], len(index.item_ids))
        columns = self._for_ranking(columns)
        shape = (len(scores), columns[K].max())
        items, top = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        seen = self.seen.rows(columns[self.row])
        given: Sequence[Sequence[int] | np.ndarray] = [()] * len(scores)
        if self.history is not None:
            given = split_rows(columns[self.history], columns[count_of(self.history)])
        allowed = self._allowed(columns)
        for row in range(len(scores)):
            keep = allowed[row]
            if columns[FILTER_SEEN][row]:
                keep &= ~np.isin(index.item_ids, [*seen[row], *given[row]])
            kept = keep[positions[row]]
            best, score = self._chosen(columns, row, positions[row][kept], scores[row][kept])
            items[row, : len(best)], top[row, : len(best)] = index.item_ids[best], score
        return TensorTable({self.item_id: items, SCORE: top})

    @staticmethod
    def _for_ranking(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Have rows that the ranking model orders ask for their candidates, diverse or not."""
        ranked = columns[CANDIDATES] > 0
        return {
            **columns,
            K: np.where(ranked, columns[CANDIDATES], columns[K]),
            DIVERSITY: np.where(ranked, 0, columns[DIVERSITY]),
            MAX_PER: np.where(ranked, "", columns[MAX_PER]),
        }

    def similar(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer a table of requests for similar items, see the runtime's operator of this name."""
        index, units = self.index, self.units
        asked = split_rows(columns[SIMILAR_TO], columns[count_of(SIMILAR_TO)])
        sums = np.stack([units[np.isin(index.item_ids, own)].sum(axis=0) for own in asked])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        scores = sums / np.where(norms > 0, norms, 1) @ units.T
        shape = (len(asked), columns[K].max())
        items, top = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        allowed = self._allowed(columns)
        for row, own in enumerate(asked):
            keep = allowed[row] & ~np.isin(index.item_ids, own)
            keep &= np.isin(own, index.item_ids).any()
            kept = np.flatnonzero(keep)[np.argsort(-scores[row][keep], kind="stable")]
            best, score = self._chosen(columns, row, kept, scores[row][kept])
            items[row, : len(best)], top[row, : len(best)] = index.item_ids[best], score
        return {self.item_id: items, SCORE: top}

    @cached_property
    def units(self) -> np.ndarray:
        """The vectors of the items float32 [n_items, D], scaled to length 1."""
        lengths = np.linalg.norm(self.index.vectors, axis=1, keepdims=True)
        return self.index.vectors / np.where(lengths > 0, lengths, 1)

    def _allowed(self, columns: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return for each row which items its filters allow, as bool [n_items]."""
        ids, allowed = self.index.item_ids, []
        allow, exclude = (split_rows(columns[name], columns[count_of(name)]) for name in LISTS)
        for row, where in enumerate(columns[WHERE]):
            keep = ~(np.isin(ids, exclude[row]) | np.isin(ids, self.denied))
            if columns[state_of(ALLOW)][row] == VALUE:
                keep &= np.isin(ids, allow[row])
            if where:
                keep &= self.columns.matching(parse(where, self.columns.kinds))
            allowed.append(keep)
        return allowed

    def _chosen(
        self, columns: Mapping[str, np.ndarray], row: int, positions: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and scores of the answer to a row, of a list with the best first."""
        wishes = Wishes(
            k=columns[K][row],
            diversity=columns[DIVERSITY][row],
            by=columns[DIVERSITY_BY][row],
            max_per=columns[MAX_PER][row],
        )
        if not wishes.diversity and not wishes.max_per:
            return positions[: wishes.k], scores[: wishes.k]
        total, chosen = len(self.index.item_ids), []
        for size in (pool_size(wishes.k, total), total):
            pool = positions[:size]
            chosen = wishes.choose(pool, scores[:size], self.units[pool], self.columns)
            if len(chosen) == wishes.k:
                break
        return positions[chosen], scores[chosen]

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        self._copy_index(out)
        positions, starts = self.seen.positions(self.index.item_ids)
        np.save(out / "seen.npy", positions)
        np.save(out / "starts.npy", starts)
        self.columns.save(out / FILTERS)
        if self.index.is_exact:
            count, dim = self.index.vectors.shape
            _save_scoring(out / SCORING, count, dim, masked=False)
            _save_scoring(out / MASKED_SCORING, count, dim, masked=True)
        names = ("row", "vector", "history", "item_id", "towers_sha256")
        return {**{name: getattr(self, name) for name in names}, FILTERS: self.columns.kinds}

    def save_artifacts(self, artifact_path: Any = None) -> None:
        if not self.index.is_exact:
            raise ServingError(
                f"{self.index_dir}: serving.runtime merlin sorts all items and needs an exact "
                "index; set serving.index.kind to flat, or serving.runtime to compiled"
            )
        folder = Path(artifact_path) / "index"
        folder.mkdir()
        self._copy_index(folder)

    def _load(self, folder: Path) -> None:
        self.index_dir = folder / "index"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("index", "units")}

    @cached_property
    def index(self) -> ItemIndex | ApproximateIndex:
        """The index, read at its first use."""
        return load_index(self.index_dir, self.towers_sha256)

    def _copy_index(self, folder: Path) -> None:
        for name in (INDEX_FILE, METADATA_FILE):
            shutil.copy(self.index_dir / name, folder / name)


def _save_scoring(path: Path, count: int, dim: int, masked: bool) -> None:
    """Write an ONNX graph that selects the best of `count` items for query vectors [n, dim].

    Hidden scores become -inf before the selection. With a mask, scores are multiplied by SCALE, and
    BIAS is added. Equal scores are ordered by position. The file does not contain the item vectors:
    at load time the session gets those of the index.
    """
    from onnx import TensorProto, helper, save_model

    number, integer = TensorProto.FLOAT, TensorProto.INT64
    items = TensorProto(name=ITEMS, data_type=number, dims=(count, dim))
    items.data_location = TensorProto.EXTERNAL
    items.external_data.add(key="location", value=INDEX_FILE)
    node, value = helper.make_node, helper.make_tensor_value_info
    scores, changes, factors = "products", [], []
    if masked:
        scores = "masked"
        changes = [
            node("Mul", ["products", SCALE], ["scaled"]),
            node("Add", ["scaled", BIAS], [scores]),
        ]
        # Without a shape: one number or row for all, or a row for each.
        factors = [value(SCALE, number, None), value(BIAS, number, None)]
    graph = helper.make_graph(
        [
            node("Gemm", [VECTORS, ITEMS], ["products"], transB=1),
            *changes,
            node("Reshape", [scores, "flat"], ["one row"]),
            node("Shape", [HIDDEN_SCORES], ["how many"]),
            node("Expand", ["lowest", "how many"], ["lowest of each"]),
            node("ScatterElements", ["one row", HIDDEN_SCORES, "lowest of each"], ["kept"]),
            node("Reshape", ["kept", "by item"], ["unseen"]),
            node("TopK", ["unseen", SIZE], [SCORES, POSITIONS]),
        ],
        "top_k",
        [
            value(VECTORS, number, [None, dim]),
            value(HIDDEN_SCORES, TensorProto.INT32, [None]),
            value(SIZE, integer, [1]),
            *factors,
        ],
        [value(SCORES, number, [None, None]), value(POSITIONS, integer, [None, None])],
        [
            items,
            helper.make_tensor("flat", integer, [1], [-1]),
            helper.make_tensor("by item", integer, [2], [-1, count]),
            helper.make_tensor("lowest", number, [1], [-np.inf]),
        ],
    )
    opset = helper.make_opsetid("", ONNX_OPSET)
    save_model(helper.make_model(graph, opset_imports=[opset], ir_version=ONNX_IR), path)
