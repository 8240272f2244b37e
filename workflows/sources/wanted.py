"""Which columns the settings of a run name, so that a source reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.split import SplitConfig


class Wanted(NamedTuple):
    """The columns that the settings of a run name, except ids.

    Attributes
    ----------
    interactions, users, items : tuple of str
        The columns of each table.
    categories : frozenset of str
        Those that the towers read as categories.
    every_row : bool
        Whether each row of a repeated pair may be a positive, decide whether the pair is one, or
        what it weighs.
    ordered : bool
        Whether the column timestamp of the interactions is used if there is one.
    types : mapping of str to DataType
        Types that columns must have, ids among them: those before an update.
    vectors : mapping of str to int
        The columns of users and items that are vectors, with their length.
    """

    interactions: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    categories: frozenset[str] = frozenset()
    every_row: bool = False
    ordered: bool = False
    types: Mapping[str, pa.DataType] = {}
    vectors: Mapping[str, int] = {}

    @classmethod
    def of(
        cls,
        positives: PositivesConfig,
        split: SplitConfig,
        features: FeaturesConfig,
        of_items: Sequence[str],
        of_interactions: Sequence[str] = (),
    ) -> Wanted:
        """The columns that the settings name, and further ones of the items and interactions."""
        user, item = features.sides
        part = ["part"] if split.method == "column" else []
        interactions = [*positives.columns, *features.stored_context, *part, *of_interactions]
        items = [name for name in [*item.columns, *item.vectors, *of_items] if name != item.id]
        users = [name for name in user.columns if name not in (user.id, user.history)]
        return cls(
            interactions=tuple(dict.fromkeys(interactions)),
            users=(*users, *user.vectors),
            items=tuple(dict.fromkeys(items)),
            categories=frozenset([*user.categorical, *item.categorical, *features.context]),
            every_row=split.repeats == "keep"
            or bool(positives.values or positives.weight)
            or positives.column not in (None, "rating"),
            vectors={**user.vectors, **item.vectors},
            ordered=features.history is not None
            or bool(features.time)
            or split.method in ("leave_last_out", "temporal"),
        )
