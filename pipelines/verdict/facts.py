"""What the data of an evaluation are like: how many, how dense, how stable over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twotower.pipelines.run import Run
from twotower.pipelines.steps.processed import INTERACTIONS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MIN_PAIRS = 100
"""Pairs of interactions with the same item that a third of the time needs for a stable overlap."""


@dataclass(frozen=True)
class Facts:
    """What the data of an evaluation are like.

    Attributes
    ----------
    users, positives : int
        Users with a positive in the part that is measured, and these positives.
    median, single : float
        Median positives per user in that part, and the share of the users who have only one.
    candidates : int
        Number of items ranked.
    cold : float
        Share of the positives whose item has no positive in training.
    strangers : float
        Share of the users who have no positive in training.
    history : float
        Median positives in training of the users who have any.
    train_items : int
        Number of items with a positive in training.
    split : str
        The method of the split, `split.method`.
    overlap : float or None
        How similar the items of the first and the last third of the time are, see
        `overlap_in_time`.
    """

    users: int
    positives: int
    median: float
    single: float
    candidates: int
    cold: float
    strangers: float
    history: float
    train_items: int
    split: str
    overlap: float | None


def gather(
    relevant: csr_matrix,
    train: csr_matrix,
    candidates: np.ndarray | None,
    split: str,
    overlap: float | None,
) -> Facts:
    """Count what an evaluation is based on.

    Parameters
    ----------
    relevant, train : csr_matrix of bool, shape (n_users, n_items)
        The positives of the part that is measured, and those of the training part.
    candidates : ndarray of bool, shape (n_items,), or None
        Items that are ranked; None for all.
    split : str
        `split.method`.
    overlap : float or None
        Result of `overlap_in_time`.

    Returns
    -------
    Facts
    """
    sizes, histories = np.diff(relevant.indptr), np.diff(train.indptr)
    measured, counts = sizes[sizes > 0], train.getnnz(axis=0)
    return Facts(
        users=len(measured),
        positives=int(measured.sum()),
        median=float(np.median(measured)),
        single=float((measured == 1).mean()),
        candidates=relevant.shape[1] if candidates is None else int(candidates.sum()),
        cold=float((counts[relevant.indices] == 0).mean()),
        strangers=float((histories[sizes > 0] == 0).mean()),
        history=float(np.median(histories[histories > 0])),
        train_items=int((counts > 0).sum()),
        split=split,
        overlap=overlap,
    )


def overlap_in_time(items: np.ndarray, times: np.ndarray) -> float | None:
    """Compare the items of the first and the last third of the time.

    Parameters
    ----------
    items : ndarray of int, shape (n,)
        The item of each interaction.
    times : ndarray of int or float, shape (n,)
        Its time.

    Returns
    -------
    float or None
        About 1 if items are as popular at the end as at the beginning, 0 if no item occurs in both
        thirds. None if there are too few interactions per item, or hardly any different times.

    Notes
    -----
    Morisita's index of overlap (1959), 2 sum(x y) / ((D_x + D_y) X Y) with the counts x and y of
    each item, their sums X and Y, and D_x = sum(x (x - 1)) / (X (X - 1)). Unlike a cosine, it does
    not depend on the number of interactions, so that few of them are not taken for a change.
    """
    first, last = np.quantile(times, [1 / 3, 2 / 3])
    if not first < last:
        return None
    codes, rows = np.unique(items, return_inverse=True)
    x, y = (
        np.bincount(rows[chosen], minlength=len(codes)).astype(float)
        for chosen in (times <= first, times > last)
    )
    pairs_x, pairs_y = (x * (x - 1)).sum(), (y * (y - 1)).sum()
    if min(pairs_x, pairs_y) < MIN_PAIRS:
        return None
    total_x, total_y = x.sum(), y.sum()
    similar_x = pairs_x / (total_x * (total_x - 1))
    similar_y = pairs_y / (total_y * (total_y - 1))
    return float(2 * (x @ y) / ((similar_x + similar_y) * total_x * total_y))


def overlap_of(run: Run) -> float | None:
    """Compute `overlap_in_time` of the positives of a run.

    Parameters
    ----------
    run : Run
        With the step `ingest` done.

    Returns
    -------
    float or None
        None also if the interactions have no times.
    """
    import pyarrow.parquet as pq

    from twotower.workflows.interactions.positives import read_positives

    path, positives = run.path / "data" / INTERACTIONS, run.config.positives
    wanted = [run.config.features.item_id, "timestamp"]
    columns = [name for name in pq.read_schema(path).names if name in wanted]
    if "timestamp" not in columns:
        return None
    rows = read_positives(path, positives, columns, with_nvtabular=False).rows
    items = rows[run.config.features.item_id]
    return overlap_in_time(items.to_numpy(), rows["timestamp"].to_numpy())
