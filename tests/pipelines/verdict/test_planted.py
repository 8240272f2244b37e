"""The verdict on four data sets with a planted answer, and on MovieLens-100K.

The towers are solved in closed form without the pipeline around them; `test_verdict_of_runs.py`
has whole runs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from benchmarks.own_data import planted
from twotower.models.evaluation.baselines import fit_baseline
from twotower.models.evaluation.metrics import evaluate
from twotower.pipelines.config import load_config
from twotower.pipelines.verdict.facts import gather, overlap_in_time
from twotower.pipelines.verdict.per_user import OneMetric, both
from twotower.pipelines.verdict.verdict import MODEL, Verdict, judge
from twotower.pipelines.verdict.words import objection, paragraph
from twotower.workflows.split import SplitConfig, split

CONFIG = load_config("synthetic", ("model.dim=128",))


class Towers:
    """Closed-form towers of `dim` dimensions."""

    def __init__(self, train: csr_matrix, dim: int = 64):
        from twotower.models.training.closed_form.regression import solve
        from twotower.models.training.config import ClosedFormConfig

        self.train = train.astype(np.float32)
        self.history, self.candidates = solve(train, dim, ClosedFormConfig(l2=100))

    def score(self, users):
        return self.train[users] @ self.history @ self.candidates.T


def verdict_of(frame: pd.DataFrame, method: str = "random", model: str = MODEL) -> Verdict:
    """The verdict on the towers, or on a baseline in their place."""
    parts = split(frame, SplitConfig(method=method))
    users, user_rows = np.unique(parts["user_id"], return_inverse=True)
    items, item_rows = np.unique(parts["item_id"], return_inverse=True)

    def matrix(*names: str) -> csr_matrix:
        chosen = parts["part"].isin(names).to_numpy()
        pairs = (user_rows[chosen], item_rows[chosen])
        return csr_matrix((np.ones(chosen.sum(), bool), pairs), (len(users), len(items)))

    train, relevant, seen = matrix("train"), matrix("test"), matrix("train", "valid")
    kept = OneMetric("ndcg@10", [10])
    for name in (MODEL, "popularity", "random", "itemknn"):
        fitted = model if name == MODEL else name
        scorer = Towers(train) if fitted == MODEL else fit_baseline(fitted, train, seed=2)
        evaluate(scorer, relevant, seen, [10], on_users=both(kept, None, name))
    overlap = overlap_in_time(frame["item_id"].to_numpy(), frame["timestamp"].to_numpy())
    return judge(kept.name, kept.values, gather(relevant, train, None, method, overlap))


@pytest.mark.parametrize("seed", [0, 1])
def test_tastes_are_worth_a_model(seed):
    verdict = verdict_of(planted.tastes(seed=seed))
    assert (verdict.outcome, verdict.use, verdict.enough) == ("better", MODEL, True)
    assert verdict.strongest.name == "itemknn" and objection(verdict) is None
    text = paragraph(verdict, CONFIG)
    assert "is better than the strongest baseline, itemknn" in text
    assert "It is better than popularity" in text
    assert "Set split.method" not in text
    # A model that ignores the tastes is told from them.
    ignorant = verdict_of(planted.tastes(seed=seed), model="popularity")
    assert (ignorant.outcome, ignorant.use) == ("worse", "itemknn")


@pytest.mark.parametrize("seed", [0, 1])
def test_popularity_alone_is_worth_no_model(seed):
    verdict = verdict_of(planted.popularity_only(seed=seed))
    assert (verdict.use, verdict.enough) == ("popularity", True)
    assert verdict.outcome in ("same", "worse")
    assert "popularity" in objection(verdict)
    text = paragraph(verdict, CONFIG)
    assert "Use popularity instead of the model." in text and "random" not in text
    assert "Set split.method" not in text


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_has_no_pattern(seed):
    verdict = verdict_of(planted.noise(seed=seed))
    assert (verdict.outcome, verdict.use) == ("no signal", "random")
    assert "is not better than random" in objection(verdict)
    text = paragraph(verdict, CONFIG)
    assert "Neither the model nor a baseline is better than random ranking" in text
    assert "not enough to tell" in text and "Set split.method" not in text


@pytest.mark.parametrize("seed", [0, 1])
def test_drift_looks_well_at_random_and_does_not_tomorrow(seed):
    frame = planted.drift(seed=seed)
    mixed = verdict_of(frame)
    assert mixed.rival("popularity").is_beaten and mixed.model > 5 * mixed.rival("popularity").value
    text = paragraph(mixed, CONFIG)
    assert "What people take changes over time" in text
    assert "how good tomorrow's recommendations are is not tested" in text
    assert "Set split.method to temporal." in text
    tomorrow = verdict_of(frame, "temporal")
    assert tomorrow.model < mixed.model / 3 and tomorrow.use != MODEL
    text = paragraph(tomorrow, CONFIG)
    assert "100% of the test users have no positive in training." in text
    assert "`twotower update`" in text
    assert "Set split.method" not in text
    # The same pairs at shuffled times are no drift.
    shuffled = np.random.default_rng(0).permutation(frame["timestamp"])
    assert "Set split" not in paragraph(verdict_of(frame.assign(timestamp=shuffled)), CONFIG)


def test_movielens_100k_is_worth_a_model(data_dir):
    names = ["user_id", "item_id", "rating", "timestamp"]
    rows = pd.read_csv(data_dir / "ml-100k" / "u.data", sep="\t", names=names)
    verdict = verdict_of(rows[rows["rating"] >= 3].reset_index(drop=True))
    assert (verdict.outcome, verdict.use, verdict.enough) == ("better", MODEL, True)
    assert verdict.strongest.name == "itemknn" and verdict.rival("popularity").is_beaten
    assert verdict.facts.overlap > 0.9
    assert "Set split.method" not in paragraph(verdict, CONFIG)
    ignorant = verdict_of(rows[rows["rating"] >= 3].reset_index(drop=True), model="popularity")
    assert (ignorant.outcome, ignorant.use) == ("worse", "itemknn")
