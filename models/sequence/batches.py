"""Batches of an epoch: windows of the users' sequences, grouped by their length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JITTER = 0.2
"""Lengths are multiplied by up to 1 + this before sorting, so that batches differ by epoch."""


@dataclass(frozen=True)
class Sequences:
    """The items of each user, numbered 0, 1, ..., the earliest first.

    Attributes
    ----------
    items : ndarray of int32, shape (n,)
        Those of the first user, then those of the second, and so on.
    offsets : ndarray of int64, shape (n_users + 1,)
        The items of user u are `items[offsets[u] : offsets[u + 1]]`.
    """

    items: np.ndarray
    offsets: np.ndarray

    def kept(self, number: np.ndarray) -> Sequences:
        """Renumber the items by `number`, int [n_items], without those whose number is -1."""
        items = number[self.items]
        known = items >= 0
        before = np.concatenate([[0], np.cumsum(known)])
        return Sequences(items[known].astype(np.int32), before[self.offsets])


@dataclass(frozen=True)
class Windows:
    """Parts of sequences that are read at once, as places in `Sequences.items`.

    Attributes
    ----------
    first, last : ndarray of int64, shape (n,)
        The items that are read are those from `first` to `last`, exclusive.
    predicted : ndarray of int64, shape (n,)
        How many items are predicted: the one at `last` and those before it.
    """

    first: np.ndarray
    last: np.ndarray
    predicted: np.ndarray


def windows(offsets: np.ndarray, length: int, stride: int, random: np.random.Generator) -> Windows:
    """Divide sequences into windows so that each item except the first of a user is predicted once.

    A sequence that fits is one window. Of a longer one, the newest window predicts a random number
    of items, so that the windows of each epoch differ, and each window also reads the
    `length` - `stride` items before those it predicts from.

    Parameters
    ----------
    offsets : ndarray of int64, shape (n_users + 1,)
    length : int
        Maximum number of items that are read.
    stride : int
        Maximum number of items that are predicted, if a sequence is longer than `length`.
    random : Generator

    Returns
    -------
    Windows
    """
    total = np.diff(offsets) - 1
    shift = np.where(total > length, random.integers(0, stride, len(total)), 0)
    count = np.where(total > length, -(-(total + shift) // stride), np.minimum(total, 1))
    count = np.maximum(count, 0)
    user = np.repeat(np.arange(len(total)), count)
    number = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    is_one = total[user] <= length
    # Of the items after the user's first, the newest `done` are predicted by newer windows.
    done = np.where(is_one, 0, np.maximum(number * stride - shift[user], 0))
    until = np.where(
        is_one, total[user], np.minimum((number + 1) * stride - shift[user], total[user])
    )
    last = offsets[1:][user] - 1 - done
    predicted = until - done
    read = np.where(is_one, length, np.minimum(predicted + length - stride, length))
    return Windows(np.maximum(last - read, offsets[:-1][user]), last, predicted)


@dataclass(frozen=True)
class Batch:
    """What a training step reads.

    Attributes
    ----------
    inputs : ndarray of int32, shape (n, length)
        The items that are read, the newest first, after -1 as padding.
    places : ndarray of int32, shape (m,)
        Which of the n * length positions predict an item.
    targets : ndarray of int32, shape (m,)
        The items that they predict: each is the next one in time.
    """

    inputs: np.ndarray
    places: np.ndarray
    targets: np.ndarray


def epoch_windows(
    sequences: Sequences, *, length: int, stride: int, batch_size: int, seed: list[int]
) -> list[Windows]:
    """Divide all sequences into the windows of each batch of an epoch, in random order.

    Windows of similar length share a batch, so that there is little padding.

    Parameters
    ----------
    sequences : Sequences
    length, stride : int
        See `windows`.
    batch_size : int
        Number of items that a batch predicts, about.
    seed : list of int
        Of the epoch.

    Returns
    -------
    list of Windows
    """
    random = np.random.default_rng(seed)
    cut = windows(sequences.offsets, length, stride, random)
    size = (cut.last - cut.first) * (1 + JITTER * random.random(len(cut.first)))
    order = np.argsort(size, kind="stable")
    end = np.cumsum(cut.predicted[order])
    number = (end - 1) // batch_size
    groups = np.split(order, np.flatnonzero(np.diff(number)) + 1)
    return [
        Windows(cut.first[rows], cut.last[rows], cut.predicted[rows])
        for rows in (groups[each] for each in random.permutation(len(groups)))
    ]


def batch_of(sequences: Sequences, part: Windows) -> Batch:
    """Read the items of some windows."""
    size = part.last - part.first
    length = int(size.max())
    # Ages are negative where there is padding.
    age = np.arange(length)[None, :] - (length - size)[:, None]
    place = part.last[:, None] - 1 - age
    read = sequences.items[np.where(age >= 0, place, 0)]
    inputs = np.where(age >= 0, read, -1).astype(np.int32)
    predicts = (age >= 0) & (age < part.predicted[:, None])
    targets = sequences.items[place[predicts] + 1]
    return Batch(inputs, np.flatnonzero(predicts).astype(np.int32), targets)
