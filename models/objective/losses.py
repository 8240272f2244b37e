"""The training losses: their formulas, and the table of their names in the settings.

A new loss of positives against a few sampled negatives is one function in this module and one entry
in `LOSSES`. Such a function reads the scores of n interactions and returns the loss of each one;
the caller applies weights and takes the mean. Its arguments are

positive : Tensor of float32, shape (n,)
    The score of each interaction's positive.
negative : Tensor of float32, shape (n, m)
    The scores of its negatives.
valid : Tensor of bool, shape (n, m)
    False for a false negative or padding, which is left out of the loss, its gradient and every
    count, whatever its score is (NaN included).

and it returns a Tensor of float32, shape (n,). Without a valid negative, an interaction has the
loss of its positive alone, or 0 where only differences of scores count.

TensorFlow is imported only when a loss is computed, because settings are checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import tensorflow as tf


def binary_cross_entropy(positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """-log sigmoid(s+) - sum over the negatives of log(1 - sigmoid(s-)).

    The pointwise loss of He et al. (Neural Collaborative Filtering, WWW 2017). As it is a sum, m
    negatives weigh m times as much as a positive; m is the ratio that the paper tunes (best: 3 to
    6).
    """
    import tensorflow as tf

    return tf.nn.softplus(-positive) + _sum(tf.nn.softplus, negative, valid)


def gbce(
    positive: tf.Tensor,
    negative: tf.Tensor,
    valid: tf.Tensor,
    *,
    candidates: int,
    t: float = 0.75,
) -> tf.Tensor:
    """-beta * log sigmoid(s+) - sum over the negatives of log(1 - sigmoid(s-)).

    Generalised binary cross-entropy (gSASRec: Petrov and Macdonald, RecSys 2023). Sampling only a
    fraction alpha = m / (candidates - 1) of the items as negatives makes a model overconfident;
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha) = 1 - t * (1 - alpha) corrects that.

    Parameters
    ----------
    positive, negative, valid : Tensor
        See the module. m is the number of a row's valid negatives.
    candidates : int
        Number of items in the catalogue, above 1.
    t : float
        0 for the binary cross-entropy, 1 for probabilities calibrated as if without sampling.
    """
    import tensorflow as tf

    alpha = tf.minimum(_count(valid) / (candidates - 1), 1.0)
    beta = 1.0 - t * (1.0 - alpha)
    return beta * tf.nn.softplus(-positive) + _sum(tf.nn.softplus, negative, valid)


def cosine_regression(positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """(1 - c+)^2 + sum over the negatives of (-1 - c-)^2, where scores are cosines.

    Least squares with the targets 1 and -1. As it is a sum, m negatives weigh m times as much as a
    positive.
    """
    import tensorflow as tf

    return tf.square(1.0 - positive) + _sum(lambda c: tf.square(1.0 + c), negative, valid)


def bpr(positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Mean over the negatives of -log sigmoid(s+ - s-).

    Bayesian personalised ranking (Rendle et al., UAI 2009), without its L2 penalty.
    """
    import tensorflow as tf

    return _mean(lambda s: tf.nn.softplus(s - positive[:, None]), negative, valid)


def hinge(
    positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor, *, margin: float = 1.0
) -> tf.Tensor:
    """Mean over the negatives of max(0, margin - s+ + s-).

    The triplet loss (Weinberger and Saul, JMLR 2009; Schroff et al., FaceNet, CVPR 2015) with
    similarities instead of distances. `margin` is in units of the scores, above 0.
    """
    import tensorflow as tf

    # The difference comes first: adding the margin to a large score would round it off.
    return _mean(lambda s: tf.nn.relu(margin + (s - positive[:, None])), negative, valid)


def cosine_contrastive(
    positive: tf.Tensor,
    negative: tf.Tensor,
    valid: tf.Tensor,
    *,
    margin: float = 0.9,
    weight: float = 50.0,
) -> tf.Tensor:
    """(1 - c+) + weight * mean over the negatives of max(0, c- - margin).

    SimpleX (Mao et al., CIKM 2021), where scores are cosines. Negatives below the margin (-1 to 1)
    have no loss. The defaults are about those of the paper for MovieLens-1M.
    """
    import tensorflow as tf

    return 1.0 - positive + weight * _mean(lambda c: tf.nn.relu(c - margin), negative, valid)


def sampled_softmax(
    positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor, *, smoothing: float = 0.0
) -> tf.Tensor:
    """Cross-entropy of the softmax over the positive and its valid negatives.

    Parameters
    ----------
    positive, negative, valid : Tensor
        See the module. Scores are logits: divided by the temperature, and corrected for how the
        negatives are sampled (Jean et al., ACL 2015; Yi et al., RecSys 2019).
    smoothing : float
        From 0 to below 1, the part of the target that is spread evenly over the positive and the
        valid negatives (Szegedy et al., CVPR 2016).
    """
    import tensorflow as tf

    # Relative to the positive's logit, because a large logit would round the difference off.
    excess = tf.where(valid, negative - positive[:, None], 0.0)
    masked = tf.where(valid, excess, float("-inf"))
    loss = tf.reduce_logsumexp(tf.pad(masked, [[0, 0], [1, 0]]), axis=1)
    return loss - smoothing * tf.reduce_sum(excess, axis=1) / (_count(valid) + 1.0)


def whole_data_squared(
    query: tf.Tensor,
    candidates: tf.Tensor,
    positive: tf.Tensor,
    query_of: tf.Tensor,
    positive_of: tf.Tensor,
    *,
    share: tf.Tensor,
    unobserved_weight: float,
    weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Squared error over all pairs of a batch's users and the catalogue, without sampling.

    Parameters
    ----------
    query : Tensor of float32, shape (q, dim)
        The distinct users of the batch.
    candidates : Tensor of float32, shape (c, dim)
        All items of the catalogue.
    positive : Tensor of float32, shape (n,)
        The scores of the batch's interactions.
    query_of, positive_of : Tensor of int, shape (n,)
        The rows of `query` and `candidates` of each interaction.
    share : Tensor of float32, shape (q,)
        From 0 to 1, the fraction of each user's positives that is in the batch.
    unobserved_weight : float
        Above 0 to 1; ENMF uses 0.1 to 0.5.
    weight : Tensor of float32, shape (n,), optional
        Confidence of each interaction, by default 1.

    Returns
    -------
    Tensor of float32, shape ()
        Differentiable in query, candidates and positive.

    Notes
    -----
    The loss is (sum over interactions of weight * (1 - s)^2 + sum over queries u of share u *
    unobserved_weight * (sum of s(u, c)^2 over the candidates c that are no positive of u in the
    batch)) / n. The sum over all candidates is u^T (V^T V) u, so no (q, c) matrix is computed; the
    squares of the batch's own pairs are subtracted from it. (Implicit ALS: Hu et al., ICDM 2008; by
    gradient steps: ENMF, Chen et al., TOIS 2020.)
    """
    import tensorflow as tf

    owner, item = tf.cast(query_of, tf.int64), tf.cast(positive_of, tf.int64)
    pair = owner * tf.shape(candidates, tf.int64)[0] + item
    _, place, count = tf.unique_with_counts(pair)
    once = 1.0 / tf.cast(tf.gather(count, place), tf.float32)
    observed = tf.math.unsorted_segment_sum(once * tf.square(positive), owner, tf.shape(query)[0])
    gram = tf.matmul(candidates, candidates, transpose_a=True)
    everything = tf.reduce_sum(tf.matmul(query, gram) * query, axis=1)
    unobserved = unobserved_weight * tf.reduce_sum(share * (everything - observed))
    errors = tf.square(1.0 - positive)
    fit = tf.reduce_sum(errors if weight is None else weight * errors)
    return (fit + unobserved) / tf.cast(tf.size(positive), tf.float32)


def _sum(
    loss_of: Callable[[tf.Tensor], tf.Tensor], negative: tf.Tensor, valid: tf.Tensor
) -> tf.Tensor:
    """Sum of `loss_of` over the valid negatives of each row: (n, m) -> (n,)."""
    import tensorflow as tf

    # Masked before as well as after: 0 times the slope at an infinite score would be NaN.
    losses = loss_of(tf.where(valid, negative, 0.0))
    return tf.reduce_sum(tf.where(valid, losses, 0.0), axis=1)


def _mean(
    loss_of: Callable[[tf.Tensor], tf.Tensor], negative: tf.Tensor, valid: tf.Tensor
) -> tf.Tensor:
    """Mean of `loss_of` over the valid negatives of each row, 0 without any: (n, m) -> (n,)."""
    import tensorflow as tf

    return _sum(loss_of, negative, valid) / tf.maximum(_count(valid), 1.0)


def _count(valid: tf.Tensor) -> tf.Tensor:
    """Number of valid negatives of each row: bool (n, m) -> float32 (n,)."""
    import tensorflow as tf

    return tf.reduce_sum(tf.cast(valid, tf.float32), axis=1)


class LossSettings(Protocol):
    """The settings of the objective that losses read."""

    margin: float | None
    negative_weight: float
    calibration: float


def _no_parameters(config: LossSettings, n_items: int) -> dict[str, float]:
    return {}


def _margin(config: LossSettings, n_items: int) -> dict[str, float]:
    return {} if config.margin is None else {"margin": config.margin}


def _contrast(config: LossSettings, n_items: int) -> dict[str, float]:
    return {**_margin(config, n_items), "weight": config.negative_weight}


def _calibration(config: LossSettings, n_items: int) -> dict[str, float]:
    return {"candidates": max(n_items, 2), "t": config.calibration}


@dataclass(frozen=True)
class Loss:
    """A value of the setting `objective.loss`.

    Attributes
    ----------
    summary : str
        What the setting's description says about it.
    kind : {"softmax", "pairwise", "whole_data"}
        Which scores it needs: those of all negatives of the step, those of a few negatives for each
        positive, or those of all pairs of the batch's users and the catalogue.
    function : callable, optional
        The function of this module for the kind "pairwise".
    parameters : callable
        Its parameters, from the settings and the number of items.
    uses_temperature : bool
        Whether scores are divided by `model.temperature`.
    negatives : tuple of str
        The only strategies that it can be used with; empty for all that fit its kind.
    """

    summary: str
    kind: Literal["softmax", "pairwise", "whole_data"] = "pairwise"
    function: Callable[..., tf.Tensor] | None = None
    parameters: Callable[[LossSettings, int], dict[str, float]] = _no_parameters
    uses_temperature: bool = True
    negatives: tuple[str, ...] = ()


LOSSES: dict[str, Loss] = {
    "softmax": Loss("cross-entropy over all negatives of the step", kind="softmax"),
    "bce": Loss("binary cross-entropy", function=binary_cross_entropy),
    "gbce": Loss(
        "binary cross-entropy calibrated for the sampling rate",
        function=gbce,
        parameters=_calibration,
        negatives=("uniform",),
    ),
    "cosine_regression": Loss(
        "squared error to 1 and -1", function=cosine_regression, uses_temperature=False
    ),
    "bpr": Loss("Bayesian personalised ranking", function=bpr),
    "hinge": Loss(
        "triplet loss with a margin", function=hinge, parameters=_margin, uses_temperature=False
    ),
    "cosine_contrastive": Loss(
        "that of SimpleX",
        function=cosine_contrastive,
        parameters=_contrast,
        uses_temperature=False,
    ),
    "squared": Loss(
        "squared error over all pairs of users and items, without sampling",
        kind="whole_data",
        uses_temperature=False,
    ),
}
"""The values of the setting `objective.loss`."""
