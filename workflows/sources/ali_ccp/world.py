"""The made-up world of the generator: sizes, clusters, and what its users click.

Every item belongs to a cluster, and so do the category, shop, brand and intentions of an item.
Every user prefers two clusters: they are shown items of them more often, and click on them more
often; the users' features and lists tell which clusters these are. Within a cluster, the popularity
of items falls with their rank as in Zipf's law. So popularity predicts a little, and a model of
features predicts much more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from twotower.workflows.sources.ali_ccp.compiled import compiled

ROWS, COMMON_ROWS = 42_300_135, 730_600
"""Lines of the real training files."""
USERS, ITEMS = 294_736, 3_078_306
"""Largest ids of the real set; here they are the numbers of users and items."""
NEW_USERS, NEW_ITEMS = 0.26, 0.28
"""Shares of the users and items of the test part that the training part does not have."""
CATEGORIES, SHOPS, BRANDS, INTENTIONS = 8_581, 604_498, 208_179, 96_258
IN_LISTS = (6_086 / CATEGORIES, 116_741 / SHOPS, 58_015 / BRANDS, 33_786 / INTENTIONS)
"""Shares of the categories, shops, brands and intentions that occur in the lists of users."""
COMBINED = (7_735 / CATEGORIES, 384_343 / SHOPS, 142_632 / BRANDS, 74_317 / INTENTIONS)
"""The same for the features of a user together with an item."""
LIST_SHARES = (0.2, 0.4, 0.2, 0.2)
"""Shares of the four lists among the features of the lists."""
OTHERS = 17
"""Mean number of features of an impression that are not in these lists."""
SIGMA = 0.56
"""Spread of the log-normal number of features; the real ratio of its P99 to its mean follows."""
CLICKS, CONVERSIONS = 0.04, 0.005
FIRST, SECOND = 0.5, 0.2
"""Shares of the impressions that are drawn from a user's two clusters; the rest is from all."""
MATCH = np.array([0.5, 2.0, 3.0])
"""Factor of the click rate for an item of no preferred cluster, of the second and of the first."""
POSITIONS = np.array([1.0, 1.5, 1.0, 0.6])
"""Factor of the click rate by the position; that of place 0 is for an unknown one."""
UNKNOWN_POSITION = 0.04
USER_SIZES = np.array([98, 14, 3, 8, 4, 4, 3, 5])
"""Values of the features of users with one value, in the order of the fields."""
USER_MISSING = np.array([0.02, 0.02, 0.01, 0.05, 0.45, 0.1, 0.02, 0.1])
USER_MATCH = np.array([0.8, 0.6, 0.4, 0.5, 0.4, 0.4, 0.3, 0.4])
"""Probability that a feature of a user is that of the user's first cluster."""


class World(NamedTuple):
    """The parameters of a made-up world, in a form that compiled functions can read.

    Attributes
    ----------
    seed : int
    clusters : int
    items : int
        Number of items.
    item_step : int
        See `step_of`.
    items_train, items_new : int
        Items per cluster that occur in train, and those that occur only in test.
    sizes : ndarray of int64, shape (4,)
        Number of categories, shops, brands and intentions; each a multiple of `clusters`.
    steps : ndarray of int64, shape (4,)
        Their `step_of`.
    limits : ndarray of int64, shape (2, 4)
        How many of them occur in the lists of users, and together with an item.
    weights : ndarray of float64, shape (clusters,)
        Cumulative shares of the clusters among users and impressions.
    base : float
        Click rate of an impression whose factors are 1.
    mean : float
        Mean number of features in the lists of a line.
    """

    seed: int
    clusters: int
    items: int
    item_step: int
    items_train: int
    items_new: int
    sizes: np.ndarray
    steps: np.ndarray
    limits: np.ndarray
    weights: np.ndarray
    base: float
    mean: float


def make_world(rows: int, tokens: int, seed: int) -> World:
    """Choose the parameters for a number of impressions in train.

    Parameters
    ----------
    rows : int
    tokens : int
        Mean number of features of an impression together with its common features.
    seed : int
    """
    scale = min(rows / ROWS, 1.0)
    items = max(int(ITEMS * scale), 200)
    clusters = int(np.clip(items // 150, 4, 64))
    per_cluster = items // clusters
    items_new = max(per_cluster // 6, 1)
    # At least as many values as long lists need.
    lists = max(tokens - OTHERS, 4)
    shares = zip(LIST_SHARES, IN_LISTS, strict=True)
    least = np.array([8 * share * lists / part for share, part in shares])
    real = np.array([CATEGORIES, SHOPS, BRANDS, INTENTIONS])
    sizes = np.maximum(real * scale**0.7, least).astype(np.int64)
    sizes = np.maximum(np.minimum(sizes, real) // clusters, 2) * clusters
    limits = np.array([np.ceil(sizes * IN_LISTS), np.ceil(sizes * COMBINED)]).astype(np.int64)
    of_clusters = (np.arange(clusters) + 3.0) ** -0.5
    of_clusters /= of_clusters.sum()
    # A user's clusters are also hit by the impressions that are drawn from all clusters.
    others = 1 - FIRST - SECOND
    by_chance = others * float((of_clusters**2).sum())
    hits = np.array([1 - FIRST - SECOND - 2 * by_chance, SECOND + by_chance, FIRST + by_chance])
    known = (1 - UNKNOWN_POSITION) * POSITIONS[1:].mean() + UNKNOWN_POSITION * POSITIONS[0]
    return World(
        seed=seed,
        clusters=clusters,
        items=clusters * per_cluster,
        item_step=step_of(clusters * per_cluster),
        items_train=per_cluster - items_new,
        items_new=items_new,
        sizes=sizes,
        steps=np.array([step_of(int(size)) for size in sizes]),
        limits=limits,
        weights=np.cumsum(of_clusters),
        base=CLICKS / float((hits * MATCH).sum() * known),
        mean=float(lists),
    )


@compiled
def uniform(seed, stream, a, b):
    """Draw a number from 0 to 1 that depends on nothing but the arguments (splitmix64)."""
    z = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(stream)
    for part in (a, b):
        z = (z ^ np.uint64(part)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@compiled
def pick(u, size):
    """Choose one of `size` places with a number from 0 to 1."""
    return min(np.int64(u * size), size - 1)


@compiled
def zipf(u, size):
    """Choose a rank, from 0, with probabilities that fall as log((r + 2) / (r + 1))."""
    return min(np.int64(np.exp(u * np.log(size + 1.0))) - 1, size - 1)


@compiled
def cluster_of_user(world, user, which):
    """The first (which 0) or second (which 1) preferred cluster of a user."""
    first = np.searchsorted(world.weights, uniform(world.seed, 1, user, 0))
    first = min(first, world.clusters - 1)
    if which == 0:
        return first
    second = np.searchsorted(world.weights, uniform(world.seed, 1, user, 1))
    second = min(second, world.clusters - 1)
    return (second + 1) % world.clusters if second == first else second


@compiled
def item_value(world, item, kind, number):
    """The category, shop, brand or an intention (kind 0 to 3) of an item; -1 if missing."""
    missing = 0.1 if kind == 2 else (0.05 if kind == 3 else 0.0)
    if uniform(world.seed, 2, item, kind) < missing:
        return -1
    size = world.sizes[kind] // world.clusters
    u = uniform(world.seed, 3, item, kind)
    place = (pick(u * u, size) + number) % size
    return item % world.clusters + world.clusters * place


@compiled
def click_rate(world, item, first, second):
    """Click rate of an item, without the position, for a user with two clusters."""
    cluster = item % world.clusters
    match = MATCH[2] if cluster == first else (MATCH[1] if cluster == second else MATCH[0])
    return world.base * match * (0.5 + uniform(world.seed, 4, item, 0))


def step_of(size: int) -> int:
    """A factor that makes `scrambled` a permutation."""
    step = int(size * 0.6180339887) | 1
    while math.gcd(step, size) != 1:
        step += 2
    return step


@compiled
def scrambled(value, size, step):
    """Number a value from 1 so that its id does not tell its cluster or rank."""
    return 1 + (value * step) % size


def item_ids(world: World) -> np.ndarray:
    """The ids of all items: int64, shape (items,)."""
    return scrambled(np.arange(world.items), world.items, world.item_step)


@compiled
def _rates(world, users, rates):
    for row in range(len(users)):
        first = cluster_of_user(world, users[row], 0)
        second = cluster_of_user(world, users[row], 1)
        for item in range(rates.shape[1]):
            cluster, rank = item % world.clusters, item // world.clusters
            if rank >= world.items_train:
                continue
            before = world.weights[cluster - 1] if cluster else 0.0
            shown = (1 - FIRST - SECOND) * (world.weights[cluster] - before)
            shown += FIRST * (cluster == first) + SECOND * (cluster == second)
            shown *= np.log((rank + 2.0) / (rank + 1.0)) / np.log(world.items_train + 1.0)
            rates[row, item] = shown * click_rate(world, item, first, second)


def click_rates(world: World, users: np.ndarray) -> np.ndarray:
    """Compute how often users click on the items of train, which is the best possible ranking.

    Parameters
    ----------
    world : World
    users : ndarray of int64, shape (n,)
        User numbers from 0.

    Returns
    -------
    ndarray of float64, shape (n, items)
        Expected clicks per impression, in the order of `item_ids`; 0 for items of test only.
    """
    rates = np.zeros((len(users), world.items))
    _rates(world, users, rates)
    return rates
