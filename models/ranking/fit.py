"""Fits a ranking model on the candidates of users, and chooses the epoch on other users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize
from scipy.special import expit

from twotower.models.errors import ModelError
from twotower.models.ranking.base import Network, RankingNetwork, served_logit
from twotower.models.ranking.candidates import Candidates, Table, ndcg
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.losses import LOSS_FUNCTIONS, two_labels
from twotower.models.ranking.options import TWO_LABELS
from twotower.models.ranking.position import PositionBias
from twotower.models.training.optimizers import LazyAdam

ROWS_AT_ONCE = 1 << 16
"""Number of candidates that are scored at a time."""

BENDS = (0.5, 0.9, 0.97, 0.75)
"""Shares of the logits below each bend of the scale, in the order in which they are added."""
POSITIVES_PER_BEND = 100
"""Number of positives of users held out for each bend."""

Progress = Callable[[int, int, str], None]
Measure = Callable[[Candidates, np.ndarray], float]


@dataclass
class RankingModel:
    """A network with the tables that it reads, and the scale of its probabilities.

    Attributes
    ----------
    network : Network
    users, items : mapping of str to ndarray of int32, shape (rows, width)
        The encoded tables.
    slope, intercept : float
    bends : sequence of (float, float)
        A candidate with the logit x is a positive with the probability sigmoid(slope * x +
        intercept + the sum of change * max(x - knot, 0) over the bends (knot, change)). Without
        bends this is the scale of Platt, 1999.
    history : dict of str to list of float
        The training loss, and the metric of the users held out, of each epoch.
    bias : PositionBias or None
        What has been learned of positions. It is not saved, because it is not served.
    """

    network: Network
    users: Table
    items: Table
    slope: float = 1.0
    intercept: float = 0.0
    bends: Sequence[tuple[float, float]] = ()
    history: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "held_out": []})
    bias: PositionBias | None = None

    def logits(self, candidates: Candidates) -> np.ndarray:
        """Return the logits of candidates, float32 [n, c]; those of padding mean nothing."""
        return self._in_parts(candidates, self.network.head)

    def probabilities(self, candidates: Candidates) -> np.ndarray:
        """Return the probabilities that candidates are positives, float32 [n, c]."""
        return self._scaled(self.logits(candidates))

    def probabilities_as_shown(self, candidates: Candidates) -> np.ndarray:
        """Return the probabilities of rows at their positions, see `logits_as_shown`."""
        return self._scaled(self.logits_as_shown(candidates))

    def _scaled(self, logits: np.ndarray) -> np.ndarray:
        scaled = self.slope * logits + self.intercept
        for knot, change in self.bends:
            scaled += change * np.maximum(logits - knot, 0)
        return expit(scaled).astype(np.float32)

    def logits_as_shown(self, candidates: Candidates) -> np.ndarray:
        """Return the logits of rows at their positions, or else `logits` if there are none."""
        if self.bias is None:
            return self.logits(candidates)
        return served_logit(tf.constant(self._label_logits(candidates))).numpy()

    def label_probabilities(self, candidates: Candidates) -> np.ndarray:
        """Return the unscaled probabilities of each label, float32 [n, c, labels].

        The second one is that of a positive given an interaction. Those of rows with positions are
        at their positions. A network that was saved has only the product of both.
        """
        return expit(self._label_logits(candidates)).astype(np.float32)

    def _label_logits(self, candidates: Candidates) -> np.ndarray:
        """Return the logits of each label, at the positions of rows, float32 [n, c, labels]."""
        assert isinstance(self.network, RankingNetwork)
        logits = self._in_parts(candidates, self.network.label_logits)
        if self.bias is None:
            return logits
        return self.bias.added(logits, candidates.positions).numpy()

    def _in_parts(self, candidates: Candidates, head: Callable[..., tf.Tensor]) -> np.ndarray:
        """Return what `head` or `label_logits` gives, [n, c, ...], for some users at a time."""
        count, width = candidates.items.shape
        size = max(1, ROWS_AT_ONCE // max(width, 1))
        found = []
        for start in range(0, max(count, 1), size):
            part = candidates.take(np.arange(start, min(start + size, count)))
            found.append(_logits(self, head, *_tensors(self, part), training=False).numpy())
        return np.concatenate(found)


def fit_ranking(
    model: RankingModel,
    train: Candidates,
    held_out: Candidates,
    config: RankingConfig,
    seed: int = 42,
    progress: Progress | None = None,
    measure: Measure = ndcg,
) -> RankingModel:
    """Fit until the metric of the users held out stops improving, and keep the best epoch.

    Then the scale of the probabilities is fitted on these users: those of the training users are
    too sure.

    Parameters
    ----------
    model : RankingModel
        Its weights and its history change.
    train, held_out : Candidates
        Of different users.
    config : RankingConfig
    seed : int
        Of the order of the users and of dropout.
    progress : callable (done, total, text), optional
        Called after each epoch.
    measure : callable (candidates, logits) -> float
        The metric, which is better if it is higher. By default NDCG@10.

    Returns
    -------
    RankingModel
        The given one.

    Raises
    ------
    ModelError
        If no candidate of a part is a positive, or all are, or the loss has nothing to compare.
    """
    network = model.network
    assert isinstance(network, RankingNetwork)  # one that was saved cannot be trained
    _check(train, held_out, config)
    tf.keras.utils.set_random_seed(seed)
    # Creates the weights.
    _logits(model, network.head, *_tensors(model, train.take(np.arange(1))), training=False)
    if train.positions is not None:
        model.bias = _position_bias(train, held_out)
    step = _training_step(model, network, config)
    variables = [*network.variables, *(model.bias.variables if model.bias else ())]
    order, best, chosen = np.random.default_rng(seed), -1, -np.inf
    weights: list[np.ndarray] = []
    for epoch in range(config.epochs):
        loss = _train_epoch(model, train, config, step, order)
        reached = measure(held_out, model.logits_as_shown(held_out))
        model.history["loss"].append(loss)
        model.history["held_out"].append(reached)
        if not np.isfinite(loss):
            raise ModelError("ranking: the loss is not finite; lower ranking.learning_rate")
        if reached > chosen:
            best, chosen = epoch, reached
            weights = [variable.numpy() for variable in variables]
        if progress is not None:
            text = f"loss {loss:.4f}, held out {reached:.4f}"
            progress(epoch + 1, config.epochs, text)
        if epoch - best >= config.patience:
            break
    for variable, value in zip(variables, weights, strict=True):
        variable.assign(value)
    _fit_scale(model, held_out)
    return model


def _train_epoch(
    model: RankingModel,
    train: Candidates,
    config: RankingConfig,
    step: Callable[..., tf.Tensor],
    order: np.random.Generator,
) -> float:
    """Train on all users once, in a random order, and return the mean loss."""
    total, users = 0.0, order.permutation(len(train.users))
    for start in range(0, len(users), config.batch_users):
        batch = train.take(users[start : start + config.batch_users])
        labels = tf.constant(_labels(batch, config), tf.float32)
        mask = tf.constant(batch.mask, tf.float32)
        value = step(*_tensors(model, batch), labels, mask, batch.positions)
        total += float(value) * len(batch.users)
    return total / len(users)


def _training_step(
    model: RankingModel, network: RankingNetwork, config: RankingConfig
) -> Callable[..., tf.Tensor]:
    """Return the function that trains on a batch, as `_tensors` returns it, and its labels."""
    bias, optimizer = model.bias, LazyAdam(config.learning_rate)
    weights = [*network.trainable_variables, *(bias.trainable_variables if bias else ())]
    optimizer.build(weights)

    @tf.function(reduce_retracing=True, autograph=False)
    def step(users, items, features, labels, mask, positions):
        with tf.GradientTape() as tape:
            head = network.label_logits
            logits = _logits(model, head, users, items, features, training=True)
            if bias is not None:
                logits = bias.added(logits, positions)
            value = _loss(logits, labels, mask, config)
        gradients = tape.gradient(value, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    return step


def _position_bias(*parts: Candidates) -> PositionBias:
    """Return the term of the positions of rows, with a number for each position."""
    found = [part.positions[part.mask] for part in parts if part.positions is not None]
    return PositionBias(np.concatenate(found))


def _loss(
    logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor, config: RankingConfig
) -> tf.Tensor:
    """Return the training loss; logits and labels have the shape [n, c, labels]."""
    if config.model in TWO_LABELS:
        return two_labels(logits, labels, mask)
    return LOSS_FUNCTIONS[config.training_loss](logits[..., 0], labels[..., 0], mask)


def _labels(candidates: Candidates, config: RankingConfig) -> np.ndarray:
    """Return the labels that the network learns, bool [n, c, labels]."""
    if config.model not in TWO_LABELS:
        return candidates.labels[..., None]
    assert candidates.clicks is not None
    return np.stack([candidates.clicks, candidates.labels], axis=-1)


def _check(train: Candidates, held_out: Candidates, config: RankingConfig) -> None:
    """Raise ModelError if there is nothing to learn."""
    _check_labels(train, "training users", config)
    _check_labels(held_out, "users held out", config)
    if config.model in TWO_LABELS:
        _check_clicks(train, config)
    _check_loss(train, config)


def _check_labels(part: Candidates, name: str, config: RankingConfig) -> None:
    """Raise ModelError if no row of a part has the label, or all have."""
    positives, count = int((part.labels & part.mask).sum()), int(part.mask.sum())
    if not positives or positives == count:
        is_log = config.rows == "interactions"
        label = "conversions" if config.conversion else "positives"
        more = "Give split.ratios a larger valid part" if is_log else "Raise ranking.candidates"
        raise ModelError(
            f"ranking: {positives:,} of the {count:,} {config.rows} of the {name} are {label} in "
            f"valid; the ranking model learns from both kinds. {more}, or remove ranking.model"
        )


def _check_clicks(part: Candidates, config: RankingConfig) -> None:
    """Raise ModelError if the two labels are the same, so that there is no second one to learn."""
    assert part.clicks is not None
    clicks, both = (int((each & part.mask).sum()) for each in (part.clicks, part.labels))
    if clicks == both:
        same = "positives are conversions" if config.conversion else "interactions are positives"
        raise ModelError(
            f"ranking.model {config.model} learns two labels, but all {clicks:,} {same} among the "
            f"{config.rows} of the training users; choose a network with one label, such as mlp"
        )


def _check_loss(part: Candidates, config: RankingConfig) -> None:
    """Raise ModelError if a loss compares the candidates of a user, and nobody has both kinds."""
    positives = (part.labels & part.mask).sum(axis=1)
    if (
        config.training_loss != "binary"
        and not ((positives > 0) & (positives < part.mask.sum(axis=1))).any()
    ):
        raise ModelError(
            f"ranking.loss {config.training_loss} compares the positives of a user with other "
            "candidates, but no user has both; set it to binary"
        )


def _tensors(model: RankingModel, candidates: Candidates) -> tuple[dict, dict, tf.Tensor]:
    """Return the encoded users [n, w], items [n * c, w] and features [n, c, n_features]."""
    rows = np.maximum(candidates.items, 0).ravel()
    users = {
        name: tf.constant(np.asarray(model.users[name])[candidates.users])
        for name in model.network.user_columns
    }
    items = {
        name: tf.constant(np.asarray(model.items[name])[rows])
        for name in model.network.item_columns
    }
    return users, items, tf.constant(candidates.features)


def _logits(
    model: RankingModel,
    head: Callable[..., tf.Tensor],
    users: dict,
    items: dict,
    features: tf.Tensor,
    training: bool,
) -> tf.Tensor:
    """Return the logits [n, c, ...] of what `_tensors` returns, by one of the network's heads."""
    n, c = tf.shape(features)[0], tf.shape(features)[1]
    empty = {"": tf.zeros([n, 1], tf.int32)}
    user = tf.repeat(model.network.user_part(users or empty), c, axis=0)
    item = model.network.item_part(items or {"": tf.zeros([n * c, 1], tf.int32)})
    flat = tf.reshape(features, [n * c, features.shape[2]])
    logits = head(user, item, flat, training=training)
    return tf.reshape(logits, tf.concat([[n, c], tf.shape(logits)[1:]], axis=0))


def _fit_scale(model: RankingModel, candidates: Candidates) -> None:
    """Set the scale so that the log loss of the probabilities is least.

    The logit of the probability is a line with a few bends, because the logits of a loss that
    compares the candidates of a user are not those of a probability, up to a factor.
    """
    x = model.logits_as_shown(candidates)[candidates.mask].astype(np.float64)
    y = candidates.labels[candidates.mask].astype(np.float64)
    count = min(len(BENDS), int(y.sum()) // POSITIVES_PER_BEND)
    knots = np.unique(np.quantile(x, BENDS[:count]))
    # The length of x in each segment between knots, whose slopes are fitted.
    ends = np.concatenate([[min(x.min(), 0.0)], knots, [np.inf]])
    lengths = np.stack([np.clip(x, low, high) - low for low, high in pairwise(ends)], axis=1)
    lengths[:, 0] += ends[0]

    def log_loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = lengths @ parameters[1:] + parameters[0]
        difference = expit(z) - y
        value = np.logaddexp(0, z) - y * z
        gradient = np.append(difference.mean(), lengths.T @ difference / len(y))
        return float(value.mean()), gradient

    segments = lengths.shape[1]
    start = np.append(0.0, np.ones(segments))
    # No slope below 0: the order of the probabilities is that of the logits.
    bounds = [(-1e3, 1e3), *[(1e-3, 1e3)] * segments]
    found = minimize(log_loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    intercept, slope, *others = (float(value) for value in found.x)
    model.intercept, model.slope = intercept, slope
    changes = np.diff([slope, *others])
    model.bends = [
        (float(knot), float(change)) for knot, change in zip(knots, changes, strict=True)
    ]
