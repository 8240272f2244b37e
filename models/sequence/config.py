"""The settings of query towers that read the user's items in their order."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Extra, Field, root_validator

MAX_ATTENTION_LENGTH = 512
"""Longest history for a transformer: its attention weights take memory of the square of that."""


class NextItemStart(BaseModel, extra=Extra.forbid):
    """The closed-form solution that the training of a decay tower starts from."""

    l2: float = Field(
        300.0,
        ge=1e-6,
        le=1e12,
        description="L2 regularization of the regression, in units of interactions: it is added to "
        "each item's number of predictions in which the item is the newest",
    )
    max_pairs: int = Field(
        500_000_000,
        gt=0,
        le=1 << 40,
        description="largest number of pairs of items that are summed, each of one user and near "
        "enough for decay_time; with more, training is refused. Time grows with it, about 10 s per "
        "30 million, and memory with the number of different pairs, about 60 bytes each",
    )


class SequenceConfig(BaseModel, extra=Extra.forbid):
    """A query tower of the history's items in their order, trained to predict each next item."""

    kind: Literal["mean", "decay", "gru", "transformer"] = Field(
        "transformer",
        description="how the vectors of the history's items are combined. mean: their mean; decay: "
        "their sum, with weights that decrease with the age, of vectors that are a learned linear "
        "map of the candidate tower's plus one of the item's own; gru: a recurrent network "
        "(GRU4Rec); transformer: causal self-attention (SASRec)",
    )
    blocks: int = Field(2, gt=0, le=64, description="number of blocks of the transformer")
    heads: int = Field(
        2, gt=0, le=1024, description="number of attention heads of each block; divides model.dim"
    )
    feed_forward: int = Field(
        256, gt=0, le=65_536, description="width of the hidden layer after each attention"
    )
    gated: bool = Field(
        False,
        description="multiply what each part of a block adds to its input by a sigmoid gate (LiGR)",
    )
    positions: Literal["relative", "absolute", "none"] = Field(
        "relative",
        description="how the transformer knows the order. relative: a learned number per head and "
        "distance is added to the attention scores; absolute: a learned vector per "
        "place, counted from the oldest item, is added to the items; none: it does not",
    )
    dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="dropout rate of the items' vectors and of what each block adds to its input",
    )
    decay_time: float = Field(
        5.0,
        gt=0,
        le=1e6,
        description="kind decay: an item of age d, 0 for the newest, has the weight "
        "max(exp(-d / decay_time), decay_floor)",
    )
    decay_floor: float = Field(
        0.0, ge=0, le=1, description="kind decay: smallest weight of an item, see decay_time"
    )
    last_item: bool = Field(
        False,
        description="kind decay: also add another vector of the newest item, with its own map",
    )
    start: NextItemStart | None = Field(
        None,
        description="kind decay with last_item: start from weights solved in closed form, see "
        "models/sequence/regression.py. They count as the first epoch and are kept if no later "
        "epoch is better. none: start from random weights",
    )
    negatives: int | None = Field(
        None,
        gt=0,
        le=1 << 24,
        description="number of items drawn uniformly in each step as negatives of all its "
        "positives. none: all items of the training part",
    )
    loss: Literal["softmax", "gbce"] = Field(
        "softmax",
        description="training loss. softmax: cross-entropy among all items, or estimated from "
        "`negatives`; gbce: generalised binary cross-entropy (gSASRec), which needs `negatives`",
    )
    stride: int | None = Field(
        None,
        gt=0,
        le=4096,
        description="sequences longer than features.history are read in windows, of which each "
        "predicts `stride` items, so that every positive is predicted once per epoch. Smaller "
        "values give each prediction more context, and take longer. none: features.history, so "
        "that windows do not overlap",
    )

    @root_validator(skip_on_failure=True)
    def _check_kind(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values["loss"] == "gbce" and values["negatives"] is None:
            raise ValueError("loss gbce needs negatives, such as 256")
        for name in ("decay_time", "decay_floor", "last_item", "start"):
            if values["kind"] != "decay" and values[name] != cls.__fields__[name].default:
                raise ValueError(f"{name} applies to kind decay only; remove it")
        for name in ("blocks", "heads", "feed_forward", "gated", "positions"):
            if values["kind"] != "transformer" and values[name] != cls.__fields__[name].default:
                raise ValueError(f"{name} applies to kind transformer only; remove it")
        if values["start"] is not None and not values["last_item"]:
            raise ValueError("start solves for kind decay with last_item; set last_item to true")
        return values


def unmet_features(
    config: SequenceConfig, history: int | None, has_context: bool, has_weights: bool
) -> str:
    """List the settings of the data that `model.sequence` requires and that are not so.

    Parameters
    ----------
    config : SequenceConfig
    history : int or None
        The maximum length of the history, `features.history`.
    has_context : bool
        Whether the query tower reads the context (`features.context`).
    has_weights : bool
        Whether positives have weights (`positives`).

    Returns
    -------
    str
        "key: required value" of each, separated by commas; empty if all are met.
    """
    wrong = {}
    if history is None:
        wrong["features.history"] = "a number, the maximum items per user"
    elif config.kind == "transformer" and history > MAX_ATTENTION_LENGTH:
        wrong["features.history"] = f"at most {MAX_ATTENTION_LENGTH} for a transformer"
    elif config.stride is not None and config.stride > history:
        wrong["model.sequence.stride"] = f"at most features.history, {history}"
    if has_context:
        wrong["features.context, features.context_numeric and features.time"] = "[]"
    if has_weights:
        wrong["positives"] = "no weights"
    return ", ".join(f"{name}: {value}" for name, value in wrong.items())
