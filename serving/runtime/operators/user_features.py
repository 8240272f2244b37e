"""Adds to a request the stored features of its users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import load_column, ranges
from ..contract import ABSENT, FILLER, Table, count_of, row_of, state_of
from ..tensors import TYPES


class UserFeatures:
    """Takes the features that a request does not give from the user table.

    Features of the context are not in the table: if a request does not give one, it is `ABSENT`.

    The last row of the table is for unknown users. A list feature is stored as the values of all
    users, one user after the other.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.user_id = entry["user_id"]
        self.stored, self.lists = {}, {}
        for name, stem in entry["features"].items():
            values, dtype = load_column(folder / stem), entry["dtypes"][name]
            state = np.load(folder / f"{stem}.state.npy")
            self.stored[state_of(name)] = np.append(state, np.int8(ABSENT))
            if name in entry["lists"]:
                counts = np.append(np.load(folder / f"{stem}.count.npy"), 0)
                self.lists[name] = _narrowed(values), np.cumsum(counts) - counts, counts
            else:
                self.stored[name] = np.append(values, np.array(FILLER[dtype], values.dtype))
        self.context = entry["context"]
        self.features = [*entry["features"], *self.context]

    def run(self, columns: Table) -> Table:
        row = columns[row_of(self.user_id)]
        completed = {self.user_id: columns[self.user_id]}
        for name, dtype in self.context.items():
            if state_of(name) in columns:
                completed |= {column: columns[column] for column in (name, state_of(name))}
            else:
                completed[name] = np.full(len(row), FILLER[dtype], TYPES[dtype])
                completed[state_of(name)] = np.full(len(row), ABSENT, np.int8)
        for name in self.features:
            if name in self.context:
                continue
            if state_of(name) not in columns:
                completed.update(self._of_rows(name, row))
                continue
            absent = columns[state_of(name)] == ABSENT
            if name in self.lists:
                completed[name], completed[count_of(name)] = self._lists(name, row, absent, columns)
            else:
                completed[name] = np.where(absent, self.stored[name][row], columns[name])
            state = self.stored[state_of(name)][row]
            completed[state_of(name)] = np.where(absent, state, columns[state_of(name)])
        return completed

    def stored_list(self, name: str, row: int) -> np.ndarray:
        """Return the stored values of a list feature in a row."""
        values, starts, counts = self.lists[name]
        return values[starts[row] : starts[row] + counts[row]]

    def _of_rows(self, name: str, row: np.ndarray) -> Table:
        """Return the stored columns of a feature that no request gives."""
        columns = {state_of(name): self.stored[state_of(name)][row]}
        if name not in self.lists:
            return {**columns, name: self.stored[name][row]}
        stored, starts, stored_counts = self.lists[name]
        counts = stored_counts[row]
        return {**columns, name: stored[ranges(starts[row], counts)], count_of(name): counts}

    def _lists(
        self, name: str, row: np.ndarray, absent: np.ndarray, columns: Table
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and counts: the stored ones in the `absent` rows, else the request's."""
        stored, starts, stored_counts = self.lists[name]
        counts = np.where(absent, stored_counts[row], columns[count_of(name)])
        from_table = np.repeat(absent, counts)
        values = np.empty(len(from_table), columns[name].dtype)
        values[from_table] = stored[ranges(starts[row[absent]], counts[absent])]
        values[~from_table] = columns[name]
        return values, counts


def _narrowed(values: np.ndarray) -> np.ndarray:
    """Return integers as int32 if all of them fit, which takes half the memory."""
    limits = np.iinfo(np.int32)
    if values.dtype != np.int64 or not len(values):
        return values
    fits = limits.min <= values.min() and values.max() <= limits.max
    return values.astype(np.int32) if fits else values
