"""What is minimised: which loss, against which negatives, with which correction.

The softmax over the batch itself is `InBatchSoftmax`; everything else is here, and what is added
to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Extra, Field, conint, root_validator

IN_BATCH = ("in_batch", "mixed", "cross_batch")
LEAST_TEMPERATURE = 0.01  # of one that is learnt
OF_COSINES = ("cosine_regression", "hinge", "cosine_contrastive", "squared")


class ObjectiveConfig(BaseModel, extra=Extra.forbid):
    """A loss, its negatives and corrections; see models/losses.py for the formulas."""

    loss: Literal[
        "softmax",
        "bce",
        "gbce",
        "cosine_regression",
        "bpr",
        "hinge",
        "cosine_contrastive",
        "squared",
    ] = Field(
        "softmax",
        description="softmax: over all negatives of the step. squared: over the whole matrix, "
        "without sampling, negatives: all. The others: a few negatives a positive. cosine_*, hinge "
        "and squared take scores as they are, the others divide them by the temperature",
    )
    negatives: Literal[
        "in_batch", "uniform", "popularity", "mixed", "all", "cross_batch", "mined"
    ] = Field(
        "in_batch",
        description="negatives of a step: the items of its batch (in_batch); `drawn` items of the "
        "catalogue (uniform, or popularity: by positives ** power); in-batch and uniform ones "
        "(mixed); all items (all); the items of the batch and the last `drawn` positives of "
        "earlier batches (cross_batch); or for each user the items scored highest when the epoch "
        "began (mined)",
    )
    drawn: int = Field(
        1024,
        gt=0,
        le=1 << 24,
        description="items drawn per step, for uniform, popularity, mixed and cross_batch",
    )
    power: float = Field(0.75, ge=0, le=10, description="of popularity")
    per_positive: int = Field(
        8,
        gt=0,
        le=65_536,
        description="negatives per positive, drawn from those of the step; softmax takes all",
    )
    hard: int = Field(
        1,
        gt=0,
        le=65_536,
        description="draw `hard` times as many negatives and keep those with the highest scores",
    )
    mined_ranks: tuple[conint(ge=0, le=1 << 24), conint(gt=0, le=1 << 24)] = Field(
        (20, 200),
        description="for mined: negatives are drawn from these ranks of a user's ranking without "
        "train positives, from the first rank (counted from 0) up to but not including the second; "
        "the user may like the items at the very top. The items at these ranks are kept for every "
        "user, 4 bytes each, in the checkpoints too",
    )
    mined_share: float = Field(
        0.5, gt=0, le=1, description="of mined: the share of negatives that are; others are uniform"
    )
    mask_known: bool = Field(
        False, description="leave out all train positives of the user, not only the row's own"
    )
    corrected_logq: bool = Field(
        False,
        description="logQ as corrected in 2025, of the negatives only: see models/corrections.py; "
        "model.logq is to be 1",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the softmax")
    margin: float | None = Field(
        None, ge=-100, le=100, description="of hinge (1) and cosine_contrastive (0.9)"
    )
    negative_weight: float = Field(50.0, gt=0, le=1e6, description="of cosine_contrastive")
    calibration: float = Field(0.75, ge=0, le=1, description="t of gbce")
    unobserved_weight: float = Field(0.2, gt=0, le=1, description="of squared")
    propensity_power: float = Field(
        0.0,
        ge=0,
        le=1,
        description="positives weigh 1 / (item's positives ** this), at most ten times the mean",
    )

    @root_validator(skip_on_failure=True)
    def _fits_together(cls, values: dict) -> dict:
        softmax = values["loss"] == "softmax"
        if (values["loss"] == "squared") != (values["negatives"] == "all") and not softmax:
            raise ValueError("loss squared and negatives all need each other (or the softmax)")
        for key in ("corrected_logq", "label_smoothing"):
            if values[key] and not softmax:
                raise ValueError(f"{key} is of the softmax; loss is {values['loss']}")
        for key, plain in (("hard", 1), ("mask_known", False)):
            if values[key] != plain and values["loss"] == "squared":
                raise ValueError(f"{key} is of sampled negatives; loss is squared")
        if values["hard"] > 1 and softmax:
            raise ValueError("hard is of losses with a few negatives a positive; loss is softmax")
        if values["negatives"] == "mined" and softmax:
            raise ValueError("negatives mined are a few a positive's own; loss is softmax")
        if values["negatives"] == "mined" and values["mined_ranks"][0] >= values["mined_ranks"][1]:
            raise ValueError("mined_ranks: the first rank is to be below the last")
        if values["loss"] == "gbce" and values["negatives"] != "uniform":
            raise ValueError("loss gbce is calibrated for uniform negatives")
        if values["negatives"] == "cross_batch" and not softmax:
            raise ValueError(f"negatives cross_batch are of the softmax; loss is {values['loss']}")
        if values["negatives"] == "cross_batch" and values["mask_known"]:
            raise ValueError("mask_known is of the batch's and drawn items; negatives: cross_batch")
        return values

    @property
    def is_default(self) -> bool:
        """Whether it is the softmax over the batch, and nothing else."""
        return self == ObjectiveConfig()

    def sampler(self, positives: np.ndarray) -> Callable[[Any], Any] | None:
        """A function from a seed to the item rows int32 [drawn] of a step, or None.

        positives : int [n_items], train positives of each row of the item table
        """
        import tensorflow as tf

        from twotower.models.objective.negatives import sample_popularity, sample_uniform

        n_items = len(positives)
        if self.negatives in ("in_batch", "cross_batch", "mined"):
            return None
        if self.negatives == "all":
            return lambda seed: tf.range(n_items)
        if self.negatives == "popularity":
            counts = tf.constant(positives, tf.float64)
            return lambda seed: tf.cast(
                sample_popularity(self.drawn, counts, self.power, seed), tf.int32
            )
        return lambda seed: sample_uniform(self.drawn, n_items, seed)

    def log_q(self, counts: np.ndarray, positives: np.ndarray) -> Any:
        """Logarithm of the probability by id that a negative is one row of it, float32.

        For mixed negatives it is the probability of the in-batch ones; `mixture_log_q` adds the
        uniform ones.

        Parameters
        ----------
        counts : float [cardinality], above 0, the positives of one row of each id
        positives : int [n_items], those of each row, as `sampler` has them
        """
        from twotower.models.objective.corrections import log_q

        powers = {"popularity": self.power, "uniform": 0.0, "all": 0.0}
        return log_q(counts, powers.get(self.negatives, 1.0), positives)


class SelfSupervisedConfig(BaseModel, extra=Extra.forbid):
    """A task on the item tower alone, added to the loss: see models/self_supervised.py."""

    weight: float = Field(0.1, gt=0, le=1e6, description="of the task's loss in the sum")
    masking: Literal["correlated", "random"] = Field(
        "correlated",
        description="what is hidden in the first of an item's two views: a feature, which is "
        "drawn, and the half of the others that share most information with it; or a random half. "
        "The second view hides the rest",
    )
    items: int = Field(
        1024,
        gt=1,
        le=1 << 20,
        description="drawn a step, from the whole item table, each row as likely",
    )
    temperature: float = Field(
        0.1, ge=1e-4, le=1e4, description="the views' cosines are divided by it"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the values of lists that is hidden in a view as well"
    )
