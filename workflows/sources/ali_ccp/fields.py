"""The fields of Ali-CCP's two kinds of files, and the columns that they become."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

SUFFIX = "_14"
"""What follows the number of a field about the last fortnight, such as 109_14."""
SUFFIXED = 1000
"""What is added to the number of such a field to make its key in `Layout.slots`."""
KEYS = 2000


class Field(NamedTuple):
    """One field.

    Attributes
    ----------
    code : str
        As the files write it.
    name : str
        The column, as Merlin names it.
    """

    code: str
    name: str


ITEM = (
    Field("205", "item_id"),
    Field("206", "item_category"),
    Field("207", "item_shop"),
    Field("216", "item_brand"),
    Field("210", "item_intention"),
)
COMBINED = (
    Field("508", "user_item_categories"),
    Field("509", "user_item_shops"),
    Field("702", "user_item_brands"),
    Field("853", "user_item_intentions"),
)
"""What the user did with the category, shop, brand or intentions of the item; the value counts."""
POSITION = Field("301", "position")
USER = (
    Field("101", "user_id"),
    Field("121", "user_profile"),
    Field("122", "user_group"),
    Field("124", "user_gender"),
    Field("125", "user_age"),
    Field("126", "user_consumption_1"),
    Field("127", "user_consumption_2"),
    Field("128", "user_is_occupied"),
    Field("129", "user_geography"),
)
HISTORY = (
    Field("109_14", "user_categories"),
    Field("110_14", "user_shops"),
    Field("127_14", "user_brands"),
    Field("150_14", "user_intentions"),
)
SKELETON, COMMON = (*ITEM, *COMBINED, POSITION), (*USER, *HISTORY)
NAMES = {field.code: field.name for field in (*SKELETON, *COMMON)}
LISTS = tuple(field.name for field in (ITEM[4], *HISTORY))
"""The columns whose field may occur more than once in a line."""


@dataclass(frozen=True)
class Layout:
    """The fields of one kind of file.

    Attributes
    ----------
    head : int
        Number of columns before the features.
    fields : tuple of Field
    lists : frozenset of str
        The columns whose field may occur more than once in a line.
    """

    head: int
    fields: tuple[Field, ...]
    lists: frozenset[str]

    @classmethod
    def skeleton(cls, lists: Collection[str] = LISTS) -> Layout:
        """The files with one line per impression."""
        return cls(5, SKELETON, frozenset(lists))

    @classmethod
    def common(cls, lists: Collection[str] = LISTS) -> Layout:
        """The files with the features that many impressions share."""
        return cls(2, COMMON, frozenset(lists))

    @property
    def required(self) -> str:
        """The column that each line must have: item_id or user_id."""
        return self.fields[0].name

    @cached_property
    def singles(self) -> list[str]:
        """The columns with one value per line, in the order of their slots."""
        return [field.name for field in self.fields if field.name not in self.lists]

    @cached_property
    def multiple(self) -> list[str]:
        """The columns with a list per line, in the order of their slots, after the singles."""
        return [field.name for field in self.fields if field.name in self.lists]

    @cached_property
    def slots(self) -> np.ndarray:
        """The slot of a field by its key, -1 for an unknown one: int8, shape (KEYS,)."""
        slots = np.full(KEYS, -1, dtype=np.int8)
        order = [*self.singles, *self.multiple]
        for code, name in self.fields:
            key = int(code.removesuffix(SUFFIX)) + SUFFIXED * code.endswith(SUFFIX)
            slots[key] = order.index(name)
        return slots
