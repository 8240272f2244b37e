"""Encodes raw features as the user half of the NVTabular workflow does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import find, first_values, load_column
from ..contract import VALUE, Table, count_of, state_of

OUT_OF_VOCABULARY = 2
"""Categorify's index of a value that is not in the training data."""


class EncodeFeatures:
    """Categorify, ListSlice and Normalize: raw values to embedding indices and scaled numbers.

    Indices are int64 [n], numbers float32 [n]. The indices of a list feature are those of all rows,
    one row after the other, with the counts int64 [n].
    """

    def __init__(self, folder: Path, entry: dict[str, Any], threads: int) -> None:
        self.vocabularies: dict[str, StringVocabulary | NumberVocabulary] = {}
        for name, stem in entry["vocabularies"].items():
            keys, codes = load_column(folder / stem), np.load(folder / f"{stem}.codes.npy")
            self.vocabularies[name] = (
                StringVocabulary(keys, codes)
                if keys.dtype == object
                else NumberVocabulary(keys, codes)
            )
        self.moments, self.lists = entry["moments"], entry["lists"]
        self.vectors = [each for name in entry["vectors"] for each in (name, count_of(name))]

    def run(self, columns: Table) -> Table:
        encoded = {name: columns[name] for name in self.vectors}
        for name, vocabulary in self.vocabularies.items():
            if name in self.lists:
                counts = columns[count_of(name)]
                values, counts = first_values(columns[name], counts, self.lists[name])
                encoded[name], encoded[count_of(name)] = vocabulary.encode(values), counts
                continue
            codes = vocabulary.encode(columns[name])
            state = columns.get(state_of(name))
            encoded[name] = codes if state is None else np.where(state == VALUE, codes, state)
        for name, (mean, std) in self.moments.items():
            numbers = ((columns[name] - mean) / std).astype(np.float32)
            encoded[name] = np.where(columns[state_of(name)] == VALUE, numbers, np.float32(0))
        return encoded


class NumberVocabulary:
    """Ascending keys [v] and their codes int64 [v]."""

    def __init__(self, keys: np.ndarray, codes: np.ndarray) -> None:
        self.keys, self.codes = keys, np.append(codes, OUT_OF_VOCABULARY)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes int64 [n] of `values` [n]."""
        # In the type of the vocabulary, as Categorify compares.
        position, known = find(self.keys, values.astype(self.keys.dtype, copy=False))
        return self.codes[np.where(known, position, -1)]


class StringVocabulary:
    """Keys [v] (str) and their codes int64 [v], as a dictionary."""

    def __init__(self, keys: np.ndarray, codes: np.ndarray) -> None:
        self.codes = dict(zip(keys.tolist(), codes.tolist(), strict=True))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes int64 [n] of `values` [n]."""
        code = self.codes.get
        return np.array([code(value, OUT_OF_VOCABULARY) for value in values], np.int64)
