"""The settings of towers whose vectors are propagated over the graph of users and items."""

from __future__ import annotations

from pydantic import BaseModel, Extra, Field


class GraphConfig(BaseModel, extra=Extra.forbid):
    """Vectors of users and items, propagated over the graph of the positives (LightGCN)."""

    layers: int = Field(
        2,
        gt=0,
        le=16,
        description="number of propagations: 1 joins the vectors of a user's items to its own, 2 "
        "also those of the other users of these items",
    )
    negatives: int | None = Field(
        None,
        gt=0,
        le=1 << 24,
        description="number of items drawn uniformly in each step as negatives of all its users. "
        "none: all items of the training part, which is more accurate",
    )
    length_power: float = Field(
        0.15,
        ge=0,
        le=10,
        description="the vector of an item gets the length that it has after training to this "
        "power. Vectors of popular items are longer; 0: all have the length 1, as in training",
    )
