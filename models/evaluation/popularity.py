"""What a ranking does with popular and with rare items.

Users and items are rows of their tables and interactions sparse matrices, as in
`models.evaluation.metrics`, by whose rules everything is ranked.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from twotower.models.errors import ModelError
from twotower.models.evaluation.metrics import Ranker, Scorer, binary, is_relevant, rankings

THIRDS = ("head", "middle", "tail")


def thirds(counts: np.ndarray) -> np.ndarray:
    """The third of the train interactions that each item belongs to: 0 head, 1 middle, 2 tail.

    Items are put in order of their train interactions `counts` (int [n_items]), the most popular
    first, equal ones by row. An item is in the third of all train interactions in which the first
    of its own then lies: the head is the few items that make up a third of what people did, the
    tail the many that make up the last third, with those that nobody interacted with.

    Raises ModelError when there are no train interactions.
    """
    total = int(counts.sum())
    if not total:
        raise ModelError("head, middle and tail are of the train interactions; there are none")
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.empty(len(counts), dtype=np.int64)
    third[order] = np.minimum(3 * before // total, 2)
    return third


def percentiles(counts: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Popularity of each item in [0, 1]: the share of the candidates that are less popular.

    Of equally popular ones half count as less popular, so that the mean over all candidates is
    0.5, which is what random recommendations come to. NaN for an item that is no candidate.

    Parameters
    ----------
    counts
        int [n_items], train interactions.
    candidates
        bool [n_items], the items that may be recommended.
    """
    shares = np.full(len(counts), np.nan)
    shares[candidates] = (rankdata(counts[candidates]) - 0.5) / candidates.sum()
    return shares


def by_popularity(
    scorer: Scorer | Ranker,
    relevant: csr_matrix,
    seen: csr_matrix,
    train: csr_matrix,
    k: int,
    candidates: np.ndarray | None = None,
    batch_size: int = 1024,
) -> dict[str, float]:
    """Recall@k in head, middle and tail, and how popular the recommended items are.

    `train` [n_users, n_items] has the interactions that popularity is counted in; the other
    parameters are those of `models.evaluation.metrics.evaluate`.

    Returns
    -------
    - head_recall@k, middle_recall@k, tail_recall@k: of the items relevant to a user and in that
      third (see `thirds`) the share among the user's k best, averaged over the users who have
      such items; left out where nobody has;
    - popularity@k: the mean of `percentiles` over all recommended items of all users with a
      relevant item.
    """
    relevant, seen = binary(relevant), binary(seen)
    counts = np.bincount(binary(train).indices, minlength=train.shape[1])
    if candidates is None:
        candidates = np.ones(len(counts), dtype=bool)
    users = np.flatnonzero(np.diff(relevant.indptr))
    members = thirds(counts)[:, None] == np.arange(len(THIRDS))  # [n_items, 3]
    popularity = percentiles(counts, candidates)
    wanted, hit = relevant[users] @ members.astype(np.int64), []
    recommended = np.zeros(len(counts), dtype=np.int64)
    for batch, ranked in rankings(scorer, users, seen, k, candidates, batch_size):
        listed = ranked >= 0
        hits = is_relevant(relevant[batch], ranked)
        hit.append((hits[:, :, None] & members[ranked]).sum(axis=1))
        recommended += np.bincount(ranked[listed], minlength=len(counts))
    hit, values = np.vstack(hit), {}
    for column, name in enumerate(THIRDS):
        who = wanted[:, column] > 0
        if who.any():
            values[f"{name}_recall@{k}"] = float((hit[who, column] / wanted[who, column]).mean())
    values[f"popularity@{k}"] = float(
        np.average(popularity[candidates], weights=recommended[candidates])
    )
    return values
