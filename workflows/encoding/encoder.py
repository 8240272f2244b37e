"""Encode the rows of one side as its fitted graph does, by sorted vocabularies.

NVTabular's own transform merges every part of a table with the whole vocabulary of each column.
Here, a number is looked up in the sorted vocabulary and a text in a hash table. Both are built
once per process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.encoding.table import (
    Part,
    StoredPart,
    in_one_piece,
    in_tasks,
    is_list,
    list_lengths,
    read_part,
    stored,
    with_words,
)

if TYPE_CHECKING:
    import nvtabular as nvt

TASK_PARTS = 4
"""Parts of a task, so that the start of a task in another process is small beside its work."""
NULL, UNKNOWN = 1, 2
"""Categorify's codes of a null and of a value that is not in the vocabulary."""


class Vocabulary:
    """The values of a column and their codes.

    Parameters
    ----------
    values : Series
        The values; its index has their codes.
    """

    def __init__(self, values: pd.Series):
        values = values.dropna()
        self.codes = values.index.to_numpy(np.int32)
        self.numbers: np.ndarray | None = None
        self.texts: pd.Index | None = None
        if values.dtype == object or pd.api.types.is_string_dtype(values.dtype):
            self.texts = pd.Index(values.to_numpy(object))
        else:
            numbers = values.to_numpy(values.dtype.type if values.dtype != "Int64" else np.int64)
            order = np.argsort(numbers, kind="stable")
            self.numbers, self.codes = numbers[order], self.codes[order]

    def encode(self, column: pa.Array, null: int) -> np.ndarray:
        """Encode values.

        Parameters
        ----------
        column : Array
            Numbers or texts.
        null : int
            The code of a null.

        Returns
        -------
        ndarray of int32, shape (n,)
        """
        if not len(self.codes) or pa.types.is_null(column.type):
            codes = np.full(len(column), UNKNOWN, np.int32)
        elif self.texts is not None:
            codes = self._encode_texts(column)
        else:
            codes = self._encode_numbers(column)
        if column.null_count:
            codes[column.is_null().to_numpy(zero_copy_only=False)] = null
        return codes

    def _encode_numbers(self, column: pa.Array) -> np.ndarray:
        assert self.numbers is not None
        filled = column.fill_null(0) if column.null_count else column
        numbers = filled.to_numpy(zero_copy_only=False)
        place = np.searchsorted(self.numbers, numbers)
        place[place == len(self.numbers)] = 0
        return np.where(self.numbers[place] == numbers, self.codes[place], np.int32(UNKNOWN))

    def _encode_texts(self, column: pa.Array) -> np.ndarray:
        assert self.texts is not None
        encoded = column.dictionary_encode()
        distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
        place = self.texts.get_indexer(distinct)
        codes = np.where(place >= 0, self.codes[place], np.int32(UNKNOWN))
        if not len(codes):
            return np.full(len(column), UNKNOWN, np.int32)
        return codes[pc.fill_null(encoded.indices, 0).to_numpy()]


@lru_cache(maxsize=256)
def _stored_vocabulary(path: str, column: str, changed: float) -> Vocabulary:
    """Read a vocabulary. The time of its last change tells apart files of one name."""
    return Vocabulary(pd.read_parquet(path, columns=[column])[column])


@dataclass(frozen=True)
class Encoder:
    """What the fitted graph does to each column of a side.

    Attributes
    ----------
    columns : tuple of str
        The output columns in order, by internal names.
    vocabularies : dict of str to str
        The file of the vocabulary of each category and list.
    moments : dict of str to tuple of float
        Mean and standard deviation of each number.
    lengths : dict of str to int
        The number of values that are kept of each list.
    """

    columns: tuple[str, ...]
    vocabularies: dict[str, str]
    moments: dict[str, tuple[float, float]]
    lengths: dict[str, int]

    @classmethod
    def of(cls, workflow: nvt.Workflow, side: str, without: Collection[str] = ()) -> Encoder:
        """Read the Subgraph `side` of a fitted feature graph, without some internal names."""
        from merlin.dag import iter_nodes
        from nvtabular import ops

        graph = workflow.get_subworkflow(side)
        vocabularies: dict[str, str] = {}
        moments: dict[str, tuple[float, float]] = {}
        lengths: dict[str, int] = {}
        for node in iter_nodes([graph.output_node], flatten_subgraphs=True):
            names = [name for name in node.output_schema.column_names if name not in without]
            if isinstance(node.op, ops.Categorify):
                vocabularies |= {name: str(node.op.categories[name]) for name in names}
            elif isinstance(node.op, ops.Normalize):
                moments |= {name: (node.op.means[name], node.op.stds[name]) for name in names}
            elif isinstance(node.op, ops.ListSlice):
                lengths |= {name: node.op.end for name in names}
        columns = tuple(name for name in graph.output_schema.column_names if name not in without)
        return cls(columns, vocabularies, moments, lengths)

    def encode(self, part: Part) -> pa.Table:
        """Encode the rows of a part, keeping their order.

        Parameters
        ----------
        part : Part
            With the columns of the encoder, by internal names.

        Returns
        -------
        Table
            int32 for categories, lists of int32 for lists, float32 for numbers.
        """
        table = read_part(part)
        encoded = {name: self._encode(name, in_one_piece(table[name])) for name in self.columns}
        return pa.table(encoded)

    def encode_each(self, parts: list[Part]) -> list[Part]:
        """Encode several parts, see `encode`; what is read from a file goes to another beside it.

        Sent to the command by Dask, the encoded rows would take longer than their encoding.
        """
        encoded: list[pa.Table] = [self.encode(part) for part in parts]
        first = parts[0]
        if isinstance(first, pa.Table):
            return list(encoded)
        return stored(encoded, first.path.with_name(f"{first.path.name}.encoded.{first.batch}"))

    def _encode(self, name: str, column: pa.Array) -> pa.Array:
        if name in self.moments:
            return pa.array(_normalised(column, *self.moments[name]))
        path = self.vocabularies[name]
        vocabulary = _stored_vocabulary(path, name, Path(path).stat().st_mtime_ns)
        if name not in self.lengths:
            return pa.array(vocabulary.encode(column, NULL))
        values, offsets = first_values(with_words(column), self.lengths[name])
        # NVTabular's merge finds no null, so inside a list it is an unknown value.
        codes = vocabulary.encode(values, UNKNOWN)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes))


def encode_parts(encoder: Encoder, parts: list[Part], run: RunTasks) -> Iterator[pa.Table]:
    """Encode parts in tasks, and yield them in order.

    Parameters
    ----------
    encoder : Encoder
    parts : list of Part
    run : callable
        See `RunTasks`.
    """
    for encoded in run(encoder.encode_each, in_tasks(parts, TASK_PARTS)):
        for part in encoded:
            yield read_part(part)
        if isinstance(part, StoredPart):
            part.path.unlink()


def first_values(column: pa.Array, length: int) -> tuple[pa.Array, np.ndarray]:
    """Return the first `length` values of each list.

    Returns
    -------
    values : Array
        Of all lists.
    offsets : ndarray of int32, shape (n + 1,)
        Where each list begins in `values`, and the last one ends.
    """
    if not is_list(column):
        raise TypeError(f"{column.type} instead of lists")
    sizes = list_lengths(column)
    kept = np.minimum(sizes, length)
    offsets = np.append(0, np.cumsum(kept)).astype(np.int32)
    values = column.flatten()
    if (kept < sizes).any():
        starts = np.cumsum(sizes) - sizes
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], kept)
        values = values.take(pa.array(places))
    return values, offsets


def _normalised(column: pa.Array, mean: float, deviation: float) -> np.ndarray:
    """Do what Normalize and FillMissing(0) do."""
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = (values - mean) / deviation if deviation > 0 else values - mean
    return np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=np.inf, neginf=-np.inf)
