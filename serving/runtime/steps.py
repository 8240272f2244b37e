"""The operators of the served graph as they run in production: NumPy, ONNX Runtime and FAISS.

Each step is made from its folder of arrays and its entry in plan.json, and maps columns to
columns. `serving.operators` holds the reference of each and writes what is read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .arrays import expand, find, load_column
from .contract import ABSENT, NO_VALUE, Table, count_of, state_of
from .encode import PADDING, EncodeFeatures
from .step import Step
from .top_k import FaissTopK

VALUES_AT_ONCE = 1 << 16
"""Of a list, embedded in memory at a time: 32 MB at 128 dimensions."""
KNOWN, UNKNOWN = (("twotower_users_total", "known", value) for value in ("true", "false"))


class UserFeatures(Step):
    """Completes the features a request leaves out from the table of known users."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.user_id = entry["user_id"]
        self.user_ids = np.load(folder / "user_ids.npy")
        self.stored = {}
        for name, stem in entry["features"].items():
            values, state = load_column(folder / stem), np.load(folder / f"{stem}.state.npy")
            self.stored[name] = {name: values, state_of(name): state}
            if name in entry["lists"]:
                counts = np.load(folder / f"{stem}.count.npy")
                dtype, length = entry["lists"][name]
                self.stored[name][name] = expand(values, counts, length, NO_VALUE[dtype])
                self.stored[name][count_of(name)] = counts
        self.counts = dict.fromkeys((KNOWN, UNKNOWN), 0)

    def run(self, columns: Table) -> Table:
        row, known = find(self.user_ids, columns[self.user_id])
        count = np.count_nonzero(known)
        self.counts[KNOWN] += count
        self.counts[UNKNOWN] += len(known) - count
        completed = {self.user_id: columns[self.user_id]}
        for name, stored in self.stored.items():
            take = known & (columns[state_of(name)] == ABSENT)
            for column, values in stored.items():
                rows = take if values.ndim == 1 else take[:, None]
                completed[column] = np.where(rows, values[row], columns[column])
        return completed


class QueryTower(Step):
    """The query tower as ONNX: what `EncodeFeatures` answers in, vectors float32 [n, D] out."""

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        # 1,000 rows take less than handing them to another thread, which would spin for more.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / entry["model"]), options, providers=["CPUExecutionProvider"]
        )
        inputs = self.session.get_inputs()
        self.names = [value.name for value in inputs]
        # ONNX has a name where a dimension may be any.
        self.any_length = [
            each.name
            for each in inputs
            if len(each.shape) > 1 and not isinstance(each.shape[1], int)
        ]
        self.vector = entry["vector"]

    def run(self, columns: Table) -> Table:
        feed = {name: columns[name] for name in self.names}
        rows = len(next(iter(feed.values())))
        longest = 1
        for name in self.any_length:
            used = np.flatnonzero((feed[name] != PADDING).any(axis=0))
            length = max(1, used[-1] + 1 if len(used) else 0)
            feed[name] = feed[name][:, :length]
            longest = max(longest, length)
        step = max(1, VALUES_AT_ONCE // longest)
        answers = [
            self.session.run(
                None, {name: column[first : first + step] for name, column in feed.items()}
            )[0]
            for first in range(0, rows, step)
        ]
        return {self.vector: answers[0] if len(answers) == 1 else np.concatenate(answers)}


STEPS = {step.__name__: step for step in (UserFeatures, EncodeFeatures, QueryTower, FaissTopK)}
