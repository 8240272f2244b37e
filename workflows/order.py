"""The order of positives in time, and the positives of pairs that occur more than once."""

from __future__ import annotations

import numpy as np
import pandas as pd

ORDER = "order_in_time"
"""Column of the interactions with their order where there are no times, see `ingest.files.order`.
"""
OCCURRENCE = "occurrence_of_pair"
"""Column that numbers the positives of a pair, from 0 in file order, if all of them are kept."""
POSITION = "position"
"""Column of a split with the place in time of each row among those of its user, from 0."""
_KEYS = ("user_id", "item_id", OCCURRENCE)


def keys(rows: pd.DataFrame) -> list[str]:
    """Name the columns that tell the positives of a split apart: the ids, and the occurrence."""
    return [name for name in _KEYS if name in rows]


def number_repeats(positives: pd.DataFrame, repeats: str) -> pd.DataFrame:
    """Add the column `OCCURRENCE`, so that each positive of a repeated pair is one of its own.

    Only with the value "keep" of the setting `split.repeats`.
    """
    if repeats != "keep":
        return positives
    number = positives.groupby(["user_id", "item_id"], sort=False).cumcount()
    return positives.assign(**{OCCURRENCE: number.to_numpy(np.int64)})


def is_next_item(method: str, history: int | None) -> bool:
    """Whether a run predicts the next item of a history that ends before it.

    Parameters
    ----------
    method : str
        The setting `split.method`.
    history : int or None
        The setting `features.history`.
    """
    return method == "leave_last_out" and history is not None


def has_order(rows: pd.DataFrame) -> bool:
    """Whether rows have times or an order; if not, the order of the rows is used."""
    return "timestamp" in rows or ORDER in rows


def in_time(rows: pd.DataFrame) -> np.ndarray:
    """Order rows by time, then by the column `ORDER`, then by their place in the file.

    Parameters
    ----------
    rows : DataFrame
        Optionally with the columns timestamp and `ORDER`.

    Returns
    -------
    ndarray of int64, shape (n,)
        Row numbers, the earliest first.
    """
    columns = [rows[name].to_numpy() for name in (ORDER, "timestamp") if name in rows]
    return np.lexsort(columns) if columns else np.arange(len(rows))


def time_order(pairs: pd.DataFrame, positives: pd.DataFrame) -> np.ndarray:
    """Order pairs by the times of their positives, see `in_time`.

    Parameters
    ----------
    pairs : DataFrame
        The columns `keys`, each combination once.
    positives : DataFrame
        The positive rows, among them all of `pairs`. A repeated pair has the time of its last row,
        as in the split.

    Returns
    -------
    ndarray of int64, shape (n,)
        Row numbers of `pairs`, the earliest first; pairs with equal times by their rows.
    """
    if not has_order(positives):
        return np.arange(len(pairs))
    by = keys(pairs)
    times = positives[[*by, *(name for name in ("timestamp", ORDER) if name in positives)]]
    times = times.drop_duplicates(by, keep="last")
    return in_time(pairs[by].merge(times, on=by, how="left"))


def positions(user_ids: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute each row's place among the rows of its user.

    Parameters
    ----------
    user_ids : ndarray of int64, shape (n,)
    order : ndarray of int64, shape (n,)
        The numbers of all rows, the first in order first.

    Returns
    -------
    position, size : ndarray of int64, shape (n,)
        The place of each row, from 0, and the number of rows of its user.
    """
    users = np.unique(user_ids, return_inverse=True)[1]
    by_user = order[np.argsort(users[order], kind="stable")]
    sizes = np.bincount(users)
    starts = np.cumsum(sizes) - sizes
    position = np.empty(len(users), dtype=np.int64)
    position[by_user] = np.arange(len(users)) - starts[users[by_user]]
    return position, sizes[users]


def add_positions(parts: pd.DataFrame, positives: pd.DataFrame) -> np.ndarray:
    """Add the column `POSITION` to a split.

    Parameters
    ----------
    parts : DataFrame
        The rows of a split, with the columns `keys` and part.
    positives : DataFrame
        As for `time_order`.

    Returns
    -------
    ndarray of int32
        The places of the rows of the training part among these of the user alone.
    """
    order = time_order(parts, positives)
    parts[POSITION], _ = positions(parts["user_id"].to_numpy(), order)
    train = parts[parts["part"] == "train"]
    order = np.argsort(train[POSITION].to_numpy(), kind="stable")
    position, _ = positions(train["user_id"].to_numpy(), order)
    return position.astype(np.int32)


def latest_first(
    user_rows: np.ndarray, item_rows: np.ndarray, position: np.ndarray, n_users: int, length: int
) -> np.ndarray:
    """List the latest items of each user.

    Parameters
    ----------
    user_rows, item_rows : ndarray of int, shape (n,)
    position : ndarray of int, shape (n,)
        The place in time of each row among those of its user.
    n_users : int
    length : int
        Maximum number of items per user.

    Returns
    -------
    ndarray of int64, shape (n_users, length)
        Item rows, the latest first; -1 where a user has fewer.
    """
    lists = np.full((n_users, length), -1, np.int64)
    age, _ = positions(user_rows, np.argsort(-position, kind="stable"))
    kept = age < length
    lists[user_rows[kept], age[kept]] = item_rows[kept]
    return lists
