"""A task beside retrieval, for items with few interactions: know an item by half of its features.

Self-supervised learning for large-scale item recommendations (Yao et al., CIKM 2021,
arXiv 2007.12865). Items are drawn uniformly and not by popularity, two views of each hide features
that complement each other, and the item tower's vectors of both are to be closest to one another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.random.experimental import stateless_split

from twotower.models.errors import ModelError
from twotower.models.objective.build import SelfSupervisedConfig
from twotower.models.objective.losses import sampled_softmax
from twotower.models.objective.negatives import sample_uniform
from twotower.models.towers.layers import OUT_OF_VOCABULARY

Features = dict[str, tf.Tensor]
MOST_COUNTED = 100_000
"""Maximum number of items used to estimate the mutual information of features. More items change
the shares of values by about a thousandth, and sorting a large catalogue takes minutes."""
# Features of a batch: the rows of the items drawn, and both views of them under a column's name.
VIEWED, VIEW = "_viewed", "_view:"


def mutual_information(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Of every two feature columns, in nats: float64 [k, k]; on the diagonal are the entropies.

    The sum over pairs of values of p(a, b) * log(p(a, b) / (p(a) * p(b))), 0 or more, where p are
    shares of the items.

    Parameters
    ----------
    columns : k of [items] or [items, width]; a multi-hot row is one value. Numbers should be in
        buckets, a column without repeats tells all of every other one
    """
    flat = [np.reshape(column, (len(column), -1)) for column in columns]
    values = [np.unique(column, axis=0, return_inverse=True)[1] for column in flat]
    entropy = np.array([_entropy(value) for value in values])
    # I(a; b) = H(a) + H(b) - H(a, b)
    information = np.diag(entropy)
    for a, one in enumerate(values):
        for b, other in enumerate(values[:a]):
            both = _entropy(one.astype(np.int64) * (other.max() + 1) + other)
            # Rounding may take it below 0.
            shared = max(entropy[a] + entropy[b] - both, 0.0)
            information[a, b] = information[b, a] = shared
    return information


def _entropy(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def correlated_masks(information: np.ndarray) -> np.ndarray:
    """The sets of correlated feature masking, bool [k, k]: row f hides what its seed f does.

    The seed and the k // 2 features that share most information with it, of which one view must
    not be told what the other one hides. One feature at least is left.

    Parameters
    ----------
    information : float [k, k], `mutual_information`; k is 2 or more

    Raises
    ------
    ValueError : of a single feature there are no two views
    """
    k = len(information)
    if k < 2:
        raise ValueError(f"two views need 2 item features or more, here are {k}")
    others = np.array(information, np.float64)
    np.fill_diagonal(others, np.inf)
    order = np.argsort(-others, axis=1, kind="stable")[:, : 1 + min(k // 2, k - 2)]
    masks = np.zeros((k, k), bool)
    np.put_along_axis(masks, order, True, axis=1)
    return masks


def correlated_sets(items: Mapping[str, np.ndarray]) -> np.ndarray:
    """`correlated_masks` of an item table's columns, bool [k, k].

    Numbers count as the tenth of the items they belong to. An id tells all of every other column:
    where there are three or more it is in every set.

    Parameters
    ----------
    items : k of int or float [n_items, width], by name
    """
    n_items = len(next(iter(items.values())))
    rows = np.random.default_rng(0).permutation(n_items)[:MOST_COUNTED]
    return correlated_masks(mutual_information([_buckets(v[rows]) for v in items.values()]))


def _buckets(values: np.ndarray) -> np.ndarray:
    """Codes as they are, of numbers [n, width] the tenths 0 to 9 of their column."""
    if values.dtype.kind != "f":
        return values
    bounds = np.quantile(values, np.arange(1, 10) / 10, axis=0)
    return sum((values > bound).astype(np.int8) for bound in bounds)


def two_views(
    features: Mapping[str, tf.Tensor],
    mask_sets: np.ndarray | None,
    seed: tf.Tensor,
    *,
    dropout: float = 0.0,
    lists: Collection[str] = (),
) -> tuple[Features, Features]:
    """The features of a batch of items twice, each feature hidden in one of the two views.

    One set is drawn for the whole batch; otherwise the hidden features alone would tell items
    apart. Hidden codes become out-of-vocabulary, as unknown values are, and hidden numbers 0, the
    mean.

    Parameters
    ----------
    features : int or float [n, width], by name
    mask_sets : bool [sets, k], in the order of `features`; the first view hides a set that is
        drawn uniformly, the second one all others. `correlated_masks`, or None for a random half
        (random feature masking)
    seed : int32 [2]
    dropout : 0 to below 1, the probability with which each value of a list is hidden as well, in
        each view by itself
    lists : the features that are lists, of any width
    """
    seeds = tf.unstack(stateless_split(seed, 3))
    k = len(features)
    if mask_sets is None:
        order = tf.argsort(tf.random.stateless_uniform([k], seeds[0]))
        hidden = tf.argsort(order) < k // 2
    else:
        drawn = tf.random.stateless_uniform([], seeds[0], 0, len(mask_sets), tf.int32)
        hidden = tf.constant(mask_sets)[drawn]
    return (
        _view(features, hidden, seeds[1], dropout, lists),
        _view(features, tf.logical_not(hidden), seeds[2], dropout, lists),
    )


def _view(
    features: Mapping[str, tf.Tensor],
    hidden: tf.Tensor,
    seed: tf.Tensor,
    dropout: float,
    lists: Collection[str],
) -> Features:
    """`features` without those that are `hidden`, bool [k], and without what is dropped out."""
    view = {}
    seeds = tf.unstack(stateless_split(seed, len(features)))
    for place, (name, values) in enumerate(features.items()):
        gone = tf.fill(tf.shape(values), hidden[place])
        if dropout and name in lists:
            noise = tf.random.stateless_uniform(tf.shape(values), seeds[place])
            gone = tf.logical_or(gone, noise < dropout)
        unknown = OUT_OF_VOCABULARY if values.dtype.is_integer else 0
        view[name] = tf.where(gone, tf.cast(unknown, values.dtype), values)
    return view


def contrastive_loss(
    first: tf.Tensor, second: tf.Tensor, temperature: float, rows: tf.Tensor
) -> tf.Tensor:
    """Mean over a batch's items of -log softmax of an item's two views among all second views.

    With s(i, j) the cosine of the first view of i and the second one of j, over the temperature, it
    is the mean over i of log(sum over j of exp s(i, j)) - s(i, i) (InfoNCE: van den Oord et al.,
    2018), float32 scalar.

    Parameters
    ----------
    first, second : float32 [n, D], the item tower's vectors of `two_views`
    temperature : above 0
    rows : int [n], the item of each row; an item that is drawn twice is no negative of itself
    """
    first, second = (tf.math.l2_normalize(each, axis=1) for each in (first, second))
    scores = tf.matmul(first, second, transpose_b=True) / temperature
    others = tf.not_equal(rows[:, None], rows)
    return tf.reduce_mean(sampled_softmax(tf.linalg.diag_part(scores), scores, others))


def item_views(
    config: SelfSupervisedConfig | None,
    items: Mapping[str, np.ndarray],
    lists: Collection[str] = (),
) -> Callable[[Mapping[str, tf.Tensor], tf.Tensor], Features] | None:
    """A function from the item table and a seed to what `views_loss` needs of a step.

    Its features are the rows drawn, int32 [n], and of every column both views, one after the
    other, [2 n, width]. All rows are as likely, with or without positives.

    Parameters
    ----------
    config : None for no such function
    items : the item table's columns, int or float [n_items, width]
    lists : the columns that are lists

    Raises
    ------
    ModelError : the table has a single column, of which there are no two views
    """
    if config is None:
        return None
    if len(items) < 2:
        raise ModelError(
            f"model.self_supervised hides item features from one another, but there is only "
            f"{', '.join(items)}; add one to features.item, item_multi_hot, item_text or "
            "item_numeric"
        )
    sets = correlated_sets(items) if config.masking == "correlated" else None
    n_items = len(next(iter(items.values())))

    def views(table: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Features:
        of_rows, of_views = tf.unstack(stateless_split(seed, 2))
        rows = sample_uniform(config.items, n_items, of_rows)
        features = {name: tf.gather(values, rows) for name, values in table.items()}
        both = two_views(features, sets, of_views, dropout=config.dropout, lists=lists)
        views = {VIEW + name: tf.concat([view[name] for view in both], 0) for name in features}
        return {VIEWED: rows, **views}

    return views


def views_loss(
    config: SelfSupervisedConfig,
    encoder: Callable[..., tf.Tensor],
    batch: Mapping[str, tf.Tensor],
) -> tf.Tensor:
    """The weight times the `contrastive_loss` of a step, float32 scalar.

    Parameters
    ----------
    encoder : the item tower, from columns [n, width] to float32 [n, D]
    batch : has the features of `item_views`
    """
    views = {
        name.removeprefix(VIEW): values for name, values in batch.items() if name.startswith(VIEW)
    }
    first, second = tf.split(encoder(views, training=True), 2)
    return config.weight * contrastive_loss(first, second, config.temperature, batch[VIEWED])
