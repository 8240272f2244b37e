"""Draw common features and impressions of a made-up world, as arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.workflows.sources.ali_ccp.compiled import compiled
from twotower.workflows.sources.ali_ccp.fields import COMBINED, HISTORY, ITEM, POSITION, USER
from twotower.workflows.sources.ali_ccp.world import (
    CONVERSIONS,
    FIRST,
    LIST_SHARES,
    POSITIONS,
    SECOND,
    SIGMA,
    UNKNOWN_POSITION,
    USER_MATCH,
    USER_MISSING,
    USER_SIZES,
    World,
    click_rate,
    cluster_of_user,
    item_value,
    pick,
    scrambled,
    step_of,
    uniform,
    zipf,
)

FIELDS = (*USER, *HISTORY, *ITEM, *COMBINED, POSITION)
"""All fields: a feature has the place of its field here."""
MAX_COUNT = 255
_HISTORY, _ITEM = len(USER), len(USER) + len(HISTORY)
_COMBINED, _POSITION = _ITEM + len(ITEM), len(FIELDS) - 1
_SHARES = np.array(LIST_SHARES)


class Features(NamedTuple):
    """The features of lines.

    Attributes
    ----------
    ends : ndarray of int64, shape (n,)
        Where the features of each line end.
    field : ndarray of int8
        The place of the field in `FIELDS`.
    feature : ndarray of int64
    counts : ndarray of uint8
        0 for the value 1, otherwise the value is log(1 + count).
    """

    ends: np.ndarray
    field: np.ndarray
    feature: np.ndarray
    counts: np.ndarray


class Impressions(NamedTuple):
    """What is in a line of impressions besides the features.

    Attributes
    ----------
    common : ndarray of int64, shape (n,)
        The number of the line with the common features.
    click, conversion : ndarray of int8, shape (n,)
    """

    common: np.ndarray
    click: np.ndarray
    conversion: np.ndarray


@compiled
def _id_of(world, kind, value):
    return scrambled(value, world.sizes[kind], world.steps[kind])


@compiled
def _count(u, mean):
    return min(1 + np.int64(-np.log(1.0 - u) * mean), MAX_COUNT)


@compiled
def _normal(u, v):
    return np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * np.pi * v)


@compiled
def _free(world, kind, value, seen, mark, u):
    """Find a value near the wanted one that the line does not have yet."""
    limit = world.limits[0, kind]
    for _ in range(4):
        value = value if value < limit else value % limit
        if seen[value] != mark:
            return value
        value += world.clusters
    value = pick(u, limit)
    while seen[value] == mark:
        value = (value + 1) % limit
    return value


@compiled
def _lengths(world, stream, number, lengths):
    """Draw the lengths of the lists of a line."""
    seed = world.seed
    spread = _normal(uniform(seed, stream, number, 1), uniform(seed, stream, number, 2))
    total = world.mean * np.exp(SIGMA * spread - SIGMA * SIGMA / 2)
    for kind in range(4):
        length = np.int64(total * _SHARES[kind] + uniform(seed, stream, number, 3 + kind))
        lengths[kind] = min(length, world.limits[0, kind] // 2)


@compiled
def _all_lengths(world, stream, start, lengths):
    for row in range(len(lengths)):
        _lengths(world, stream, start + row, lengths[row])


@compiled
def _lists(world, stream, number, first, second, lengths, seen, size, out):
    """Draw the lists of a line; returns the number of features so far."""
    seed = world.seed
    _, field, feature, count = out
    for kind in range(4):
        mark = number * 4 + kind + 1
        places = world.sizes[kind] // world.clusters
        for place in range(lengths[kind]):
            at = 16 + 4 * (place * 4 + kind)
            u = uniform(seed, stream, number, at)
            cluster, mean = pick(uniform(seed, stream, number, at + 1), world.clusters), 1.0
            if u < 0.5:
                cluster, mean = first, 8.0
            elif u < 0.75:
                cluster, mean = second, 5.0
            v = uniform(seed, stream, number, at + 2)
            wanted = cluster + world.clusters * pick(v * v, places)
            value = _free(world, kind, wanted, seen[kind], mark, v)
            if value % world.clusters != cluster:
                mean = 1.0
            seen[kind, value] = mark
            field[size], feature[size] = _HISTORY + kind, _id_of(world, kind, value)
            count[size] = _count(uniform(seed, stream, number, at + 3), mean)
            size += 1
    return size


@compiled
def _draw_common(world, stream, start, users, all_users, step, lengths, seen, out):
    ends, field, feature, count = out
    size = 0
    for row in range(len(users)):
        user, number = users[row], start + row
        first, second = cluster_of_user(world, user, 0), cluster_of_user(world, user, 1)
        field[size], feature[size], count[size] = 0, scrambled(user, all_users, step), 0
        size += 1
        for kind in range(len(USER_SIZES)):
            if uniform(world.seed, 5, user, kind) < USER_MISSING[kind]:
                continue
            of = pick(uniform(world.seed, 6, first, kind), USER_SIZES[kind])
            if uniform(world.seed, 7, user, kind) >= USER_MATCH[kind]:
                of = pick(uniform(world.seed, 8, user, kind), USER_SIZES[kind])
            field[size], feature[size], count[size] = 1 + kind, 1 + of, 0
            size += 1
        size = _lists(world, stream, number, first, second, lengths[row], seen, size, out)
        ends[row] = size
    return size


@compiled
def _draw_item(world, stream, row, first, second, new_share):
    """Draw the item of an impression."""
    u = uniform(world.seed, stream, row, 0)
    if u < FIRST:
        cluster = first
    elif u < FIRST + SECOND:
        cluster = second
    else:
        cluster = np.searchsorted(world.weights, uniform(world.seed, stream, row, 1))
        cluster = min(cluster, world.clusters - 1)
    v = uniform(world.seed, stream, row, 2)
    if uniform(world.seed, stream, row, 3) < new_share:
        rank = world.items_train + zipf(v, world.items_new)
    else:
        rank = zipf(v, world.items_train)
    return cluster + world.clusters * rank


@compiled
def _item_features(world, item, size, out):
    _, field, feature, count = out
    field[size], feature[size], count[size] = (
        _ITEM,
        scrambled(item, world.items, world.item_step),
        0,
    )
    size += 1
    for kind in range(4):
        u = uniform(world.seed, 9, item, 0)
        how_many = 1 + (u < 0.3) + (u < 0.1) if kind == 3 else 1
        for number in range(min(how_many, world.sizes[kind] // world.clusters)):
            value = item_value(world, item, kind, number)
            if value >= 0:
                field[size], count[size] = _ITEM + 1 + kind, 0
                feature[size] = _id_of(world, kind, value)
                size += 1
    return size


@compiled
def _draw_impressions(world, stream, start, common, users, new_share, drawn, out):
    ends, field, feature, count = out
    clicks, conversions = drawn
    seed, size = world.seed, 0
    for place in range(len(common)):
        row, user = start + place, users[place]
        first, second = cluster_of_user(world, user, 0), cluster_of_user(world, user, 1)
        item = _draw_item(world, stream, row, first, second, new_share)
        size = _item_features(world, item, size, out)
        matches = item % world.clusters == first or item % world.clusters == second
        for kind in range(4):
            value = item_value(world, item, kind, 0)
            has = 0.7 if matches else 0.08
            if value < 0 or value >= world.limits[1, kind]:
                continue
            if uniform(seed, stream, row, 8 + kind) < has:
                field[size], feature[size] = _COMBINED + kind, _id_of(world, kind, value)
                mean = 6.0 if matches else 1.5
                count[size] = _count(uniform(seed, stream, row, 12 + kind), mean)
                size += 1
        position = 0
        if uniform(seed, stream, row, 4) >= UNKNOWN_POSITION:
            position = 1 + pick(uniform(seed, stream, row, 5), len(POSITIONS) - 1)
            field[size], feature[size], count[size] = _POSITION, position, 0
            size += 1
        rate = click_rate(world, item, first, second) * POSITIONS[position]
        clicks[place] = uniform(seed, stream, row, 6) < rate
        converts = uniform(seed, stream, row, 7) < CONVERSIONS
        conversions[place] = clicks[place] and converts
        ends[place] = size
    return size


def draw_common(world: World, part: int, start: int, users: np.ndarray, all_users: int) -> Features:
    """Draw lines of common features.

    Parameters
    ----------
    world : World
    part : int
        0 for train, 1 for test.
    start : int
        The number of the first line in the file, from 0.
    users : ndarray of int64, shape (n,)
        The user number of each line, from 0.
    all_users : int
        The number of users.

    Returns
    -------
    Features
    """
    stream = 20 + part
    lengths = np.zeros((len(users), 4), dtype=np.int64)
    _all_lengths(world, stream, start, lengths)
    seen = np.zeros((4, int(world.limits[0].max())), dtype=np.int64)
    out = _buffers(len(users), int(lengths.sum()) + len(USER) * len(users))
    used = _draw_common(
        world, stream, start, users, all_users, step_of(all_users), lengths, seen, out
    )
    return _cut(out, used)


def draw_impressions(
    world: World,
    part: int,
    start: int,
    common: np.ndarray,
    users: np.ndarray,
    new_share: float,
) -> tuple[Impressions, Features]:
    """Draw lines of impressions.

    Parameters
    ----------
    world : World
    part, start : int
        As for `draw_common`.
    common, users : ndarray of int64, shape (n,)
        The number of the line with the common features, and its user.
    new_share : float
        Share of the impressions that show an item of test only.

    Returns
    -------
    Impressions, Features
    """
    drawn = (np.zeros(len(common), np.int8), np.zeros(len(common), np.int8))
    out = _buffers(len(common), 13 * len(common))
    used = _draw_impressions(world, 30 + part, start, common, users, new_share, drawn, out)
    return Impressions(common, *drawn), _cut(out, used)


def _buffers(lines: int, size: int) -> tuple[np.ndarray, ...]:
    return (
        np.empty(lines, np.int64),
        np.empty(size, np.int8),
        np.empty(size, np.int64),
        np.empty(size, np.uint8),
    )


def _cut(out: tuple[np.ndarray, ...], used: int) -> Features:
    return Features(out[0], *(each[:used] for each in out[1:]))
