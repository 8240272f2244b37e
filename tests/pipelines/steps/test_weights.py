"""Weights of positives from the interactions to the training data, and in an update."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.pipelines.steps.test_preprocess import ingested
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids, load_training_data, preprocess
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import update
from twotower.workflows.errors import DataError

TRAINING = {"training.batch_size": 16, "training.epochs": 1, "model.dim": 4}


def plays(users: int = 20, items: int = 12) -> pd.DataFrame:
    """Plays of songs; every third pair has two rows."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame([(u, i) for u in range(users) for i in range(items) if draw.random() < 0.7])
    rows.columns = ["user_id", "item_id"]
    rows = rows.assign(plays=draw.integers(1, 50, len(rows)))
    rows = pd.concat([rows, rows[::3]], ignore_index=True)
    return rows.assign(timestamp=1_600_000_000 + np.arange(len(rows)))


def weights_by_pair(run: Run) -> pd.Series:
    data, (users, items) = load_training_data(run), load_ids(run)
    index = [users[data.user_rows], items[data.item_rows]]
    return pd.Series(data.weights, index=index).sort_index()


def expected(rows: pd.DataFrame, found: pd.Series) -> pd.Series:
    totals = rows.groupby(["user_id", "item_id"])["plays"].sum().loc[found.index]
    weights = np.sqrt(totals)
    return weights / weights.mean()


@pytest.fixture(scope="module")
def weighted(tmp_path_factory) -> Run:
    run = ingested(
        tmp_path_factory.mktemp("plays"),
        plays(),
        **TRAINING,
        **{
            "positives.weight": "plays",
            "positives.weight_transform": "sqrt",
        },
    )
    preprocess(run)
    return run


def test_the_weights_of_the_training_part_have_the_mean_1(weighted):
    found = weights_by_pair(weighted)
    assert found.dtype == np.float32 and found.mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found, expected(plays(), found), rtol=1e-6)


def test_an_update_adds_to_the_weights_of_known_pairs(weighted, tmp_path):
    train(weighted)
    heard = plays()[["user_id", "item_id"]].drop_duplicates()[:40]
    day = heard.assign(plays=100, timestamp=1_700_000_000)
    day.to_parquet(tmp_path / "ev.parquet")
    assert update(weighted, tmp_path, anyway=True) == 1
    found = weights_by_pair(weighted)
    rows = pd.concat([plays(), day])
    np.testing.assert_allclose(found, expected(rows, found), rtol=1e-6)


def test_a_weight_of_0_is_refused_when_the_data_is_read(tmp_path):
    with pytest.raises(DataError, match=r"positives\.weight: column 'plays' has 0 for user_id 3"):
        ingested(
            tmp_path,
            plays().assign(plays=lambda rows: rows["plays"].where(rows["user_id"] != 3, 0)),
            **{"positives.weight": "plays"},
        )
