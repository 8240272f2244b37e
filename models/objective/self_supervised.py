"""A self-supervised task for items with few interactions: recognise an item by half its features.

Self-supervised learning for large-scale item recommendations (Yao et al., CIKM 2021,
arXiv 2007.12865). Items are drawn uniformly, not by popularity. Two views of each item hide
complementary features, and the item tower learns to give both views similar vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.random.experimental import stateless_split

from twotower.models.batch_keys import OUT_OF_VOCABULARY, VIEW, VIEWED
from twotower.models.errors import ModelError
from twotower.models.objective.config import SelfSupervisedConfig
from twotower.models.objective.losses import sampled_softmax
from twotower.models.objective.sampling import sample_uniform

Features = dict[str, tf.Tensor]
MAX_COUNTED_ITEMS = 100_000
"""Maximum number of items used to estimate the mutual information of features. More items change
the shares of values by about a thousandth, and sorting a large catalogue takes minutes."""


def mutual_information(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Mutual information of every two feature columns, in nats.

    Parameters
    ----------
    columns : sequence of k ndarrays, shape (items,) or (items, width)
        A row of a multi-hot column is one value. Numbers should be binned: a column without
        repeated values determines every other column.

    Returns
    -------
    ndarray of float64, shape (k, k)
        The sum over pairs of values of p(a, b) * log(p(a, b) / (p(a) * p(b))), 0 or more, where p
        are shares of the items. The diagonal has the entropies.
    """
    flat = [np.reshape(column, (len(column), -1)) for column in columns]
    values = [np.unique(column, axis=0, return_inverse=True)[1] for column in flat]
    entropy = np.array([_entropy(value) for value in values])
    # I(a; b) = H(a) + H(b) - H(a, b)
    information = np.diag(entropy)
    for a, one in enumerate(values):
        for b, other in enumerate(values[:a]):
            both = _entropy(one.astype(np.int64) * (other.max() + 1) + other)
            # Rounding errors may make it negative.
            shared = max(entropy[a] + entropy[b] - both, 0.0)
            information[a, b] = information[b, a] = shared
    return information


def _entropy(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def correlated_masks(information: np.ndarray) -> np.ndarray:
    """The feature sets of correlated feature masking.

    Set f has the feature f and the k // 2 features that share most information with it, so that one
    view does not show what the other view hides. At least one feature is not in the set.

    Parameters
    ----------
    information : ndarray of float, shape (k, k)
        From `mutual_information`; k is 2 or more.

    Returns
    -------
    ndarray of bool, shape (k, k)
        Row f is set f.
    """
    k = len(information)
    others = np.array(information, np.float64)
    np.fill_diagonal(others, np.inf)
    order = np.argsort(-others, axis=1, kind="stable")[:, : 1 + min(k // 2, k - 2)]
    masks = np.zeros((k, k), bool)
    np.put_along_axis(masks, order, True, axis=1)
    return masks


def correlated_sets(items: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute `correlated_masks` of the columns of an item table.

    Numbers are binned into tenths of the items. An id determines every other column, so with three
    columns or more it is in every set.

    Parameters
    ----------
    items : mapping of str to ndarray of int or float, shape (n_items, width)
        k columns.

    Returns
    -------
    ndarray of bool, shape (k, k)
    """
    n_items = len(next(iter(items.values())))
    rows = np.random.default_rng(0).permutation(n_items)[:MAX_COUNTED_ITEMS]
    return correlated_masks(mutual_information([_binned(v[rows]) for v in items.values()]))


def _binned(values: np.ndarray) -> np.ndarray:
    """Replace numbers [n, width] by the tenth of their column, 0 to 9; leave codes unchanged."""
    if values.dtype.kind != "f":
        return values
    bounds = np.quantile(values, np.arange(1, 10) / 10, axis=0)
    tenths = np.zeros(values.shape, np.int8)
    for bound in bounds:
        tenths += values > bound
    return tenths


def two_views(
    features: Mapping[str, tf.Tensor],
    mask_sets: np.ndarray | None,
    seed: tf.Tensor,
    *,
    dropout: float = 0.0,
    lists: Collection[str] = (),
) -> tuple[Features, Features]:
    """Create two views of a batch of items; each feature is hidden in one of them.

    All items of the batch hide the same features; otherwise the hidden features alone would
    distinguish items. Hidden codes become out-of-vocabulary, like unknown values, and hidden
    numbers become 0, the mean.

    Parameters
    ----------
    features : mapping of str to Tensor of int or float, shape (n, width)
        k features.
    mask_sets : ndarray of bool, shape (sets, k), or None
        Sets of features, in the order of `features`, from `correlated_masks`. The first view hides
        a random set, the second view all other features. None: a random half (random feature
        masking).
    seed : Tensor of int32, shape (2,)
    dropout : float
        The probability, 0 to below 1, of also hiding each value of a list, independently in both
        views.
    lists : collection of str
        The features that are lists, of any width.

    Returns
    -------
    tuple of two dicts of str to Tensor
        The shapes and types of `features`.
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
    """Return `features` without those that are `hidden`, bool [k], and without dropped values."""
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
    """Mean over the items of -log softmax of an item's two views among all second views.

    Parameters
    ----------
    first, second : Tensor of float32, shape (n, dim)
        The item tower's vectors of both views.
    temperature : float
        Above 0.
    rows : Tensor of int, shape (n,)
        The row of each item. An item that is drawn twice is not its own negative.

    Returns
    -------
    Tensor of float32, shape ()

    Notes
    -----
    With s(i, j) the cosine of the first view of i and the second view of j, divided by the
    temperature, it is the mean over i of log(sum over j of exp s(i, j)) - s(i, i) (InfoNCE: van den
    Oord et al., 2018).
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
    """Create the function that adds two views of random items to a batch.

    Parameters
    ----------
    config : SelfSupervisedConfig or None
        None for no such function.
    items : mapping of str to ndarray of int or float, shape (n_items, width)
        The columns of the item table.
    lists : collection of str
        The columns that are lists.

    Returns
    -------
    callable or None
        From the item table and a seed int32 [2] to the features that `views_loss` needs: the rows
        drawn, int32 [n], and for every column the first views and then the second views,
        [2 n, width]. All rows are equally likely, with or without positives.

    Raises
    ------
    ModelError
        If the table has a single column, which cannot be split into two views.
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
    n_drawn, dropout = config.items, config.dropout

    def views(table: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Features:
        of_rows, of_views = tf.unstack(stateless_split(seed, 2))
        rows = sample_uniform(n_drawn, n_items, of_rows)
        features = {name: tf.gather(values, rows) for name, values in table.items()}
        both = two_views(features, sets, of_views, dropout=dropout, lists=lists)
        views = {VIEW + name: tf.concat([view[name] for view in both], 0) for name in features}
        return {VIEWED: rows, **views}

    return views


def views_loss(
    config: SelfSupervisedConfig,
    encoder: Callable[..., tf.Tensor],
    batch: Mapping[str, tf.Tensor],
) -> tf.Tensor:
    """Compute the weighted `contrastive_loss` of a batch.

    Parameters
    ----------
    config : SelfSupervisedConfig
    encoder : callable
        The item tower, from columns [n, width] to float32 [n, dim].
    batch : mapping of str to Tensor
        Has the features of `item_views`.

    Returns
    -------
    Tensor of float32, shape ()
    """
    views = {
        name.removeprefix(VIEW): values for name, values in batch.items() if name.startswith(VIEW)
    }
    first, second = tf.split(encoder(views, training=True), 2)
    return config.weight * contrastive_loss(first, second, config.temperature, batch[VIEWED])
