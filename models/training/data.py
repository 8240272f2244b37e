"""Training data: the encoded user and item tables, and the positives as rows of them."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from twotower.models.errors import ModelError

COUNT_BLOCK = 1 << 22  # rows counted at once: the rows of a mapped file may not fit in memory


@dataclass(frozen=True)
class TrainingData:
    """The tables and positives that a model is trained on.

    Attributes
    ----------
    users, items : mapping of str to ndarray
        Encoded columns of the user and the item table: int32 of shape (n, 1), int32 of shape
        (n, length) for lists, float32 of shape (n, 1) for numbers and (n, length) for pretrained
        vectors, in memory or memory-mapped.
    user_rows, item_rows : ndarray of int32, shape (n_positives,)
        Table rows of each positive, in memory or memory-mapped.
    weights : ndarray of float32, shape (n_positives,), optional
        Weight of each positive in the loss, with a mean of 1; in memory or memory-mapped. None if
        all weigh the same.
    contexts : mapping of str to ndarray
        Encoded columns of the contexts, which the query tower reads together with those of the
        user. `users` has the same columns with the values of a context that is not given. Empty if
        there are no features of the context.
    context_rows : ndarray of int32, shape (n_positives,), optional
        The row of `contexts` of each positive; in memory or memory-mapped.
    positions : ndarray of int32, shape (n_positives,), optional
        The place in time of each positive among those of its user, from 0; in memory or
        memory-mapped. None if the users have no history (`features.history`).
    """

    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    user_rows: np.ndarray
    item_rows: np.ndarray
    weights: np.ndarray | None = None
    contexts: Mapping[str, np.ndarray] = field(default_factory=dict)
    context_rows: np.ndarray | None = None
    positions: np.ndarray | None = None

    @property
    def n_users(self) -> int:
        """Number of rows of the user table."""
        return len(next(iter(self.users.values())))

    @property
    def n_items(self) -> int:
        """Number of rows of the item table."""
        return len(next(iter(self.items.values())))

    def take(self, rows: np.ndarray) -> TrainingData:
        """Return the data with only the positives `rows`, an int array, in this order."""
        return replace(
            self,
            user_rows=self.user_rows[rows],
            item_rows=self.item_rows[rows],
            weights=None if self.weights is None else self.weights[rows],
            context_rows=None if self.context_rows is None else self.context_rows[rows],
            positions=None if self.positions is None else self.positions[rows],
        )

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of each user in the order of time.

        Returns
        -------
        item_rows : ndarray of int32, shape (n_positives,)
            The item rows of user 0, the earliest first, then those of user 1, and so on.
        offsets : ndarray of int64, shape (n_users + 1,)
            The items of user u are `item_rows[offsets[u] : offsets[u + 1]]`.

        Raises
        ------
        ModelError
            If the positives have no order.

        Examples
        --------
        >>> data = TrainingData(
        ...     users={"user_id": np.zeros((3, 1))},
        ...     items={"item_id": np.zeros((9, 1))},
        ...     user_rows=np.array([2, 0, 2]),
        ...     item_rows=np.array([8, 7, 6]),
        ...     positions=np.array([1, 0, 0]),
        ... )
        >>> [each.tolist() for each in data.sequences()]
        [[7, 6, 8], [0, 1, 1, 3]]
        """
        if self.positions is None:
            raise ModelError(
                "the order of the positives is not known: set features.history and run "
                "`twotower preprocess`"
            )
        order = np.lexsort((self.positions, self.user_rows))
        counts = np.bincount(self.user_rows, minlength=self.n_users)
        return self.item_rows[order], np.append(0, np.cumsum(counts))

    @cached_property
    def positives_per_item(self) -> np.ndarray:
        """Number of positives of each item row: int64 of shape (n_items,)."""
        counts = np.zeros(self.n_items, np.int64)
        for start in range(0, len(self.item_rows), COUNT_BLOCK):
            rows = self.item_rows[start : start + COUNT_BLOCK]
            counts += np.bincount(rows, minlength=len(counts))
        return counts


def memory_map_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Map a file of positives without reading it, for data larger than the memory.

    Parameters
    ----------
    path : Path
        File of nothing but int32 pairs (user row, item row), in the machine's byte order.

    Returns
    -------
    user_rows, item_rows : ndarray of int32, shape (n_positives,)
    """
    rows = memory_map(path, np.int32).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def memory_map(path: Path, dtype: type[np.generic]) -> np.ndarray:
    """Map a file of nothing but numbers of type `dtype`, which are read at random.

    Returns
    -------
    ndarray of dtype, shape (n,)
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # With read-ahead, every batch would read some 30 times what it needs.
    content.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(content, dtype)
