"""Masks of items: what each row of a table of requests may be answered with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays import find
from ..contract import ALLOW, VALUE, Table, count_of, state_of
from ..filters.parameters import K
from .columns import ItemColumns
from .predicate import WHERE, parse

MAX_BYTES = 1 << 25
"""Memory of the masks that are kept: 32 MB, for example 2,000 predicates over 4,000 items."""


class Allowed(NamedTuple):
    """What a row allows.

    Attributes
    ----------
    mask : ndarray of float32, shape (n,), or None
        0 for an item that is not denied and satisfies the predicate, -inf for others; None if
        these are all items.
    positions : ndarray of int64 or None
        Positions of the items that the request lists; None without a list.
    """

    mask: np.ndarray | None
    positions: np.ndarray | None


NONE = np.zeros(0, np.int64)


class Masks:
    """Makes masks of predicates, and keeps those that were asked for last.

    Parameters
    ----------
    columns : ItemColumns
    item_ids : ndarray of int64, shape (n,)
        Codes of the items, ascending.
    denied : ndarray of int64, optional
        Codes of items that no row allows.

    Attributes
    ----------
    found, made : int
        How many predicates of rows were kept ones, and how many were evaluated.
    """

    def __init__(
        self, columns: ItemColumns, item_ids: np.ndarray, denied: np.ndarray = NONE
    ) -> None:
        self.columns, self.item_ids, self.kinds = columns, item_ids, columns.kinds
        self.denied = np.isin(item_ids, denied)
        self.all = Allowed(_mask(~self.denied) if self.denied.any() else None, None)
        self.room = max(1, MAX_BYTES // (4 * max(1, len(item_ids))))
        self.kept: OrderedDict[str, Allowed] = OrderedDict()
        self.found = self.made = 0

    def of(self, table: Table) -> Sequence[Allowed] | None:
        """Return what each row of a table allows; None if all rows allow all items."""
        if WHERE not in table and ALLOW not in table and self.all.mask is None:
            return None
        allowed = [self.all] * len(table[K])
        if WHERE in table:
            allowed = [self._predicate(text) for text in table[WHERE].tolist()]
        if ALLOW in table:
            position, known = find(self.item_ids, table[ALLOW])
            states, last = table[state_of(ALLOW)].tolist(), 0
            for row, count in enumerate(table[count_of(ALLOW)].tolist()):
                first, last = last, last + count
                if states[row] == VALUE:
                    listed = position[first:last][known[first:last]]
                    allowed[row] = Allowed(allowed[row].mask, listed)
        unlimited = self.all if self.all.mask is None else None
        return None if all(each is unlimited for each in allowed) else allowed

    def bias(self, allowed: Sequence[Allowed]) -> np.ndarray:
        """Return what to add to the scores of rows: float32 [n] if all are equal, else [rows, n].

        It is 0 for the items that a row allows, and -inf for others.
        """
        first = allowed[0]
        is_shared = first.positions is None and all(each is first for each in allowed)
        if is_shared and first.mask is not None:
            return first.mask
        bias = np.zeros((len(allowed), len(self.item_ids)), np.float32)
        for row, (mask, positions) in zip(bias, allowed, strict=True):
            if positions is not None:
                row[:] = -np.inf
                row[positions] = 0 if mask is None else mask[positions]
            elif mask is not None:
                row[:] = mask
        return bias

    def _predicate(self, text: str) -> Allowed:
        """Return what a predicate allows; an empty text is none."""
        if not text:
            return self.all
        allowed = self.kept.get(text)
        if allowed is None:
            matching = self.columns.matching(parse(text, self.kinds))
            allowed = self.kept[text] = Allowed(_mask(matching & ~self.denied), None)
            self.made += 1
            if len(self.kept) > self.room:
                self.kept.popitem(last=False)
        else:
            self.kept.move_to_end(text)
            self.found += 1
        return allowed


def _mask(allowed: np.ndarray) -> np.ndarray:
    """Return 0 where bool [n] is true, else -inf, as float32 [n]."""
    return np.where(allowed, np.float32(0), np.float32(-np.inf))
