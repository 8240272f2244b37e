"""Compare a model that an update has fitted with the published version, on the same users."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from twotower.pipelines.console import stage
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import load_ids, load_tables, read_ids
from twotower.pipelines.steps.processed import SPLIT
from twotower.serving.local import LocalVersion
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.workflows.errors import DataError

if TYPE_CHECKING:
    import merlin.models.tf as mm

    from twotower.models.evaluation.ranking import Scorer

MAX_USERS = 2000
"""How many users are compared at most, drawn at random; more would hardly reduce the error."""
BATCH_SIZE = 256


def objection(
    run: Run, staged: Run, model: mm.RetrievalModelV2, published: int, new_pairs: int
) -> str | None:
    """Say why a model must not replace the published version.

    Both are measured on the same users and pairs, see `Comparison`. The version uses its own
    towers, index and user table, the model the staged tables. The model's `training.monitor` may
    be lower by the share `update.max_loss`.

    Parameters
    ----------
    run : Run
        Has the published version.
    staged : Run
        The run as it will be after the update, see `Run.within`.
    model : RetrievalModelV2
        The towers that the update has fitted.
    published : int
        The number of the published version.
    new_pairs : int
        How many pairs the update has added to the split: its last rows.

    Returns
    -------
    str or None
        The reason; None if the model may replace the version.
    """
    with stage("compare") as (progress, result):
        progress(0, 2, f"version {published}")
        try:
            version = LocalVersion(ModelRepository(run.path / TRITON).model / str(published))
        except Exception as error:  # damaged, or exported by another version of the project
            return f"the model cannot be compared with the published version: {error}"
        try:
            comparison = Comparison(staged, new_pairs, version)
        except (DataError, ServingError) as error:  # the version has ids of another kind
            return f"the model cannot be compared with the published version: {error}"
        if not len(comparison.rows):
            return (
                f"the model cannot be compared with the published version: version {published} "
                "has no user and item of the test and valid parts"
            )
        before = comparison.measure_version(version)
        progress(1, 2, "the new model")
        after = comparison.measure_model(model)
        monitor, limit = run.config.training.monitor, run.config.update.max_loss
        result(
            f"{monitor} of the new model is {after:.4f}, of version {published} {before:.4f}, "
            f"on {comparison.pairs}"
        )
    if after >= before * (1 - limit):
        return None
    return (
        f"with these data the model gets worse: its {monitor} is {after:.4f}, that of version "
        f"{published} is {before:.4f}, on {comparison.pairs}. That is a loss of "
        f"{1 - after / before:.0%}; update.max_loss is {limit:.0%}"
    )


class Comparison:
    """The users, items and pairs on which both a version and a model are measured.

    The pairs are those of the test part from before the update, or else those of the valid part;
    only if there are none, the pairs that the update adds. A model that has learned from a bad day
    predicts the rest of that day well, so new pairs would hide the damage. Users and items that the
    version does not have are left out.

    Attributes
    ----------
    rows : ndarray of int
        The users' rows in the user table.
    pairs : str
        Which pairs are predicted, in words.
    """

    def __init__(self, staged: Run, new_pairs: int, version: LocalVersion):
        user_ids, self.item_ids = load_ids(staged)
        self.ids = read_ids(staged)
        known_users = version.knows(self.ids.users.decode(user_ids))
        self.version_items = self.ids.items.codes(version.item_ids)
        known_items = np.isin(self.item_ids, self.version_items)
        self.staged = staged
        metric, _, cutoff = staged.config.training.monitor.rpartition("@")
        self.metric, self.cutoff = metric, int(cutoff)
        judges = {part: Evaluator(staged, part) for part in ("test", "valid")}
        older = _older_pairs(staged, new_pairs, (len(user_ids), len(self.item_ids)))
        for only_older, part in itertools.product((True, False), judges):
            judge = judges[part]
            self.candidates = known_items.copy()
            if judge.candidates is not None:
                self.candidates &= judge.candidates
            wanted = judge.relevant.multiply(older) if only_older else judge.relevant
            relevant = _kept(wanted, known_users, self.candidates)
            self.rows = np.unique(relevant.nonzero()[0])
            if len(self.rows):
                break
        if len(self.rows) > MAX_USERS:
            draw = np.random.default_rng(staged.config.training.seed)
            self.rows = np.sort(draw.choice(self.rows, MAX_USERS, replace=False))
        self.user_ids = user_ids[self.rows]
        self.relevant, self.seen = relevant[self.rows], judge.seen[self.rows]
        self.judge = judge
        which = "from before the update" if only_older else "that the update adds"
        self.pairs = f"the {part} pairs {which} of the same {len(self.rows):,} users"

    def measure_version(self, version: LocalVersion) -> float:
        """The monitored metric of the answers of `version`."""
        return self._measure(_VersionScorer(self, version))

    def measure_model(self, model: mm.RetrievalModelV2) -> float:
        """The monitored metric of the towers `model` on the staged tables."""
        from twotower.models.two_tower import TowerScorer

        users, items = load_tables(self.staged)
        users = self.judge.with_history(users, items)
        users = {name: column[self.rows] for name, column in users.items()}
        return self._measure(TowerScorer.of(model, users, items))

    def features(self, users: np.ndarray) -> dict[str, list]:
        """The histories of `users` for a version, whose own ones have the items to be found."""
        if self.judge.histories is None:
            return {}
        rows = self.judge.histories[self.rows[users]]
        names = [self.ids.items.decode(self.item_ids[row[row >= 0]]).tolist() for row in rows]
        return {self.staged.config.features.history_column: names}

    def _measure(self, scorer: Scorer) -> float:
        from twotower.models.evaluation.metrics import evaluate

        metrics = evaluate(
            scorer,
            relevant=self.relevant,
            seen=self.seen,
            ks=[self.cutoff],
            candidates=self.candidates,
            batch_size=BATCH_SIZE,
            repeats=self.judge.may_repeat,
        )
        return metrics.values[f"{self.metric}@{self.cutoff}"]


def _older_pairs(staged: Run, new_pairs: int, shape: tuple[int, int]) -> csr_matrix:
    """The pairs of the split as a bool matrix (users, items), without the last `new_pairs`."""
    split = pd.read_parquet(
        staged.path / "processed" / SPLIT, columns=["user_row", "item_row"]
    ).iloc[: -new_pairs or None]
    return csr_matrix((np.ones(len(split), bool), (split["user_row"], split["item_row"])), shape)


def _kept(pairs: csr_matrix, users: np.ndarray, items: np.ndarray) -> csr_matrix:
    """The entries of `pairs` whose row is in the mask `users` and whose column is in `items`."""
    rows, columns = pairs.nonzero()
    kept = users[rows] & items[columns]
    return csr_matrix((np.ones(kept.sum(), bool), (rows[kept], columns[kept])), pairs.shape)


class _VersionScorer:
    """The scores of the items that a version answers with; -inf for all other items."""

    def __init__(self, comparison: Comparison, version: LocalVersion):
        self.comparison, self.version = comparison, version
        candidates = comparison.item_ids[comparison.candidates]
        self.left_out = int((~np.isin(comparison.version_items, candidates)).sum())

    def score(self, users: np.ndarray) -> np.ndarray:
        """The scores (float32, shape (n, items)) of `users`, positions among the compared users."""
        asked, version = self.comparison, self.version
        # Ask for enough items that `cutoff` remain after seen and left-out items are removed.
        seen = int(np.diff(asked.seen[users].indptr).max())
        k = min(len(version.item_ids), asked.cutoff + seen + self.left_out)
        user_ids = asked.ids.users.decode(asked.user_ids[users])
        given = {**version.unknown_time(len(user_ids)), **asked.features(users)}
        items, answered = version.answer(user_ids, k, features=given)
        ids = asked.ids.items.codes(items)
        columns = np.searchsorted(asked.item_ids, ids).clip(max=len(asked.item_ids) - 1)
        rows, places = np.nonzero((asked.item_ids[columns] == ids) & np.isfinite(answered))
        scores = np.full((len(users), len(asked.item_ids)), -np.inf, np.float32)
        scores[rows, columns[rows, places]] = answered[rows, places]
        return scores
