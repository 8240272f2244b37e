"""The items of Ali-CCP: the last features of each, found block by block in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.sources.ali_ccp.conversion.blocks import Parsed
from twotower.workflows.sources.ali_ccp.conversion.columns import list_columns, numbers
from twotower.workflows.sources.ali_ccp.fields import ITEM

HASH, DIFFERS = "hash", "differs"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def items_of_block(parsed: Parsed, kept: np.ndarray) -> pa.Table:
    """Collect the items of a block.

    Parameters
    ----------
    parsed : Parsed
    kept : ndarray of bool, shape (n,)
        The lines that are impressions.

    Returns
    -------
    Table
        By ascending item_id: the features in its last line, a hash of them, and whether an earlier
        line has others.
    """
    rows = np.flatnonzero(kept)
    ids = parsed.single["item_id"][rows]
    hashes = _hashes(parsed)[rows][::-1]  # in reverse order the first row of an item is its last
    unique, first, place = np.unique(ids[::-1], return_index=True, return_inverse=True)
    last = rows[::-1][first]
    differs = np.zeros(len(unique), dtype=bool)
    differs[place[hashes != hashes[first][place]]] = True
    columns: dict[str, pa.Array] = {}
    for field in ITEM:
        if field.name in parsed.single:
            columns[field.name] = numbers(parsed.single[field.name][last])
        else:
            found = list_columns(parsed, field.name)
            columns |= {name: column.take(pa.array(last)) for name, column in found.items()}
    columns[HASH] = pa.array(hashes[first].view(np.int64))
    return pa.table({**columns, DIFFERS: pa.array(differs)})


def _hashes(parsed: Parsed) -> np.ndarray:
    """Hash the features of each line's item: uint64, shape (n,)."""
    made = np.zeros(len(parsed.right), dtype=np.uint64)
    for field in ITEM[1:]:
        if field.name in parsed.single:
            made = _mixed(made + parsed.single[field.name].astype(np.uint64))
        else:
            each = _mixed(parsed.features[field.name].astype(np.uint64))
            sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(each, dtype=np.uint64)])
            ends = np.cumsum(parsed.counts[field.name])
            made = _mixed(made + sums[ends] - sums[ends - parsed.counts[field.name]])
    return made


def _mixed(numbers: np.ndarray) -> np.ndarray:
    numbers = (numbers + np.uint64(1)) * _FACTOR
    numbers ^= numbers >> np.uint64(32)
    return numbers * _FACTOR


class Items:
    """The items that have been found so far, by ascending id.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
    block, row : ndarray of int64, shape (n,)
        Where the features of each are: the number of the block, and the row in it.
    differs : ndarray of bool, shape (n,)
        Whether an item has had other features, too.
    in_train, in_test : ndarray of bool, shape (n,)
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.ids = np.empty(0, dtype=np.int64)
        self.block, self.row, self.hashes = (np.empty(0, dtype=np.int64) for _ in range(3))
        self.differs, self.in_train, self.in_test = (np.empty(0, dtype=bool) for _ in range(3))

    def add(self, file: Path, part: str) -> None:
        """Add the items of a block, those of the training part first.

        Features of the test part are only used for items that the training part does not have.
        """
        table = pq.read_table(file, columns=["item_id", HASH, DIFFERS])
        ids, hashes = table["item_id"].to_numpy(), table[HASH].to_numpy()
        differs = table[DIFFERS].to_numpy()
        place = np.searchsorted(self.ids, ids)
        known = np.zeros(len(ids), dtype=bool)
        inside = place < len(self.ids)
        known[inside] = self.ids[place[inside]] == ids[inside]
        at, number = place[known], len(self.files)
        self.differs[at] |= differs[known] | (hashes[known] != self.hashes[at])
        if part == "train":
            self.block[at], self.row[at] = number, np.flatnonzero(known)
            self.hashes[at] = hashes[known]
        (self.in_train if part == "train" else self.in_test)[at] = True
        new, where = ~known, place[~known]
        added = {
            "ids": ids[new],
            "block": number,
            "row": np.flatnonzero(new),
            "hashes": hashes[new],
            "differs": differs[new],
            "in_train": part == "train",
            "in_test": part == "test",
        }
        for name, values in added.items():
            setattr(self, name, np.insert(getattr(self, name), where, values))
        self.files.append(file)

    def table(self, columns: list[str]) -> pa.Table:
        """Make the table of items, with some columns besides item_id."""
        tables = []
        for number, file in enumerate(self.files):
            rows = self.row[self.block == number]
            if len(rows):
                read = pq.read_table(file, columns=["item_id", *columns])
                tables.append(read.take(pa.array(rows)))
        return pa.concat_tables(tables)
