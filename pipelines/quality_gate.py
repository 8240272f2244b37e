"""A new version beside the published one, on the same users, before it is published."""

from __future__ import annotations

import shlex

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from pipelines.console import stage
from pipelines.errors import RunError
from pipelines.evaluate import Judge
from pipelines.preprocess import ITEMS, USERS
from pipelines.run import TRITON, Run
from serving.local import LocalVersion
from serving.versions import ModelRepository

MAX_USERS = 2000
"""Users compared at most, drawn at random; more would barely narrow the error."""
BATCH_SIZE = 256


def refuse_loss(run: Run, number: int, published: int) -> None:
    """Raise RunError if version `number` answers worse than version `published`.

    Both answer for the same users of the test part (of valid, where it has none), by their own
    indexes, towers and tables of users; items that either does not know, and those that the user
    has seen, are left out of both. What counts is `training.monitor`; it may be lower by the share
    `update.max_loss`.
    """
    with stage("compare") as (report, result):
        report(0, 2, "load both versions")
        folder = ModelRepository(run.path / TRITON).model
        try:
            versions = {each: LocalVersion(folder / str(each)) for each in (published, number)}
        except Exception as error:
            raise _unpublished(run, number, f"cannot be compared: {error}") from error
        comparison = _Comparison(run, list(versions.values()))
        if not comparison.users:
            raise _unpublished(
                run,
                number,
                f"cannot be compared: version {published} knows no user and item of the valid "
                "and test parts",
            )
        monitor, measured = run.config.training.monitor, []
        for done, (each, version) in enumerate(versions.items()):
            report(done, 2, f"version {each}")
            measured.append(comparison.measure(version))
        before, after = measured
        people = f"{comparison.users:,} users of the {comparison.part} part"
        result(
            f"{monitor} of version {number} is {after:.4f}, of version {published} "
            f"{before:.4f}, on the same {people}"
        )
    if after < before * (1 - run.config.update.max_loss):
        raise _unpublished(
            run,
            number,
            f"answers worse: its {monitor} is {after:.4f}, that of version {published} is "
            f"{before:.4f}, on the same {people}. That is a loss of {1 - after / before:.0%}; "
            f"update.max_loss is {run.config.update.max_loss:.0%}",
        )


def _unpublished(run: Run, number: int, reason: str) -> RunError:
    return RunError(
        f"version {number} {reason}. It was exported but not published: the version published "
        "before goes on answering. To publish it all the same: "
        f"twotower publish --run {shlex.quote(str(run.path))} --version {number}"
    )


class _Comparison:
    """The users and items on which versions are measured alike.

    users : how many; part : of which part of the split
    """

    def __init__(self, run: Run, versions: list[LocalVersion]):
        names, data = run.config.features, run.path / "data"
        self.user_ids, self.item_ids = (
            pd.read_parquet(data / file, columns=[column])[column].to_numpy(np.int64)
            for file, column in ((USERS, names.user_id), (ITEMS, names.item_id))
        )
        known_users = np.ones(len(self.user_ids), bool)
        known_items = np.ones(len(self.item_ids), bool)
        for version in versions:
            known_users &= np.isin(self.user_ids, version.user_ids)
            known_items &= np.isin(self.item_ids, version.item_ids)
        self.metric, _, cutoff = run.config.training.monitor.rpartition("@")
        self.cutoff = int(cutoff)
        draw = np.random.default_rng(run.config.training.seed)
        for self.part in ("test", "valid"):
            judge = Judge(run, self.part)
            self.seen = judge.seen
            self.candidates = known_items.copy()
            if judge.candidates is not None:
                self.candidates &= judge.candidates
            self.relevant = _kept(judge.relevant, known_users, self.candidates)
            rows = np.unique(self.relevant.nonzero()[0])
            if len(rows) > MAX_USERS:
                chosen = np.zeros(len(self.user_ids), bool)
                chosen[draw.choice(rows, MAX_USERS, replace=False)] = True
                self.relevant = _kept(self.relevant, chosen, self.candidates)
            self.users = min(len(rows), MAX_USERS)
            if self.users:
                break

    def measure(self, version: LocalVersion) -> float:
        """The monitored metric of what `version` answers."""
        from models.evaluation import evaluate

        scorer = _VersionScorer(self, version)
        metrics = evaluate(
            scorer,
            self.relevant,
            self.seen,
            [self.cutoff],
            self.candidates,
            batch_size=BATCH_SIZE,
        )
        return metrics.values[f"{self.metric}@{self.cutoff}"]


def _kept(pairs: csr_matrix, users: np.ndarray, items: np.ndarray) -> csr_matrix:
    """The entries of `pairs` whose row and column are among the bool `users` and `items`."""
    rows, columns = pairs.nonzero()
    kept = users[rows] & items[columns]
    return csr_matrix((np.ones(kept.sum(), bool), (rows[kept], columns[kept])), pairs.shape)


class _VersionScorer:
    """The scores of what a version answers; -inf for what it does not answer."""

    def __init__(self, comparison: _Comparison, version: LocalVersion):
        self.comparison, self.version = comparison, version
        candidates = comparison.item_ids[comparison.candidates]
        self.left_out = int((~np.isin(version.item_ids, candidates)).sum())

    def score(self, users: np.ndarray) -> np.ndarray:
        """Float32 [len(users), n_items] for rows of the user table."""
        asked, version = self.comparison, self.version
        # Ask for enough items that `cutoff` remain after seen and left-out items are removed.
        seen = int(np.diff(asked.seen[users].indptr).max())
        k = min(len(version.item_ids), asked.cutoff + seen + self.left_out)
        ids, answered = version.answer(asked.user_ids[users], k)
        columns = np.searchsorted(asked.item_ids, ids).clip(max=len(asked.item_ids) - 1)
        rows, places = np.nonzero(asked.item_ids[columns] == ids)
        scores = np.full((len(users), len(asked.item_ids)), -np.inf, np.float32)
        scores[rows, columns[rows, places]] = answered[rows, places]
        return scores
