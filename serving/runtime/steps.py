"""The operators of the served graph as they run in production: NumPy, ONNX Runtime and FAISS.

Each step is made from its folder of arrays and its entry in plan.json, and maps columns to
columns. `serving.operators` holds the reference of each and writes what is read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime

from ..index import load_index
from .arrays import find, load_column
from .contract import ABSENT, FILTER_SEEN, SCORE, VALUE, K, Table, state_of
from .seen import SeenItems

OUT_OF_VOCABULARY = 2
"""Categorify's index of a value that the training data did not hold."""


class UserFeatures:
    """Completes the features a request leaves out from the table of known users."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.user_id = entry["user_id"]
        self.user_ids = np.load(folder / "user_ids.npy")
        self.stored = {
            name: (load_column(folder / stem), np.load(folder / f"{stem}.state.npy"))
            for name, stem in entry["features"].items()
        }

    def run(self, columns: Table) -> Table:
        row, known = find(self.user_ids, columns[self.user_id])
        completed = {self.user_id: columns[self.user_id]}
        for name, (values, states) in self.stored.items():
            state = columns[state_of(name)]
            missing = state == ABSENT
            completed[name] = np.where(missing, values[row], columns[name])
            completed[state_of(name)] = np.where(missing & known, states[row], state)
        return completed


class EncodeFeatures:
    """Categorify: raw values to the indices of their embeddings."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.vocabularies = {}
        for name, stem in entry["columns"].items():
            keys, codes = load_column(folder / stem), np.load(folder / f"{stem}.codes.npy")
            self.vocabularies[name] = (
                StringVocabulary(keys, codes)
                if keys.dtype == object
                else NumberVocabulary(keys, codes)
            )

    def run(self, columns: Table) -> Table:
        encoded = {}
        for name, vocabulary in self.vocabularies.items():
            codes = vocabulary.encode(columns[name])
            state = columns.get(state_of(name))
            encoded[name] = codes if state is None else np.where(state == VALUE, codes, state)
        return encoded


class NumberVocabulary:
    """Ascending keys [v] beside their codes int64 [v]."""

    def __init__(self, keys: np.ndarray, codes: np.ndarray) -> None:
        self.keys, self.codes = keys, np.append(codes, OUT_OF_VOCABULARY)

    def encode(self, values: np.ndarray) -> np.ndarray:
        # Categorify, too, compares in the type of the vocabulary.
        position, known = find(self.keys, values.astype(self.keys.dtype, copy=False))
        return self.codes[np.where(known, position, -1)]


class StringVocabulary:
    """Keys [v] (str) beside their codes int64 [v], as a dictionary."""

    def __init__(self, keys: np.ndarray, codes: np.ndarray) -> None:
        self.codes = dict(zip(keys.tolist(), codes.tolist(), strict=True))

    def encode(self, values: np.ndarray) -> np.ndarray:
        code = self.codes.get
        return np.array([code(value, OUT_OF_VOCABULARY) for value in values], np.int64)


class QueryTower:
    """The query tower as ONNX: indices int64 [n] in, vectors float32 [n, D] out."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # An idle pool that spins takes the core Triton and FAISS need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            str(folder / entry["model"]), options, providers=["CPUExecutionProvider"]
        )
        self.names = [value.name for value in self.session.get_inputs()]
        self.vector = entry["vector"]

    def run(self, columns: Table) -> Table:
        feed = {name: columns[name].astype(np.int64, copy=False) for name in self.names}
        return {self.vector: self.session.run(None, feed)[0]}


class FaissTopK:
    """The k items of the highest inner product that the user has not seen."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        # More OpenMP threads than the model was given slow each other down by two orders.
        faiss.omp_set_num_threads(threads)
        self.index = load_index(folder, entry["towers_sha256"])
        self.seen = SeenItems.load(folder).positions(self.index.item_ids)
        self.user_id, self.vector = entry["user_id"], entry["vector"]
        self.item_id = entry["item_id"]

    def run(self, columns: Table) -> Table:
        k, count = columns[K], len(self.index.item_ids)
        start, stop = self.seen.rows(columns[self.user_id])
        stop = np.where(columns[FILTER_SEEN], stop, start)
        items = np.full((len(k), k.max()), -1, np.int64)
        scores = np.full(items.shape, -np.inf, np.float32)
        # Fetching k and as many as the user has seen always fills k. Rows are searched together
        # with rows of a like need, so that one heavy user does not cost the whole batch.
        need = 2 ** np.ceil(np.log2(k + stop - start)).astype(np.int64)
        fetch = np.minimum(need, count)
        for size in np.unique(fetch):
            rows = np.flatnonzero(fetch == size)
            found = self.index.search(columns[self.vector][rows], int(size))
            is_seen = np.zeros(count, bool)
            for row, score, position in zip(rows, *found, strict=True):
                if stop[row] > start[row]:
                    seen = self.seen.item_ids[start[row] : stop[row]]
                    is_seen[seen] = True
                    unseen = ~is_seen[position]
                    is_seen[seen] = False
                    score, position = score[unseen], position[unseen]
                score, position = score[: k[row]], position[: k[row]]
                items[row, : len(position)] = self.index.item_ids[position]
                scores[row, : len(position)] = score
        return {self.item_id: items, SCORE: scores}


STEPS = {step.__name__: step for step in (UserFeatures, EncodeFeatures, QueryTower, FaissTopK)}
