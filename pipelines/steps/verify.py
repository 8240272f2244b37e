"""Is what the server answers what the towers say? Ask it and compare with brute force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from twotower.pipelines.console import stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.export import seen_pairs
from twotower.pipelines.steps.preprocess import ITEMS, USERS, load_tables
from twotower.pipelines.steps.serve import Addresses, ask, check_k, most_k, serving
from twotower.serving.client import Recommendations
from twotower.serving.repository import ModelRepository

SCORE_TOLERANCE, TIE = 1e-5, 1e-6


@dataclass(frozen=True)
class Verification:
    """What was compared, and how it came out."""

    users: int
    k: int
    wrong_ids: int  # places with another item than brute force has, ties apart
    largest_score_difference: float
    one_request_equals_many: bool

    @property
    def holds(self) -> bool:
        """Whether server and brute force agree everywhere."""
        return (
            self.wrong_ids == 0
            and self.largest_score_difference <= SCORE_TOLERANCE
            and self.one_request_equals_many
        )


def verify(run: Run, count: int = 500, k: int | None = None, together: int = 64) -> Verification:
    """Compare the published version's answers for `count` users with NumPy over the towers.

    Ids must be identical place by place; where scores tie to 1e-6 the order may differ. The first
    `together` users are also asked in one request and one by one. `k` is by default 100, or the
    most that the version answers with. Raises RunError on a difference.
    """
    if count < 1 or (k is not None and k < 1):
        raise ConfigError(f"{count} users, k = {k}: expected 1 or more of each")
    steps = ("ingest", "preprocess", "train", "export")
    with run.reading(*steps), stage("verify") as (report, result):
        report(0, 3, "check the files")
        run.verified(*steps)
        _check_published(run)
        k = k or min(100, most_k(run) or 100)
        check_k(run, k)
        report(0, 3, "start Triton")
        users = pd.read_parquet(run.path / "data" / USERS)[run.config.features.user_id]
        users = users.sample(min(count, len(users)), random_state=1).to_numpy()
        most = run.config.serving.max_batch_size
        first = users[: min(together, most)].tolist()
        with serving(run) as addresses:
            report(1, 3, "ask")
            answer = _ask_in_parts(addresses, users.tolist(), k, most)
            many = ask(addresses, first, k, ["grpc"])["grpc"]
            each = [ask(addresses, [user], k, ["http"])["http"].item_ids for user in first]
        report(2, 3, "brute force")
        item_ids, scores = score_unseen(run, users)
        _, expected = best_of(item_ids, scores, k)
        # Not compared with each other: a batch's scores may differ in the last bit, ties in order.
        ways = (many.item_ids, np.concatenate(each))
        found = Verification(
            users=len(users),
            k=k,
            wrong_ids=count_wrong(answer.item_ids, item_ids, scores),
            largest_score_difference=_largest_difference(answer.scores, expected),
            one_request_equals_many=not any(
                count_wrong(ids, item_ids, scores[: len(first)]) for ids in ways
            ),
        )
        if not found.holds:
            raise RunError(f"{run.path}: the server does not answer what the towers say: {found}")
        result(
            f"version {answer.version}, {found.users} users, k = {k}: every id as brute force has "
            f"it, scores within {found.largest_score_difference:.1e}; {len(first)} users in one "
            f"request as in {len(first)} requests"
        )
    return found


def _ask_in_parts(addresses: Addresses, users: list[int], k: int, most: int) -> Recommendations:
    """The answer for all users, `most` of them in a request."""
    starts = range(0, len(users), most)
    answers = [ask(addresses, users[n : n + most], k, ["http"])["http"] for n in starts]
    return Recommendations(
        item_ids=np.concatenate([answer.item_ids for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
        version=answers[-1].version,
    )


def _check_published(run: Run) -> None:
    """Refuse to compare the run's towers with a version that was made of others."""
    towers = run.identity("train")
    for version in ModelRepository(run.path / TRITON).versions():
        if version.published and version.towers_sha256 != towers:
            raise RunError(
                f"{run.path}: version {version.number} is published, which was made of other "
                "towers than the run has now; run `twotower export` and `twotower publish`"
            )


def brute_force(run: Run, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Best unseen items by NumPy over the reloaded TensorFlow towers, as `best_of` gives them."""
    return best_of(*score_unseen(run, users), k)


def score_unseen(run: Run, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every item's score for `users` [n] by the reloaded TensorFlow towers.

    Returns
    -------
    (raw item ids int64 [items], ascending; scores float32 [n, items], -inf for a seen item)
    """
    from twotower.models.training.saving import CANDIDATE_TOWER, QUERY_TOWER, load_tower
    from twotower.models.two_tower import embed

    names = run.config.features
    user_ids = pd.read_parquet(run.path / "data" / USERS)[names.user_id].to_numpy()
    item_ids = pd.read_parquet(run.path / "data" / ITEMS)[names.item_id].to_numpy()
    user_table, item_table = load_tables(run)
    rows = np.searchsorted(user_ids, users)
    towers = run.path / "model"
    queries = embed(load_tower(towers / QUERY_TOWER), {c: v[rows] for c, v in user_table.items()})
    scores = queries @ embed(load_tower(towers / CANDIDATE_TOWER), item_table).T
    seen = pd.DataFrame(dict(zip(("user", "item"), seen_pairs(run), strict=True)))
    seen = seen.merge(pd.DataFrame({"user": users, "row": np.arange(len(users))}), on="user")
    scores[seen["row"], np.searchsorted(item_ids, seen["item"])] = -np.inf
    return item_ids, scores


def best_of(item_ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the items [items] by `scores` [n, items].

    Returns
    -------
    (item ids int64 [n, k], scores float32 [n, k]), best first; a row with fewer than k unseen
    items, be it because the catalogue is smaller, ends in -1 / -inf.
    """
    from twotower.models.evaluation.top_k import topk

    best, best_scores = topk(scores, k)
    return np.where(best < 0, -1, item_ids[best]), best_scores


def count_wrong(ids: np.ndarray, item_ids: np.ndarray, scores: np.ndarray) -> int:
    """Places of the answer `ids` [n, k] that hold a wrong item.

    A place is right if it holds the id that `best_of` has there, or an unseen item that the row
    holds only once and whose own score is within 1e-6 of the one expected there. `item_ids`
    [items] and `scores` [n, items] are those of `score_unseen`.
    """
    expected, expected_scores = best_of(item_ids, scores, ids.shape[1])
    positions = np.searchsorted(item_ids, ids).clip(max=len(item_ids) - 1)
    own = np.take_along_axis(scores, positions, axis=1)
    difference = np.full_like(own, np.inf)  # stays where the expected place is exhausted
    np.subtract(own, expected_scores, out=difference, where=np.isfinite(expected_scores))
    known = item_ids[positions] == ids
    tied = known & (np.abs(difference) <= TIE) & ~_repeated(ids)
    return int(((ids != expected) & ~tied).sum())


def _repeated(ids: np.ndarray) -> np.ndarray:
    """Bool [n, k]: whether the row of `ids` [n, k] holds the id at another place, too."""
    order = np.argsort(ids, axis=1)
    ascending = np.take_along_axis(ids, order, axis=1)
    same = ascending[:, 1:] == ascending[:, :-1]
    repeated = np.zeros(ids.shape, bool)
    either = np.pad(same, ((0, 0), (1, 0))) | np.pad(same, ((0, 0), (0, 1)))
    np.put_along_axis(repeated, order, either, axis=1)
    return repeated


def _largest_difference(scores: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; an exhausted place must be exhausted in both."""
    if not np.array_equal(np.isneginf(scores), np.isneginf(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    return float(np.abs(scores[finite] - expected[finite]).max(initial=0))
