"""Towers and ranking model together, as a model that the evaluation can measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from twotower.models.ranking.candidates import NO_ITEM, Candidates
from twotower.models.ranking.saving import load_ranking
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.ranking.candidates import CandidateSource, candidate_features
from twotower.pipelines.ranking.rank import FOLDER
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_tables

if TYPE_CHECKING:
    from twotower.models.two_tower import TowerScorer


class TwoStage:
    """Ranks by the towers, then orders the first items by the ranking model.

    Items after the candidates of the ranking model keep the order of the towers.

    Parameters
    ----------
    run : Run
        With the step `rank` done.
    evaluator : Evaluator
    scorer : TowerScorer
        The towers.
    """

    def __init__(self, run: Run, evaluator: Evaluator, scorer: TowerScorer) -> None:
        features = candidate_features(run, scorer.items)
        count = run.config.ranking.candidates
        self.source = CandidateSource(evaluator, scorer, features, count)
        self.model = load_ranking(run.path / FOLDER, *load_tables(run))

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return the k best candidates of each of the users, see `Ranker.rank`."""
        items, _, features = self.source.found(users, seen, k, candidates)
        count = features.shape[1]
        first = items[:, :count]
        found = Candidates.without_labels(users, first, features)
        scores = np.where(found.mask, self.model.probabilities(found), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        items[:, :count] = np.take_along_axis(first, order, axis=1)
        return np.where(items == NO_ITEM, -1, items)[:, :k]
