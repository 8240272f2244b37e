"""Served answers equal brute force, and the comparison finds wrong ones."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.query import max_k, query
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.verify import _ask_in_batches, best_of, count_wrong, verify
from twotower.serving.client import Recommendations, RetrievalClient


def test_served_equals_brute_force_on_synthetic_data(small_run):
    found = verify(small_run, count=400, k=280)  # most users run out of unseen items before 280
    assert found.holds and found.users == 400


def test_more_items_may_be_asked_for_than_the_catalogue_has(small_run):
    found = verify(small_run, count=20, k=310, together=4)  # 300 items
    assert found.holds and found.k == 310


def test_a_version_of_other_towers_is_not_compared(small_run, tmp_path):
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    manifest = run.path / "triton" / "retrieval" / "1" / "manifest.json"
    tree = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**tree, "towers_sha256": "0" * 64}))
    with pytest.raises(RunError, match=r"made from other towers.*`twotower export` and `two"):
        verify(run)


def test_served_equals_brute_force_on_movielens_100k(ml_100k_run):
    assert verify(ml_100k_run, count=500, k=100).holds


ITEM_IDS = np.array([10, 20, 30, 40, 50, 60])
SCORES = np.array([[0.9, 0.5, 0.5 - 5e-7, 0.3, 0.1, -np.inf]], np.float32)  # 60 is seen


def test_best_items_end_in_padding_if_there_are_too_few():
    ids, scores = best_of(ITEM_IDS, SCORES[:, [4, 3, 2, 1, 0, 5]], 8)
    assert ids.tolist() == [[50, 40, 30, 20, 10, -1, -1, -1]]
    assert np.array_equal(scores[:, :5], SCORES[:, :5])
    assert np.isneginf(scores[:, 5:]).all()
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    assert best_of(ITEM_IDS, SCORES, 2)[0].tolist() == [[10, 20]]


@pytest.mark.parametrize(
    "ids, wrong",
    [
        pytest.param([10, 20, 30, 40, 50], 0, id="right"),
        pytest.param([10, 30, 20, 40, 50], 0, id="a tie swapped"),
        pytest.param([20, 10, 30, 40, 50], 2, id="no tie swapped"),
        pytest.param([10, 20, 30, 50, 40], 2, id="no tie swapped at the end"),
        pytest.param([10, 99, 30, 40, 50], 1, id="a foreign item in a tie"),
        pytest.param([10, 20, 99], 1, id="a foreign item in the last place"),
        pytest.param([10, 20, 5], 1, id="a foreign item below every known one"),
        pytest.param([10, 20, 25], 1, id="a foreign item that sorts next to a tied one"),
        pytest.param([10, 20, 20, 40], 1, id="an item repeated in a tie"),
        pytest.param([10, 30, 30, 40], 1, id="an item repeated in a tie, the other one"),
        pytest.param([10, 20, 30, 20], 1, id="an item repeated beyond its tie"),
        pytest.param([10, 20, 30, 40, 60], 1, id="a seen item"),
        pytest.param([10, 20, 30, -1], 1, id="exhausted too early"),
        pytest.param([10, 20, 30, 40, 50, -1, -1, -1], 0, id="exhausted, and beyond the catalogue"),
        pytest.param([10, 20, 30, 40, 50, 60, -1, -1], 1, id="a seen item where exhausted"),
        pytest.param([10, 20, 30, 40, 50, -1, 50, 99], 2, id="items where exhausted"),
        pytest.param([10, 30], 0, id="tied at the cut"),
        pytest.param([10, 40], 1, id="not tied at the cut"),
    ],
)
def test_wrong_places_are_counted(ids, wrong):
    assert count_wrong(np.array([ids]), ITEM_IDS, SCORES) == wrong


def test_each_row_is_compared_with_its_own_scores():
    scores = np.concatenate([SCORES, SCORES[:, ::-1]])
    right = np.array([[10, 30, 20], [60, 40, 50]])
    assert count_wrong(right, ITEM_IDS, scores) == 0
    assert count_wrong(right[::-1], ITEM_IDS, scores) == 6


def test_a_history_in_the_request_replaces_the_one_in_the_table(small_run):
    users = pd.read_parquet(small_run.path / "processed" / "raw_users.parquet")
    one, other = users[users["history"].map(len) == 20].iloc[:2].itertuples()
    with serving(small_run) as addresses, RetrievalClient(addresses.http) as client:
        known = client.recommend([one.user_id], filter_seen=False)
        same = {"history": [list(one.history)]}
        given = client.recommend([one.user_id], filter_seen=False, features=same)
        foreign = {"history": [list(other.history)]}
        changed = client.recommend([one.user_id], filter_seen=False, features=foreign)
    np.testing.assert_array_equal(given.item_ids, known.item_ids)
    np.testing.assert_allclose(given.scores, known.scores, rtol=1e-6)
    assert np.abs(changed.scores - known.scores).max() > 1e-3


def test_more_items_than_are_served_are_refused_before_a_server_is_started(small_run, monkeypatch):
    def never(run):
        raise AssertionError("a server was started")

    assert max_k(small_run) == small_run.config.serving.max_k == 1000
    monkeypatch.setattr("twotower.pipelines.steps.query.serving", never)
    monkeypatch.setattr("twotower.pipelines.steps.verify.serving", never)
    message = r"-k 1001: the published version answers with at most 1000 items; ask for fewer, or"
    for ask in (partial(query, small_run, [1], 1001), partial(verify, small_run, 5, 1001)):
        with pytest.raises(ConfigError, match=message):
            ask()
    with pytest.raises(ConfigError, match=r"0 users, k = None: expected 1 or more"):
        verify(small_run, 0)


def test_users_are_asked_for_in_batches():
    sizes = []

    def asking(addresses, users, protocols):
        sizes.append(len(users))
        ids = np.repeat(users, 2).reshape(-1, 2)
        return {"http": Recommendations(ids, ids.astype(np.float32), version=3)}

    answer = _ask_in_batches(asking, None, list(range(7)), batch_size=3)
    assert sizes == [3, 3, 1] and answer.version == 3
    assert answer.item_ids.tolist() == answer.scores.tolist() == [[n, n] for n in range(7)]
