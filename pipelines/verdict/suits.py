"""Whether a recipe is for data like those of a run: the `when` of a recipe, and what it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, Extra, Field, validator

from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import split_ahead
from twotower.workflows.split import SplitConfig

Range = tuple[float | None, float | None]
SPLITS = SplitConfig.__fields__["method"].type_.__args__


@dataclass(frozen=True)
class DataFacts:
    """What the training part of a run is like.

    Attributes
    ----------
    split : str
        The method of the split.
    items : int
        Number of items with a positive.
    density : float
        Positives per user and item: the share of the pairs of both that are positives.
    history : float
        Median number of positives per user.
    """

    split: str
    items: int
    density: float
    history: float


class When(BaseModel, extra=Extra.forbid):
    """What data `--recipe auto` tries a recipe on; a range is [minimum, maximum], null for none."""

    split: list[str] = Field([], description="Values of `split.method`; all if empty.")
    items: Range = Field((None, None), description="Items with a positive in training.")
    density: Range = Field(
        (None, None), description="Share of the pairs of users and items that are positives."
    )
    history: Range = Field((None, None), description="Median positives per user in training.")

    @validator("split", pre=True)
    def _one_or_more(cls, methods: Any) -> Any:
        return [methods] if isinstance(methods, str) else methods

    @validator("split", each_item=True)
    def _is_a_method(cls, method: str) -> str:
        if method not in SPLITS:
            raise ValueError(f"{method!r} is no split.method; choose from {', '.join(SPLITS)}")
        return method

    @property
    def is_general(self) -> bool:
        """Whether the recipe is for all data."""
        return self == When()

    def __str__(self) -> str:
        """Return the conditions in words; empty if there are none."""
        words = [f"split.method {' or '.join(self.split)}"] if self.split else []
        for name, (low, high), unit in (
            ("items", self.items, "items"),
            ("density", self.density, "of all"),
            ("history", self.history, "positives"),
        ):
            limits = [
                f"{bound} {_written(limit, unit)}"
                for bound, limit in (("at least", low), ("at most", high))
                if limit is not None
            ]
            if limits:
                words.append(f"{name} {' and '.join(limits)}")
        return "; ".join(words)

    def unmet(self, facts: DataFacts) -> str:
        """Say why a recipe is not for data like these; empty if it is."""
        if self.split and facts.split not in self.split:
            return f"split.method is {facts.split}, and it is for {' or '.join(self.split)}"
        for limits, value, unit, shown in (
            (self.items, facts.items, "items", f"{facts.items:,}"),
            (self.density, facts.density, "of all pairs are positives", f"{facts.density:.2%}"),
            (self.history, facts.history, "positives per median user", f"{facts.history:g}"),
        ):
            low, high = limits
            if low is not None and value < low:
                return f"{shown} {unit}, and it is for at least {_written(low, unit)}"
            if high is not None and value > high:
                return f"{shown} {unit}, and it is for at most {_written(high, unit)}"
        return ""


def _written(limit: float, unit: str) -> str:
    return f"{limit:.2%}" if unit.startswith("of all") else f"{limit:,g}"


def data_facts(run: Run) -> DataFacts:
    """Count what `When` asks, by the settings of the run and without NVTabular.

    Parameters
    ----------
    run : Run
        With the step `ingest` done.

    Returns
    -------
    DataFacts

    Raises
    ------
    DataError or ConfigError
        If the positives cannot be split.
    """
    parts, names = split_ahead(run), run.config.features
    train = parts[parts["part"] == "train"]
    users, items = train[names.user_id].value_counts(), train[names.item_id].nunique()
    return DataFacts(
        split=run.config.split.method,
        items=items,
        density=len(train) / (len(users) * items),
        history=float(np.median(users)),
    )
