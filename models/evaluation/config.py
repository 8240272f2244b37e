"""The settings of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConstrainedInt, Extra, Field

from twotower.models.evaluation.baselines import BASELINES

MAX_ITEMS_FOR_ALL_USERS, MIN_VALID_USERS = 10_000, 2048
# Ranking this many scores takes about a tenth of the time that training on one row takes.
VALID_SCORES_PER_ROW = 100


class BaselineName(str):
    """The name of one of `BASELINES`."""

    @classmethod
    def __get_validators__(cls) -> Iterator[Callable[[Any], str]]:
        yield cls.validate

    @classmethod
    def validate(cls, value: Any) -> str:
        """Return the name, or raise ValueError if no baseline has it."""
        if not isinstance(value, str) or value not in BASELINES:
            raise ValueError(f"unknown baseline {value!r}; choose from {', '.join(BASELINES)}")
        return value


class Cutoff(ConstrainedInt):
    """The k of a metric@k."""

    gt = 0
    le = 1_000_000


class EvaluationConfig(BaseModel, extra=Extra.forbid):
    """Which metrics are computed, over which catalogue, and beside which baselines."""

    ks: list[Cutoff] = Field(
        [10, 20, 50, 100], min_items=1, unique_items=True, description="cutoffs k of every metric@k"
    )
    batch_size: int = Field(
        1024,
        gt=0,
        le=1_000_000,
        description="maximum number of users ranked at once. The towers' scores are computed in "
        "blocks of at most 64 MB; for baselines that score every item, fewer users are ranked at "
        "once, so that their scores take at most 128 MB",
    )
    valid_users: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="number of users, always the same random ones, to validate on during training. "
        "none: all users if there are at most 10,000 items, else as many as take about a tenth of "
        "an epoch, and at least 2,048. The test part is always measured on all users",
    )
    catalogue: Literal["interactions", "items", "part"] = Field(
        "interactions",
        description="items to rank: 'interactions' are the items in any part of the split (the "
        "protocol of published results); 'items' is the whole item table, including items without "
        "interactions (as the server ranks); 'part' are the items of the part that is measured, "
        "such as cold items among each other (split.method cold_items)",
    )
    baselines: list[BaselineName] | None = Field(
        None,
        unique_items=True,
        description="models to compare with: popularity, random, itemknn, ease. none: popularity, "
        "random and, unless it would take minutes, itemknn",
    )


def count_valid_users(setting: int | None, users: int, items: int, rows: int) -> int:
    """Return how many users a validation ranks the catalogue for.

    The number does not depend on any measurement, so that a repeated training validates on the
    same users.

    Parameters
    ----------
    setting : int or None
        `EvaluationConfig.valid_users`.
    users : int
        Number of users in the valid part.
    items : int
        Size of the catalogue.
    rows : int
        Number of training interactions.

    Returns
    -------
    int
    """
    if setting is None:
        affordable = max(MIN_VALID_USERS, VALID_SCORES_PER_ROW * rows // items)
        setting = users if items <= MAX_ITEMS_FOR_ALL_USERS else affordable
    return min(setting, users)
