"""A ranking model of a log of impressions: its rows by hand, and a whole run on a planted log."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from tests.impressions import impressions as planted_log
from tests.pipelines.conftest import small_config
from twotower.models.ranking.candidates import NO_ITEM, Candidates
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.saving import load_ranking
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.ranking.impressions import BOTH, FIRST, PLACE, impressions, load_log
from twotower.pipelines.ranking.measure import SECOND, bias_scores, label_metrics
from twotower.pipelines.ranking.rank import rank
from twotower.pipelines.run import Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_tables, preprocess
from twotower.pipelines.steps.train import train

LOG = {
    "rows": "interactions",
    "model": "esmm",
    "loss": "binary",
    "conversion": {"column": "conversion"},
}


class FakeFeatures:
    """Features that are the item, the score and the length of the history."""

    def compute(self, candidates, scores, history):
        counts = np.broadcast_to(history.counts[:, None], scores.shape)
        features = np.stack([candidates, scores, counts], axis=-1).astype(np.float32)
        return np.where(np.isfinite(scores)[..., None], features, 0)


@pytest.fixture(scope="module")
def source():
    """User u's score of item i is u + 1 times the i-th of these numbers."""
    items = np.array([[0.0], [3.0], [1.0], [2.0]], np.float32)
    users = np.arange(1, 4, dtype=np.float32)[:, None]
    history = csr_matrix(np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]], bool))
    scorer = SimpleNamespace(users=users, items=items)
    return SimpleNamespace(scorer=scorer, features=FakeFeatures(), history=history)


LOGGED = pd.DataFrame(
    [(2, 0, 0, 0), (1, 3, 1, 0), (2, 1, 1, 1), (0, 2, 1, 1), (1, 2, 0, 0), (2, 3, 1, 0)],
    columns=["user_row", "item_row", FIRST, BOTH],
).astype({FIRST: bool, BOTH: bool})


def test_rows_of_a_user_are_in_the_order_of_the_towers(source):
    config = RankingConfig(**LOG)
    found = impressions(LOGGED, np.array([2, 1]), source, config, seed=0)
    assert found.items.tolist() == [[1, 3, 0], [3, 2, NO_ITEM]]
    assert found.clicks.tolist() == [[True, True, False], [True, False, False]]
    assert found.labels.tolist() == [[True, False, False], [False] * 3]
    assert found.relevant.tolist() == [1, 0]
    # Item, score, length of the history; padding has none.
    assert found.features[0].tolist() == [[1, 9, 2], [3, 6, 2], [0, 0, 2]]
    assert found.features[1].tolist() == [[3, 4, 1], [2, 2, 1], [0, 0, 0]]
    single = impressions(LOGGED, np.array([2, 1]), source, config.copy(update={"model": "mlp"}), 0)
    assert single.clicks is None and np.array_equal(single.labels, found.labels)


def test_rows_know_the_position_at_which_they_were_shown(source):
    config = RankingConfig(**LOG, position="position")
    log = LOGGED.assign(**{PLACE: [4, 0, 1, 2, 3, 5]})
    found = impressions(log, np.array([2, 1]), source, config, seed=0)
    assert found.positions[found.mask].tolist() == [1, 5, 4, 0, 3]
    assert not found.positions[~found.mask].any()
    assert impressions(LOGGED, np.array([2, 1]), source, config, seed=0).positions is None


def test_a_user_has_at_most_the_candidates_rows_drawn_at_random(source):
    config = RankingConfig(**LOG).copy(update={"candidates": 2})
    drawn = {
        tuple(impressions(LOGGED, np.array([2, 0]), source, config, seed).items[0].tolist())
        for seed in range(20)
    }
    assert drawn == {(1, 3), (1, 0), (3, 0)}


def test_biases_are_those_of_users_and_items_in_the_train_part():
    earlier = pd.DataFrame(
        {"user_row": [0, 0, 1, 1], "item_row": [0, 1, 0, 1], FIRST: [True, False, True, True]}
    )
    earlier[BOTH] = [True, False, False, False]
    items = np.array([[0, 1]])
    found = Candidates.without_labels(np.array([0]), items, np.zeros((1, 2, 1)))
    scores = bias_scores(earlier, found)

    def odds(share):
        return np.log(share / (1 - share))

    mean = 3.5 / 5
    user, first, second = ((n + 10 * mean) / 12 for n in (1, 2, 1))
    logits = [odds(user) + odds(item) - odds(mean) for item in (first, second)]
    np.testing.assert_allclose(scores[FIRST], [1 / (1 + np.exp(-np.array(logits)))])
    np.testing.assert_allclose(scores[BOTH], scores[FIRST] * scores[SECOND])
    # A user without clicks would have the mean; user 0 has one, which is a conversion.
    clicked = 1.5 / 4
    user, item = (1 + 10 * clicked) / 11, (1 + 10 * clicked) / 12
    expected = odds(user) + odds(item) - odds(clicked)
    assert scores[SECOND][0, 0] == pytest.approx(1 / (1 + np.exp(-expected)))


def test_the_second_label_is_measured_on_clicks_alone():
    clicks = np.array([[True, True, False, True, False]])
    labels = np.array([[True, False, False, False, False]])
    items = np.array([[5, 6, 7, 8, NO_ITEM]])
    found = Candidates(np.array([0]), items, np.zeros((1, 5, 1)), labels, np.array([1]), clicks)
    first, second = np.array([[0.9, 0.2, 0.5, 0.8, 1]]), np.array([[0.5, 0.6, 0.9, 0.1, 1]])
    both = np.array([[0.45, 0.12, 0.45, 0.08, 1]])
    metrics = label_metrics(found, {FIRST: first, SECOND: second, BOTH: both})
    assert metrics[FIRST]["auc"] == pytest.approx(2 / 3) and metrics[FIRST]["rows"] == 4
    assert metrics[SECOND]["auc"] == 0.5 and metrics[SECOND]["rows"] == 3
    assert metrics[BOTH]["auc"] == pytest.approx((1 + 0.5 + 1) / 3)  # one is equal
    assert metrics[SECOND]["log_loss"] == pytest.approx(-np.log(0.5 * 0.4 * 0.9) / 3)


def test_ratings_can_be_the_log(small_run, tmp_path):
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    run.override(
        (
            "ranking={rows: interactions, model: mlp, loss: binary, epochs: 2}",
            "ranking.conversion={column: rating, at_least: 5}",
        )
    )
    notes = rank(run)
    evaluator = Evaluator(run, "valid")
    ratings = pd.read_parquet(run.path / "data" / "interactions.parquet")["rating"]
    assert notes["share of positives"] == pytest.approx((ratings == 5).mean(), abs=0.05)
    assert list(notes["baselines"]["constant"]) == [BOTH] and "labels" not in notes
    # An impression has no list of candidates, so what compares it with one is not read.
    users, items = load_tables(run)
    model = load_ranking(run.path / "ranking", users, items)
    features = np.random.default_rng(0).normal(size=(1, 3, 12)).astype(np.float32)
    found = Candidates.without_labels(np.array([0]), np.array([[1, 2, 3]]), features)
    changed = features.copy()
    changed[..., 1:4] += 7
    again = replace(found, features=changed)
    assert np.array_equal(model.logits(found), model.logits(again))
    changed[..., 0] += 7
    assert not np.array_equal(model.logits(found), model.logits(again))
    # Users without a valid positive have rows as well.
    with_positives = np.count_nonzero(np.diff(evaluator.relevant.indptr))
    assert notes["users"] + notes["held_out"] >= with_positives


def test_the_column_of_conversions_is_read_from_the_data():
    config = small_config("ranking.rows=interactions", "ranking.conversion={column: bought}")
    assert "bought" in config.wanted.interactions


@pytest.mark.parametrize("column, message", [("user_id", "has 400 values"), ("rank", "no column")])
def test_a_column_that_is_no_position_is_refused(column, message, small_run, monkeypatch):
    monkeypatch.setattr("twotower.pipelines.ranking.impressions.MAX_PLACES", 300)
    run = Run(small_run.path)
    run.override((f"ranking={{model: mlp, rows: interactions, position: {column}}}",), keep=False)
    with pytest.raises(ConfigError, match=rf"^ranking.*{column}'.*{message}|no column '{column}'"):
        load_log(run)


def trained(folder, bias: float) -> Run:
    """Towers of a planted log, with which a test trains its ranking model."""
    (folder / "log").mkdir()
    log = planted_log(users=200, items=48, per_user=40, bias=bias)
    log.to_parquet(folder / "log" / "log.parquet")
    config = load_config(
        CONFIGS / "ali-ccp.yaml",
        (
            f"ingest.path={folder / 'log'}",
            "features.user=[user_age]",
            "features.item=[item_category, item_brand]",
            "split.ratios=[0.5, 0.4, 0.1]",
            "training={batch_size: 256, epochs: 1}",
            "model.dim=8",
            "ranking={rows: interactions, model: esmm, loss: binary, epochs: 15}",
            "ranking.conversion={column: conversion}",
            "ranking.learning_rate=0.02",
            "ranking.hidden=[8]",
            "ranking.position=position",
        ),
    )
    run = Run.create(config, folder / "run")
    for step in (ingest, preprocess, train):
        step(run)
    return run


@pytest.mark.slow
def test_clicks_and_conversions_are_learned_better_than_by_biases(tmp_path):
    run = trained(tmp_path, bias=0.0)
    notes = rank(run)
    labels, biases = notes["labels"], notes["baselines"]["biases of user and item"]
    assert notes["users"] + notes["held_out"] == 200
    # The rows are those of the valid part: 0.4 of the 40 rows of each user.
    assert 0.3 < labels[FIRST]["rows"] / (40 * notes["held_out"]) < 0.5
    assert notes["baselines"]["constant"][BOTH]["auc"] == 0.5
    for name in (FIRST, SECOND, BOTH):
        assert biases[name]["rows"] == labels[name]["rows"]
        assert labels[name]["auc"] > biases[name]["auc"] > 0.7
        assert labels[name]["log_loss"] < biases[name]["log_loss"]
    assert biases[BOTH]["log_loss"] < notes["baselines"]["constant"][BOTH]["log_loss"]
    export(run)  # compares the ONNX graph with TensorFlow


@pytest.mark.slow
def test_the_position_explains_clicks_but_is_not_served(tmp_path):
    notes = rank(trained(tmp_path, bias=2.0))
    served, shown = notes["metrics"], notes["metrics at the positions"]
    assert shown["auc"] > served["auc"] + 0.05
    assert shown["log_loss"] < served["log_loss"]
