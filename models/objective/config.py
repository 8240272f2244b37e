"""The settings of the loss, its negatives and its corrections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Extra, Field, conint, root_validator

from twotower.models.objective.losses import LOSSES
from twotower.models.objective.negatives import SAMPLERS, Sampler

if TYPE_CHECKING:  # mypy cannot read a type that is computed from a table
    LossName = str
    NegativesName = str
    Rank = int
else:
    LossName = Literal[tuple(LOSSES)]
    NegativesName = Literal[tuple(SAMPLERS)]
    Rank = conint(ge=0, le=1 << 24)

MIN_LEARNED_TEMPERATURE = 0.01

# The settings that only some kinds of loss use, see `Loss.kind`.
KINDS_OF_SETTING = {
    "corrected_logq": ("softmax",),
    "label_smoothing": ("softmax",),
    "hard": ("pairwise",),
    "mask_known": ("softmax", "pairwise"),
}


def describe_choices(summaries: Mapping[str, str]) -> str:
    """Join the summaries of a setting's values for its description."""
    return "; ".join(f"{name}: {summary}" for name, summary in summaries.items())


def _first_line(sampler: type[Sampler]) -> str:
    line = (sampler.__doc__ or "").partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]


class ObjectiveConfig(BaseModel, extra=Extra.forbid):
    """The loss, its negatives and corrections; models/objective/losses.py has the formulas."""

    loss: LossName = Field(
        "softmax",
        description="training loss. "
        + describe_choices({name: loss.summary for name, loss in LOSSES.items()})
        + ". softmax and squared use all negatives of a step, the other losses `per_positive` of "
        "them for each positive",
    )
    negatives: NegativesName = Field(
        "in_batch",
        description="where the negatives of a step come from. "
        + describe_choices({name: _first_line(sampler) for name, sampler in SAMPLERS.items()}),
    )
    drawn: int = Field(
        1024,
        gt=0,
        le=1 << 24,
        description="number of items drawn per step for the negatives uniform, popularity and "
        "mixed; number of items in the queue of cross_batch",
    )
    power: float = Field(
        0.75,
        ge=0,
        le=10,
        description="exponent of the negatives popularity: 0 draws uniformly, 1 in proportion to "
        "an item's positives",
    )
    per_positive: int = Field(
        8,
        gt=0,
        le=65_536,
        description="number of negatives per positive, drawn from those of the step; softmax and "
        "squared use all of them",
    )
    hard: int = Field(
        1,
        gt=0,
        le=65_536,
        description="hard negatives: draw this many times `per_positive` negatives and keep the "
        "`per_positive` with the highest scores; 1 keeps all",
    )
    mined_ranks: tuple[Rank, Rank] = Field(
        (20, 200),
        description="for the negatives mined: first rank (from 0) and end rank (excluded) of the "
        "items that negatives are drawn from, in each user's ranking without training positives. "
        "Users may like the items of the very first ranks. Takes 4 bytes per user and rank, in "
        "memory and in checkpoints",
    )
    mined_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="for the negatives mined: fraction of the negatives that are mined; the others "
        "are drawn uniformly",
    )
    mask_known: bool = Field(
        False,
        description="exclude all training positives of a user from the user's negatives; otherwise "
        "only the positive of the same interaction is excluded",
    )
    corrected_logq: bool = Field(
        False,
        description="use the logQ correction of Khrylchenko et al. (RecSys 2025), which treats "
        "only the negatives as sampled, not the positive; needs model.logq to be 1",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="for the loss softmax: part of the target that is spread evenly over the "
        "positive and all negatives; 0 is none",
    )
    margin: float | None = Field(
        None,
        ge=-100,
        le=100,
        description="margin of the losses hinge (1 by default) and cosine_contrastive (0.9 by "
        "default), in units of the score",
    )
    negative_weight: float = Field(
        50.0,
        gt=0,
        le=1e6,
        description="for the loss cosine_contrastive: weight of the negatives; a positive weighs 1",
    )
    calibration: float = Field(
        0.75,
        ge=0,
        le=1,
        description="for the loss gbce: parameter t of the paper; 0 is the binary cross-entropy, 1 "
        "corrects fully for the sampling of negatives",
    )
    unobserved_weight: float = Field(
        0.2,
        gt=0,
        le=1,
        description="for the loss squared: weight of a pair without an interaction; an interaction "
        "weighs 1",
    )
    propensity_power: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight each interaction by 1 / (positives of its item ** propensity_power), "
        "limited to ten times the smallest weight; 0 weights all alike, 1 gives all items the same "
        "total weight",
    )

    @root_validator(skip_on_failure=True)
    def _check_combinations(cls, values: dict[str, Any]) -> dict[str, Any]:
        loss, sampler = LOSSES[values["loss"]], SAMPLERS[values["negatives"]]
        usable = loss.negatives or tuple(
            name for name, each in SAMPLERS.items() if loss.kind in each.loss_kinds
        )
        if values["negatives"] not in usable:
            raise ValueError(
                f"loss {values['loss']} cannot be used with negatives {values['negatives']}; set "
                f"negatives to {' or '.join(usable)}"
            )
        for key, kinds in KINDS_OF_SETTING.items():
            if values[key] != cls.__fields__[key].default and loss.kind not in kinds:
                losses = [name for name, each in LOSSES.items() if each.kind in kinds]
                raise ValueError(
                    f"{key} is {values[key]}, but loss {values['loss']} does not use it; remove "
                    f"{key}, or set loss to {' or '.join(losses)}"
                )
        sampler.check(values)
        return values

    @property
    def is_default(self) -> bool:
        """Whether all settings have their defaults: the softmax over the batch's positives."""
        return self == ObjectiveConfig()

    def sampler(self, positives: np.ndarray) -> Sampler:
        """Create the sampler of the negatives.

        Parameters
        ----------
        positives : ndarray of int, shape (n_items,)
            Number of training positives of each row of the item table.

        Returns
        -------
        Sampler
        """
        return SAMPLERS[self.negatives](self, positives)


class SelfSupervisedConfig(BaseModel, extra=Extra.forbid):
    """A contrastive task of the item tower; see models/objective/self_supervised.py."""

    weight: float = Field(
        0.1, gt=0, le=1e6, description="weight of the task's loss, which is added to the main loss"
    )
    masking: Literal["correlated", "random"] = Field(
        "correlated",
        description="which features are hidden in the first of an item's two views; the second "
        "view hides the others. correlated: a random feature and the half of the others that share "
        "most information with it; random: a random half",
    )
    items: int = Field(
        1024,
        gt=1,
        le=1 << 20,
        description="number of items drawn per step, uniformly from the whole item table",
    )
    temperature: float = Field(
        0.1,
        ge=1e-4,
        le=1e4,
        description="cosines of two views are divided by it before the softmax",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the values of lists that is also hidden in each view",
    )
