"""Where the negatives of a training step come from: one sampler class per strategy.

A new strategy is one class in this module and one entry in `SAMPLERS`. The settings, their
description, the feature lookup and the model's output read everything from there. TensorFlow is
imported only when a sampler is used, because settings are checked without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class SamplerSettings(Protocol):
    """The settings of the objective that samplers read."""

    drawn: int
    power: float


class Sampler:
    """A strategy: which items are the negatives of a training step, and how likely each one is.

    Parameters
    ----------
    config : SamplerSettings
        The settings of the strategy.
    positives : ndarray of int, shape (n_items,)
        Number of training positives of each row of the item table.

    Attributes
    ----------
    in_batch : bool
        Whether the positives of a batch are negatives of the batch's other interactions.
    only_positives : bool
        Whether each negative was a positive of some training batch, so that sampling probabilities
        can be estimated from the batches.
    loss_kinds : tuple of str
        The kinds of loss (see `Loss.kind`) that the negatives can be used with.
    queue_size : int
        Number of positives of earlier batches that are kept as negatives.
    """

    in_batch: ClassVar[bool] = False
    only_positives: ClassVar[bool] = False
    loss_kinds: ClassVar[tuple[str, ...]] = ("softmax", "pairwise")
    queue_size: int = 0

    def __init__(self, config: SamplerSettings, positives: np.ndarray):
        self.positives, self.n_items = positives, len(positives)
        self.drawn, self.power = config.drawn, 1.0

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise ValueError if the settings of the objective do not fit the strategy."""

    def draw(self, seed: tf.Tensor) -> tf.Tensor | None:
        """Draw the negatives of a step that come from the whole catalogue.

        Parameters
        ----------
        seed : Tensor of int32, shape (2,)

        Returns
        -------
        Tensor of int32, shape (n_drawn,), or None
            Rows of the item table; None if the strategy draws nothing.
        """
        return None

    def log_q(self, counts: np.ndarray) -> tf.Tensor:
        """Logarithm of the probability that a negative is one row with a given id.

        Parameters
        ----------
        counts : ndarray of float, shape (cardinality,)
            Number of positives of one row of each id, above 0.

        Returns
        -------
        Tensor of float32, shape (cardinality,)
        """
        from twotower.models.objective.corrections import log_q

        return log_q(counts, self.power, self.positives)

    def batch_log_q(self, log_q: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        """Adapt `log_q` of some candidates to the size of a batch, where the strategy needs it."""
        return log_q


class InBatch(Sampler):
    """The positives of the batch's other interactions."""

    in_batch = only_positives = True


class Uniform(Sampler):
    """`drawn` items from the catalogue, each equally likely."""

    def __init__(self, config: SamplerSettings, positives: np.ndarray):
        super().__init__(config, positives)
        self.power = 0.0

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        from twotower.models.objective.sampling import sample_uniform

        return sample_uniform(self.drawn, self.n_items, seed)


class Popularity(Sampler):
    """`drawn` items from the catalogue, in proportion to their number of positives ** `power`."""

    def __init__(self, config: SamplerSettings, positives: np.ndarray):
        from twotower.models.objective.sampling import cumulative_popularity

        super().__init__(config, positives)
        self.power = config.power
        self.upper = cumulative_popularity(positives, self.power)

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        from twotower.models.objective.sampling import sample_cumulative

        return tf.cast(sample_cumulative(self.drawn, self.upper, seed), tf.int32)


class Mixed(Sampler):
    """The positives of the batch and `drawn` uniform items (Yang et al., WWW 2020)."""

    in_batch = True

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        from twotower.models.objective.sampling import sample_uniform

        return sample_uniform(self.drawn, self.n_items, seed)

    def batch_log_q(self, log_q: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        from twotower.models.objective.corrections import mixture_log_q

        return mixture_log_q(log_q, in_batch=batch_size, uniform=self.drawn, n_items=self.n_items)


class Everything(Sampler):
    """All items of the catalogue."""

    loss_kinds = ("softmax", "whole_data")

    def __init__(self, config: SamplerSettings, positives: np.ndarray):
        super().__init__(config, positives)
        self.power = 0.0

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.range(self.n_items)


class CrossBatch(Sampler):
    """The positives of the batch and the last `drawn` positives of earlier batches."""

    in_batch = only_positives = True
    loss_kinds = ("softmax",)

    def __init__(self, config: SamplerSettings, positives: np.ndarray):
        super().__init__(config, positives)
        self.queue_size = config.drawn

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        if settings["mask_known"]:
            raise ValueError(
                "mask_known cannot be used with negatives cross_batch: positives of earlier "
                "batches are not looked up; set mask_known to false"
            )


class Mined(Sampler):
    """Items that the towers ranked high for the user at the start of the epoch (hard negatives).

    `MinedNegatives` ranks and draws them, because that needs the model.
    """

    loss_kinds = ("pairwise",)

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        first, last = settings["mined_ranks"]
        if first >= last:
            raise ValueError(
                f"mined_ranks: the first rank, {first}, must be below the second one, {last}"
            )


SAMPLERS: dict[str, type[Sampler]] = {
    "in_batch": InBatch,
    "uniform": Uniform,
    "popularity": Popularity,
    "mixed": Mixed,
    "all": Everything,
    "cross_batch": CrossBatch,
    "mined": Mined,
}
"""The values of the setting `objective.negatives`."""
