"""The common features: all of them in contexts.parquet, and in memory what impressions need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.sources.ali_ccp.conversion.columns import weights_of
from twotower.workflows.sources.ali_ccp.conversion.cut import cut_lists
from twotower.workflows.sources.ali_ccp.conversion.parts import replacing
from twotower.workflows.sources.ali_ccp.fields import USER

INDEX = "common_feature_index"
_COMMON, _PART, _HASH, _LINE = "common", "part", "hash", "line"
_STORAGE = {"use_dictionary": [_PART, *(field.name for field in USER)]}
"""Long lists are not stored as dictionaries, which are slow to write."""


@dataclass(frozen=True)
class Contexts:
    """What is in memory of contexts.parquet, by the number of the row.

    Attributes
    ----------
    path : Path
    single : dict of str to ndarray of int64, shape (n,)
        user_id and the features with one value; -1 if there is none.
    train : int
        The number of rows from the training file, which are the first.
    order, keys : dict of str to ndarray
        For each part, its rows by ascending index, and these indices.
    """

    path: Path
    single: dict[str, np.ndarray]
    train: int
    order: dict[str, np.ndarray]
    keys: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path, names: Sequence[str]) -> Contexts:
        """Read what impressions need.

        Parameters
        ----------
        path : Path
            contexts.parquet.
        names : sequence of str
            The columns with one value.
        """
        table = pq.read_table(path, columns=[INDEX, _PART, *names])
        single = {name: table[name].fill_null(-1).to_numpy() for name in names}
        parts = table[_PART].cast(pa.string())
        order, keys = {}, {}
        for part in ("train", "test"):
            rows = np.flatnonzero(pc.equal(parts, part).to_numpy())
            texts = table[INDEX].take(pa.array(rows)).to_numpy().astype("S32")
            by = np.argsort(texts, kind="stable")
            order[part], keys[part] = rows[by], texts[by]
        return cls(path, single, len(order["train"]), order, keys)

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self.order.values()))

    def find(self, part: str, indices: np.ndarray) -> np.ndarray:
        """Find the rows with given indices.

        Parameters
        ----------
        part : str
        indices : ndarray of bytes, shape (n,)

        Returns
        -------
        ndarray of int64, shape (n,)
            -1 for an unknown index.
        """
        keys = self.keys[part]
        if not len(keys) or not len(indices):
            return np.full(len(indices), -1)
        # Most lines have the index of the line before.
        starts = np.flatnonzero(np.append(True, indices[1:] != indices[:-1]))
        wanted = indices[starts]
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = np.where(keys[place] == wanted, self.order[part][place], -1)
        return np.repeat(found, np.diff(np.append(starts, len(indices))))

    def last_of_users(self) -> np.ndarray:
        """The row of each user that describes it: the last of the training part, if there is one.

        Returns
        -------
        ndarray of int64
            Ascending.
        """
        users = self.single["user_id"]
        rows = np.concatenate([np.arange(self.train, len(users)), np.arange(self.train)])
        # In reverse order the first of a user is the last one, and those of train come first.
        first = np.unique(users[rows][::-1], return_index=True)[1]
        return np.sort(rows[::-1][first])


def differing_users(users: np.ndarray, hashes: np.ndarray) -> tuple[int, int]:
    """Count the users whose rows differ, and all of them."""
    order = np.lexsort((hashes, users))
    users, hashes = users[order], hashes[order]
    same_user = users[1:] == users[:-1]
    differ = np.unique(users[1:][same_user & (hashes[1:] != hashes[:-1])])
    return len(differ), int(len(users) and len(users) - same_user.sum())


def write_contexts(
    out: Path,
    files: Mapping[str, Sequence[Path]],
    keep: Mapping[str, Sequence[np.ndarray]],
    on_block: Callable[[], None],
) -> None:
    """Write contexts.parquet from the converted blocks.

    Parameters
    ----------
    out : Path
    files : mapping of str to sequence of Path
        The blocks by part.
    keep : mapping of str to sequence of ndarray of bool
        The rows of each block that are kept.
    on_block : callable
        Called after each block.
    """
    first = pq.read_table(next(path for paths in files.values() for path in paths))
    schema = _with_part(first.slice(0, 0), 0, False).schema.remove_metadata()
    written = 0
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema, **_STORAGE) as writer:
        for part, paths in files.items():
            for path, kept in zip(paths, keep[part], strict=True):
                table = pq.read_table(path)
                if not kept.all():
                    table = table.filter(pa.array(kept))
                writer.write_table(_with_part(table, written, part == "test").cast(schema))
                written += len(table)
                on_block()


def _with_part(table: pa.Table, start: int, is_test: bool) -> pa.Table:
    """Add the number of each row and its part to a block."""
    numbers = pa.array(np.arange(start, start + len(table)))
    codes = np.full(len(table), is_test, dtype=np.int8)
    table = table.drop([_HASH, _LINE]).add_column(0, _COMMON, numbers)
    return table.append_column(_PART, parts_of(codes))


def parts_of(codes: np.ndarray) -> pa.DictionaryArray:
    """Make the column `part` from codes: 0 for train, 1 for test."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), ["train", "test"])


def user_table(
    contexts: Contexts, columns: Sequence[str], multiple: Sequence[str], length: int
) -> pa.Table:
    """Make the table of users.

    Parameters
    ----------
    contexts : Contexts
    columns : sequence of str
        The features.
    multiple : sequence of str
        Those with lists, which get a further column with weights.
    length : int
        Maximum length of the lists (see `cut_lists`).

    Returns
    -------
    Table
        By ascending number of the row in contexts.parquet.
    """
    rows = contexts.last_of_users()
    found = {
        name: pa.array(values, mask=values < 0)
        for name in ("user_id", *columns)
        if name not in multiple
        for values in (contexts.single[name][rows],)
    }
    wanted = [name for name in columns if name in multiple]
    cut: dict[str, list[pa.Array]] = {
        name: [] for each in wanted for name in (each, weights_of(each))
    }
    start = 0
    with pq.ParquetFile(contexts.path) as file:
        for group in range(file.num_row_groups if wanted else 0):
            table = file.read_row_group(group, columns=list(cut))
            here = rows[(rows >= start) & (rows < start + len(table))] - start
            start += len(table)
            table = table.take(pa.array(here)).combine_chunks()
            for name in wanted:
                features, weights = cut_lists(
                    _one(table[name]), _one(table[weights_of(name)]), length
                )
                cut[name].append(features)
                cut[weights_of(name)].append(weights)
    return pa.table({**found, **{name: pa.chunked_array(chunks) for name, chunks in cut.items()}})


def _one(column: pa.ChunkedArray) -> pa.Array:
    """The only chunk of a column."""
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
