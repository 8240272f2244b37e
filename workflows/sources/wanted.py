"""Which columns the settings of a run name, so that a source reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa


class Wanted(NamedTuple):
    """The columns that the settings of a run name, except ids.

    Attributes
    ----------
    interactions, users, items : tuple of str
        The columns of each table.
    categories : frozenset of str
        Those that the towers read as categories.
    every_row : bool
        Whether each row of a repeated pair may decide whether the pair is a positive, or what it
        weighs.
    ordered : bool
        Whether the column timestamp of the interactions is used if there is one.
    types : mapping of str to DataType
        Types that columns must have, ids among them: those before an update.
    """

    interactions: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    categories: frozenset[str] = frozenset()
    every_row: bool = False
    ordered: bool = False
    types: Mapping[str, pa.DataType] = {}
