"""Compare the answers of a real server with brute force over the trained towers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from twotower.pipelines.console import stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.index.queries import query_vectors
from twotower.pipelines.index.served import Approximate, check_approximate, index_metadata
from twotower.pipelines.run import TRITON, Run, ranking_step
from twotower.pipelines.steps.export import seen_pairs
from twotower.pipelines.steps.preprocess import load_ids, load_tables, read_ids
from twotower.pipelines.steps.query import ask, check_k, max_k, unknown_time
from twotower.pipelines.steps.serve import Addresses, serving
from twotower.serving.client import Recommendations
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.filters.denied import DENIED_FILE, read_denied

SCORE_TOLERANCE = 1e-5
"""The largest difference between a served score and the brute-force score."""
TIE = 1e-6
"""Items whose scores differ by no more than this may be swapped."""


@dataclass(frozen=True)
class Verification:
    """What was compared, and the result.

    Attributes
    ----------
    users : int
        How many users were compared.
    k : int
        Items per user.
    wrong_ids : int
        Places that hold another item than in the brute-force answer, except for ties.
    largest_score_difference : float
        Between the served scores and the brute-force scores.
    one_request_equals_many : bool
        Whether users get the same items in one request as in a request each.
    wrong_ranked : int
        As `wrong_ids`, of the answers that the ranking model orders, if there is one.
    largest_probability_difference : float
        Between the served probabilities and those of brute force.
    """

    users: int
    k: int
    wrong_ids: int
    largest_score_difference: float
    one_request_equals_many: bool
    wrong_ranked: int = 0
    largest_probability_difference: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the server and brute force agree for all users."""
        return (
            self.wrong_ids == 0
            and self.wrong_ranked == 0
            and self.largest_score_difference <= SCORE_TOLERANCE
            and self.largest_probability_difference <= SCORE_TOLERANCE
            and self.one_request_equals_many
        )


def verify(
    run: Run, count: int = 500, k: int | None = None, together: int = 64
) -> Verification | Approximate:
    """Compare the published version's answers with NumPy over the reloaded towers.

    Item ids must be equal place by place; items whose scores differ by at most 1e-6 may be swapped.
    The answers of an approximate index must have its recall, and no item that is excluded.

    Parameters
    ----------
    run : Run
        The run; its published version must be made of its towers.
    count : int
        How many users to compare, drawn at random.
    k : int, optional
        Items per user; default: 100, or the maximum of the published version if that is less.
    together : int
        How many of the users are also asked for in one request and one by one.

    Raises
    ------
    RunError
        If the server answers differently, or the run is incomplete.
    ConfigError
        If `count` or `k` is out of range.
    """
    _check_numbers(count, k)
    steps = ("ingest", "preprocess", "train", *ranking_step(run.config), "export")
    with run.reading(*steps), stage("verify") as (progress, result):
        progress(0, 3, "check the files")
        run.verified(*steps)
        _check_published(run)
        k = k or min(100, max_k(run) or 100)
        check_k(run, k)
        progress(0, 3, "start Triton")
        users, ids, batch_size = _draw(run, count), read_ids(run), run.config.serving.max_batch_size
        asked = ids.users.decode(users).tolist()
        first = asked[: min(together, batch_size)]
        # The user table has the codes of an unknown context.
        asking = partial(ask, k=k, features=unknown_time(run))
        with serving(run) as addresses:
            progress(1, 3, "query")
            answer = _ask_in_batches(asking, addresses, asked, batch_size)
            ranked = _ask_ranked(run, asking, addresses, asked, k)
            again = _ask_again(asking, addresses, first)
        progress(2, 3, "brute force")
        item_ids, scores = score_unseen(run, users)
        answered, *again = (ids.items.codes(each) for each in (answer.item_ids, *again))
        if metadata := index_metadata(run):
            good = check_approximate(metadata, [answered, *again], item_ids, scores)
            result(f"version {answer.version}, {len(users)} users, k = {k}: {good}")
            return good
        # Both are compared with brute force, not with each other: scores may differ in the last
        # bit between batch sizes, and so the order of ties.
        wrong = [count_wrong(each, item_ids, scores[: len(first)]) for each in again]
        of_ranking = ranked and _compare_ranked(run, users, ranked, item_ids, scores)
        found = Verification(
            users=len(users),
            k=k,
            wrong_ids=count_wrong(answered, item_ids, scores),
            largest_score_difference=_largest_difference(
                answer.scores, best_of(item_ids, scores, k)[1]
            ),
            one_request_equals_many=not any(wrong),
            **(of_ranking or {}),
        )
        if not found.holds:
            raise RunError(f"{run.path}: the server's answers differ from brute force: {found}")
        result(_summary(found, answer.version, len(first), ranked is not None))
    return found


def _ask_again(
    asking: Callable[..., dict[str, Recommendations]], addresses: Addresses, users: list
) -> list[np.ndarray]:
    """The items for users, asked for in one request and one by one."""
    in_one = asking(addresses, users, protocols=["grpc"])["grpc"].item_ids
    alone = [asking(addresses, [user], protocols=["http"])["http"].item_ids for user in users]
    return [in_one, np.concatenate(alone)]


def _summary(found: Verification, version: int, together: int, ranked: bool) -> str:
    order = "; the order of the ranking model equals it, too" if ranked else ""
    return (
        f"version {version}, {found.users} users, k = {found.k}: all ids equal brute force, scores "
        f"within {found.largest_score_difference:.1e}{order}; {together} users get the same in one "
        f"request as in {together} requests"
    )


def _ask_in_batches(
    asking: Callable[..., dict[str, Recommendations]],
    addresses: Addresses,
    users: list,
    batch_size: int,
) -> Recommendations:
    """The answer for all users, asked for with up to `batch_size` users per request."""
    batches = [users[n : n + batch_size] for n in range(0, len(users), batch_size)]
    answers = [asking(addresses, batch, protocols=["http"])["http"] for batch in batches]
    return Recommendations(
        item_ids=np.concatenate([answer.item_ids for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
        version=answers[-1].version,
    )


def _check_numbers(count: int, k: int | None) -> None:
    if count < 1 or (k is not None and k < 1):
        raise ConfigError(f"{count} users, k = {k}: expected 1 or more of each")


def _draw(run: Run, count: int) -> np.ndarray:
    """The codes of random users, the same ones for the same count."""
    user_ids = pd.Series(load_ids(run)[0])
    return user_ids.sample(min(count, len(user_ids)), random_state=1).to_numpy()


def _ask_ranked(
    run: Run,
    asking: Callable[..., dict[str, Recommendations]],
    addresses: Addresses,
    users: list,
    k: int,
) -> Recommendations | None:
    """The answer that the ranking model orders, if there is one."""
    ranking = run.config.ranking
    if ranking.model is None:
        return None
    asking = partial(asking, k=min(k, ranking.candidates), rank=True)
    size = min(run.config.serving.max_batch_size, ranking.max_rows // ranking.candidates)
    return _ask_in_batches(asking, addresses, users, size)


def _compare_ranked(
    run: Run, users: np.ndarray, ranked: Recommendations, item_ids: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    """The fields of `Verification` that are about the ranking model."""
    from twotower.pipelines.ranking.brute_force import ranked_scores

    judged = ranked_scores(run, users, item_ids, scores)
    best = best_of(item_ids, judged, ranked.item_ids.shape[1])[1]
    codes = read_ids(run).items.codes(ranked.item_ids)
    return {
        "wrong_ranked": count_wrong(codes, item_ids, judged),
        "largest_probability_difference": _largest_difference(ranked.scores, best),
    }


def _check_published(run: Run) -> None:
    """Raise RunError if the published version was made from other towers than the run's."""
    towers = run.identity("train")
    for version in ModelRepository(run.path / TRITON).versions():
        if version.published and version.towers_sha256 != towers:
            raise RunError(
                f"{run.path}: the published version {version.number} was made from other towers "
                "than the run has now; run `twotower export` and `twotower publish`"
            )


def brute_force(run: Run, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best unseen items of `users` by `score_unseen`; see `best_of` for the result."""
    return best_of(*score_unseen(run, users), k)


def score_unseen(run: Run, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score every item that is not withdrawn or denied, with the reloaded TensorFlow towers.

    Parameters
    ----------
    run : Run
        Has the towers.
    users : ndarray of int64, shape (n,)
        Codes of users.

    Returns
    -------
    item_ids : ndarray of int64, shape (items,)
        Codes of items, ascending.
    scores : ndarray of float32, shape (n, items)
        The dot products; -inf for a seen item.
    """
    from twotower.models.training.saving import CANDIDATE_TOWER, load_tower
    from twotower.models.two_tower import embed
    from twotower.workflows.availability import read_available

    item_ids, item_table = load_ids(run)[1], load_tables(run)[1]
    items = embed(load_tower(run.path / "model" / CANDIDATE_TOWER), item_table)
    scores = query_vectors(run, users) @ items.T
    seen = pd.DataFrame(dict(zip(("user", "item"), seen_pairs(run), strict=True)))
    seen = seen.merge(pd.DataFrame({"user": users, "row": np.arange(len(users))}), on="user")
    scores[seen["row"], np.searchsorted(item_ids, seen["item"])] = -np.inf
    available = read_available(run.path / "data")
    if denied := set(read_denied(run.path / TRITON / DENIED_FILE)):
        given = read_ids(run).items.decode(item_ids).tolist()
        available = available & ~np.array([item in denied for item in given])
    return item_ids[available], scores[:, available]


def best_of(item_ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best unseen items per user.

    Parameters
    ----------
    item_ids : ndarray of int64, shape (items,)
        Codes of items.
    scores : ndarray of float32, shape (n, items)
        Their scores; -inf for a seen item.
    k : int
        Items per user.

    Returns
    -------
    ids : ndarray of int64, shape (n, k)
        Best first; -1 where a user has fewer than `k` unseen items.
    scores : ndarray of float32, shape (n, k)
        Their scores; -inf where there is no item.
    """
    from twotower.models.evaluation.top_k import topk

    best, best_scores = topk(scores, k)
    return np.where(best < 0, -1, item_ids[best]), best_scores


def count_wrong(ids: np.ndarray, item_ids: np.ndarray, scores: np.ndarray) -> int:
    """Count the places of an answer that hold a wrong item.

    A place is right if it holds the same id as `best_of`. It is also right if it holds another
    unseen item whose score is within 1e-6 of the expected one, once per row.

    Parameters
    ----------
    ids : ndarray of int64, shape (n, k)
        The answer, as codes.
    item_ids, scores
        As `score_unseen` returns them.
    """
    expected, expected_scores = best_of(item_ids, scores, ids.shape[1])
    positions = np.searchsorted(item_ids, ids).clip(max=len(item_ids) - 1)
    own = np.take_along_axis(scores, positions, axis=1)
    difference = np.full_like(own, np.inf)  # stays where no item is expected
    np.subtract(own, expected_scores, out=difference, where=np.isfinite(expected_scores))
    known = item_ids[positions] == ids
    tied = known & (np.abs(difference) <= TIE) & ~_repeated(ids)
    return int(((ids != expected) & ~tied).sum())


def _repeated(ids: np.ndarray) -> np.ndarray:
    """Whether the id at each place of `ids` (shape (n, k)) is also at another place of its row."""
    order = np.argsort(ids, axis=1)
    ascending = np.take_along_axis(ids, order, axis=1)
    same = ascending[:, 1:] == ascending[:, :-1]
    repeated = np.zeros(ids.shape, bool)
    either = np.pad(same, ((0, 0), (1, 0))) | np.pad(same, ((0, 0), (0, 1)))
    np.put_along_axis(repeated, order, either, axis=1)
    return repeated


def _largest_difference(scores: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite if -inf is not at the same places in both."""
    if not np.array_equal(np.isneginf(scores), np.isneginf(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    return float(np.abs(scores[finite] - expected[finite]).max(initial=0))
