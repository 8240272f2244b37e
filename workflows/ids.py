"""Ids as given, whole numbers or text, and the int64 codes that stand for them within a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError

TYPES = (pa.int64(), pa.uint64(), pa.string())
"""The types of ids. Smaller integers are int64."""
WORDS = {
    pa.int64(): "whole numbers",
    pa.uint64(): "unsigned whole numbers of 64 bits",
    pa.string(): "text",
}
"""The types of ids in words."""
UNKNOWN = -1
"""The code of a text that is not among the ids."""
_NO_TEXTS = pa.array([], pa.string())


@dataclass(frozen=True)
class Ids:
    """The ids of the users or the items of a run.

    An int64 id is its own code. The code of a uint64 id is the int64 with the same bits. The code
    of a text is its position in a table that only grows, so codes never change.

    Attributes
    ----------
    type : DataType
        int64, uint64 or string.
    texts : Array of string
        The text of each code, from 0; empty for numbers.
    """

    type: pa.DataType = field(default_factory=pa.int64)
    texts: pa.Array = field(default_factory=lambda: _NO_TEXTS)

    @classmethod
    def of(cls, *columns: pa.Array) -> Ids:
        """The ids in columns of one type; texts are sorted by code points."""
        return cls(plain_type(columns[0].type)).extend(*columns)

    def extend(self, *columns: pa.Array) -> Ids:
        """Add the texts in `columns` that are new, sorted, after the ones before."""
        if not pa.types.is_string(self.type):
            return self
        parts = [part for column in columns for part in _distinct_texts(column)]
        found = pa.chunked_array(parts, pa.string()).unique()
        new = found.filter(pc.invert(pc.is_in(found, value_set=self.texts)))
        new = new.take(pc.sort_indices(new))
        return Ids(self.type, pa.concat_arrays([self.texts, *_chunks(new)]))

    def encode(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the code of each id, as int64.

        Parameters
        ----------
        column : Array or ChunkedArray
            Without nulls, of the ids' type or, for text, a dictionary of strings.

        Returns
        -------
        ndarray of int64
            `UNKNOWN` for a text that is not among the ids.

        Raises
        ------
        DataError
            If the column has another type.
        """
        if plain_type(column.type) != self.type:
            raise DataError(f"the ids are {WORDS[self.type]}, not {column.type}")
        if not pa.types.is_string(self.type):
            return column.to_numpy().view(np.int64)
        codes = [np.empty(0, np.int64)]
        for chunk in _chunks(column):
            is_dictionary = pa.types.is_dictionary(chunk.type)
            texts = chunk.dictionary if is_dictionary else chunk
            found = pc.fill_null(pc.index_in(texts, value_set=self.texts), UNKNOWN)
            numbers = found.to_numpy().astype(np.int64)
            codes.append(numbers[chunk.indices.to_numpy()] if is_dictionary else numbers)
        return np.concatenate(codes)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the ids of codes that `encode` returned, in the shape of `codes`.

        Returns
        -------
        ndarray of int64, uint64 or object
            Objects are str.
        """
        if pa.types.is_string(self.type):
            flat = self.texts.take(pa.array(codes.ravel())).to_numpy(zero_copy_only=False)
            return flat.reshape(codes.shape)
        return codes.view(self.type.to_pandas_dtype())

    def parse(self, text: str) -> int | str:
        """Return the id that a person wrote as text, for example on the command line.

        Raises
        ------
        DataError
            If the ids are numbers, and this is none or is out of their range.
        """
        if pa.types.is_string(self.type):
            return text
        limits = np.iinfo(self.type.to_pandas_dtype())
        number = int(text) if re.fullmatch("-?[0-9]+", text) else None
        if number is None or not limits.min <= number <= limits.max:
            raise DataError(
                f"{text!r} is no id of this run: its ids are {WORDS[self.type]} "
                f"({limits.min} to {limits.max})"
            )
        return number

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Return the code of each of `values`, an array that `decode` or a client returned.

        Returns
        -------
        ndarray of int64
            In the shape of `values`; `UNKNOWN` for a text that is not among the ids.

        Raises
        ------
        DataError
            If a value is of another kind.
        """
        return self.encode(self.column(values.ravel())).reshape(values.shape)

    def column(self, values: Iterable[int | str]) -> pa.Array:
        """Return ids as a column of the ids' type, which `encode` takes.

        Raises
        ------
        DataError
            If a value is of another kind.
        """
        is_text = pa.types.is_string(self.type)
        kinds = (str,) if is_text else (int, np.integer)
        integers = isinstance(values, np.ndarray) and values.dtype.kind in "iu" and not is_text
        values = values if integers else list(values)
        for value in () if integers else values:
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise DataError(f"{value!r} is no id of this run: its ids are {WORDS[self.type]}")
        try:
            return pa.array(values).cast(self.type) if integers else pa.array(values, self.type)
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError) as error:
            raise DataError(f"an id does not fit: the ids are {WORDS[self.type]}") from error

    def write(self, path: Path) -> None:
        """Write a parquet file with the column `id`; it has rows only for text."""
        rows = self.texts if pa.types.is_string(self.type) else pa.array([], self.type)
        pq.write_table(pa.table({"id": rows}), path)

    @classmethod
    def read(cls, path: Path) -> Ids:
        """Read what `write` wrote. Runs made before there was such a file have int64 ids."""
        if not path.exists():
            return cls()
        column = pq.read_table(path)["id"]
        if not pa.types.is_string(column.type):
            return cls(column.type)
        return cls(column.type, pa.concat_arrays([_NO_TEXTS, *column.chunks]))


class RunIds(NamedTuple):
    """The ids of a run.

    Attributes
    ----------
    users, items : Ids
    """

    users: Ids
    items: Ids

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The type of each id column."""
        return {"user_id": self.users.type, "item_id": self.items.type}

    def encode(self, table: pa.Table) -> pa.Table:
        """Replace the columns user_id and item_id, where the table has them, by codes."""
        for name, ids in (("user_id", self.users), ("item_id", self.items)):
            place = table.schema.get_field_index(name)
            if place >= 0:
                table = table.set_column(place, name, pa.array(ids.encode(table[name])))
        return table

    def write(self, folder: Path) -> None:
        """Write user_ids.parquet and item_ids.parquet."""
        self.users.write(folder / "user_ids.parquet")
        self.items.write(folder / "item_ids.parquet")

    @classmethod
    def read(cls, folder: Path) -> RunIds:
        """Read what `write` wrote."""
        return cls(Ids.read(folder / "user_ids.parquet"), Ids.read(folder / "item_ids.parquet"))


INTEGERS = RunIds(Ids(), Ids())
"""Ids that are their own codes."""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary, and any other type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _distinct_texts(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """The distinct texts of each chunk, without values that only the dictionary has."""
    return [
        chunk.dictionary.take(chunk.indices.unique())
        if pa.types.is_dictionary(chunk.type)
        else chunk.unique()
        for chunk in _chunks(column)
    ]
