"""Make the tables of interactions, users and items from the columns of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids
from twotower.workflows.sources.files.reader import TableReader
from twotower.workflows.sources.findings import Findings
from twotower.workflows.tables import repeated_pairs
from twotower.workflows.vectors import VECTOR

NO_VECTORS: Mapping[str, int] = MappingProxyType({})


def rows_to_keep(
    user_ids: pa.Array,
    item_ids: pa.Array,
    reader: TableReader,
    duplicates: str,
    findings: Findings,
) -> np.ndarray:
    """Choose the interactions to keep where pairs are repeated.

    Parameters
    ----------
    user_ids, item_ids : Array, shape (n,)
        As given.
    reader : TableReader
        Where the interactions are, for messages.
    duplicates : str
        "error", "keep_last" or "keep_all".
    findings : Findings
        Gets the number of repeated rows.

    Returns
    -------
    ndarray of int64
        Row numbers, ascending.

    Raises
    ------
    DataError
        If a pair is repeated and `duplicates` is "error".
    """
    kept = np.ones(len(user_ids), dtype=bool)
    # The last row of a pair is its first in reverse order.
    step = -1 if duplicates == "keep_last" else 1
    users, items = (Ids.of(ids).encode(ids) for ids in (user_ids, item_ids))
    repeats, firsts = repeated_pairs(users[::step], items[::step])
    if not len(repeats):
        return np.flatnonzero(kept)
    if duplicates == "error":
        row, first = int(repeats[0]), int(firsts[0])
        raise DataError(
            f"{reader.place(row)}: user_id {user_ids[row].as_py()!r} and item_id "
            f"{item_ids[row].as_py()!r} occur already in {reader.place(first)} "
            f"({len(repeats):,} rows repeat a pair); remove one, or set ingest."
            "files.duplicates to keep_last or keep_all"
        )
    done = "all are kept"
    if duplicates == "keep_last":
        done = "only the last row of each pair is kept"
        kept[len(kept) - 1 - repeats] = False
    text = f"{len(repeats):,} of {len(kept):,} rows repeat a user_id and item_id; {done}"
    findings.note("repeated_pairs", len(repeats), text)
    return np.flatnonzero(kept)


class Log:
    """The interactions, as a place where features of users or items may be.

    Parameters
    ----------
    reader : TableReader
    key : str
        "user_id" or "item_id".
    ids : Array, shape (n,)
        The ids of the interactions, as given.
    differing : str
        The setting `differing`.
    findings : Findings
        Gets the number of ids that have more than one value of a feature.
    """

    def __init__(
        self,
        reader: TableReader,
        key: str,
        ids: pa.Array,
        differing: str,
        findings: Findings,
    ):
        self.reader, self.ids, self._key = reader, ids, key
        self._differing, self._findings = differing, findings

    def last_values(self, name: str, codes: np.ndarray, wanted: np.ndarray) -> pa.ChunkedArray:
        """The value of a column in the last interaction of each wanted id that has one.

        Parameters
        ----------
        name : str
        codes : ndarray of int64, shape (n,)
            The code of each interaction's id.
        wanted : ndarray of int64, shape (m,)

        Returns
        -------
        ChunkedArray, shape (m,)
            Null for an id without a value in any interaction.

        Raises
        ------
        DataError
            If an id has more than one value and `differing` is "error".
        """
        column = self.reader.column(name)
        known = np.flatnonzero(column.values.is_valid().to_numpy())
        if not len(known):
            return pa.chunked_array([pa.nulls(len(wanted), column.values.type)])
        unique, from_end, position = np.unique(
            codes[known][::-1], return_index=True, return_inverse=True
        )
        last_rows, position = known[len(known) - 1 - from_end], position[::-1]
        numbers = _codes(column.values)
        differs = numbers[known] != numbers[last_rows][position]
        if differs.any():
            place = int(differs.argmax())
            row = int(known[place])
            values = [column.values[each] for each in (row, int(last_rows[position[place]]))]
            count = len(np.unique(codes[known][differs]))
            total = len(np.unique(codes))
            self._say_that_values_differ(column.place(row), name, row, values, count, total)
        places = np.searchsorted(unique, wanted)
        places[places == len(unique)] = 0
        unknown = unique[places] != wanted
        return column.values.take(pa.array(last_rows[places], mask=unknown))

    def _say_that_values_differ(
        self, place: str, name: str, row: int, values: list[pa.Scalar], count: int, total: int
    ) -> None:
        side = self._key.partition("_")[0]
        found = f"{count:,} of {total:,} {side}s have more than one value"
        if self._differing == "error":
            value, last = (each.as_py() for each in values)
            advice = (
                f"Make a table with one row per {side} and name it under ingest.files.{side}s, or "
                "set ingest.files.differing to keep_last, which may use rows of the test part and "
                "make test metrics too high"
            )
            if side == "user":
                advice += (
                    ". If it is of the interaction and not of the user, name it under "
                    "features.context or context_numeric"
                )
            raise DataError(
                f"{place}: {value!r} for {self._key} {self.ids[row].as_py()!r}, which has {last!r} "
                f"in a later row; {found}. {advice}"
            )
        self._findings.note(
            "differing_values",
            count,
            f"column {name}: {found}; the last value is used, which may be in the test part",
        )


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Number the values of a column: equal values, and nulls, have equal numbers."""
    if column.type == VECTOR:
        vectors = [None if row is None else row.tobytes() for row in column.to_pandas()]
        return pd.factorize(pd.Series(vectors, dtype=object))[0]
    if pa.types.is_list(column.type):
        rows = [None if row is None else tuple(row) for row in column.to_pylist()]
        return pd.factorize(pd.Series(rows, dtype=object))[0]
    if pa.types.is_floating(column.type):  # Arrow would distinguish 0.0 from -0.0
        return pd.factorize(column.to_numpy())[0]
    encoded = column.dictionary_encode().unify_dictionaries()
    codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in encoded.chunks]
    return np.concatenate(codes)


def side_table(
    log: Log | None,
    given: TableReader | None,
    key: str,
    columns: Sequence[str],
    kind: pa.DataType | None,
    findings: Findings,
    vectors: Mapping[str, int] = NO_VECTORS,
) -> pa.Table:
    """Make the table of users or items.

    Parameters
    ----------
    log : Log or None
        The interactions, if there are any.
    given : TableReader or None
        The file with one row per user or item, if there is one.
    key : str
        "user_id" or "item_id".
    columns : sequence of str
        The columns, each in `given` or else in the interactions.
    kind : DataType or None
        The type that the ids must have.
    findings : Findings
        Gets the number of repeated ids in `given`.
    vectors : mapping of str to int, optional
        The columns of vectors, with their length. They can only be in `given`.

    Returns
    -------
    Table
        One row per id: the ids of `given`, then, if a column is read from the interactions, the
        other ids there, without the values that only `given` has.

    Raises
    ------
    DataError
        If a column is in neither, or an id is wrong.
    """
    here = [name for name in columns if given is not None and name in given]
    others = [name for name in columns if name not in here]
    for name in others:
        if log is None or name not in log.reader or name in vectors:
            raise _not_found(name, key, [each for each in (given, log and log.reader) if each])
    parts: list[pa.Array] = []
    values: dict[str, pa.ChunkedArray] = {}
    if given is not None:
        given.keep_complete([key])
        ids = given.ids(key, kind)
        values = {
            name: given.vectors(name, vectors[name], key, ids)
            if name in vectors
            else given.column(name).values
            for name in here
        }
        rows = _one_row_per_id(given, key, ids, values, findings)
        parts.append(ids.take(rows))
        values = {name: column.take(rows) for name, column in values.items()}
    if log is not None and (others or given is None):
        numbers = Ids.of(*parts, log.ids)
        codes = numbers.encode(log.ids)
        known = [numbers.encode(part) for part in parts]
        unique, rows = np.unique(codes, return_index=True)
        new = ~np.isin(unique, known[0]) if known else np.ones(len(unique), dtype=bool)
        parts.append(log.ids.take(pa.array(rows[new])))
        wanted = np.concatenate([*known, unique[new]])
        values = {name: _padded(column, len(wanted)) for name, column in values.items()}
        values |= {name: log.last_values(name, codes, wanted) for name in others}
    return pa.table({key: pa.chunked_array(parts), **{name: values[name] for name in columns}})


def _padded(column: pa.ChunkedArray, length: int) -> pa.ChunkedArray:
    """Append nulls up to `length`."""
    nulls = pa.nulls(length - len(column), column.type)
    return pa.chunked_array([*column.chunks, nulls], column.type)


def _one_row_per_id(
    given: TableReader,
    key: str,
    ids: pa.Array,
    values: dict[str, pa.ChunkedArray],
    findings: Findings,
) -> np.ndarray:
    """The last row of each id, ascending; repeated ones are counted."""
    codes = Ids.of(ids).encode(ids)
    repeats, lasts = repeated_pairs(codes[::-1], np.zeros_like(codes))
    repeats, lasts = len(codes) - 1 - repeats, len(codes) - 1 - lasts
    differ = np.zeros(len(repeats), dtype=bool)
    for column in values.values() if len(repeats) else ():
        numbers = _codes(column)
        differ |= numbers[repeats] != numbers[lasts]
    exact, other = int((~differ).sum()), int(differ.sum())
    findings.changed(
        "repeated_rows",
        exact,
        f"{exact:,} of {len(codes):,} rows of {given.path} repeat a row of the same {key} with the "
        "same values",
        "they are left out",
    )
    if other:
        row = int(repeats[differ][-1])
        last = int(lasts[differ][-1])
        findings.changed(
            "differing_rows",
            other,
            f"{other:,} of {len(codes):,} rows of {given.path} have the {key} of a later row but "
            f"other values, such as {ids[row].as_py()!r} in {given.place(row)} and "
            f"{given.place(last)}",
            "the last row of each is used",
        )
    kept = np.ones(len(codes), dtype=bool)
    kept[repeats] = False
    return np.flatnonzero(kept)


def _not_found(name: str, key: str, readers: list[TableReader]) -> DataError:
    there = "; ".join(f"{each.path} has {', '.join(each.table.names)}" for each in readers)
    return DataError(
        f"no column {name} for the {key.partition('_')[0]}s: {there}. Correct the name under "
        f"features or show, or map it: ingest.files.columns: {{{name}: <name in the file>}}"
    )
