"""The features of candidates against a slow computation, and what they are without a history."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.serving.runtime.ranking.reference import features_of
from twotower.serving.item_columns import item_columns
from twotower.serving.runtime.filters.columns import ItemColumn, ItemColumns
from twotower.serving.runtime.ranking import profiles
from twotower.serving.runtime.ranking.features import CandidateFeatures, History
from twotower.serving.runtime.ranking.profiles import ValueProfile

ITEMS = 40


@pytest.fixture(scope="module")
def catalogue():
    """Vectors, numbers of positives, and columns with nulls."""
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(ITEMS, 6)).astype(np.float32)
    vectors[5] = 0
    years = [None if n % 7 == 0 else int(draw.integers(1950, 2000)) for n in range(ITEMS)]
    genres = [draw.choice(["a", "b", "c", "d"], n % 4).tolist() for n in range(ITEMS)]
    genres[9] = None
    return {
        "vectors": vectors,
        "positives": draw.integers(0, 50, ITEMS),
        "columns": {"year": years, "genres": genres},
    }


@pytest.fixture(scope="module")
def features(catalogue):
    columns = item_columns(pa.table(catalogue["columns"]), ["year", "genres"])
    return CandidateFeatures.of(catalogue["vectors"], catalogue["positives"], columns)


@pytest.fixture(scope="module")
def asked():
    """Four users: a long history, one item, no history, and fewer candidates than others."""
    draw = np.random.default_rng(4)
    candidates = np.stack([draw.permutation(ITEMS)[:8] for _ in range(4)])
    scores = -np.sort(-draw.normal(size=(4, 8)), axis=1).astype(np.float32)
    scores[3, 5:] = -np.inf
    histories = [draw.permutation(ITEMS)[:20].tolist(), [7], [], [5, 14, 21]]
    counts = np.array([len(each) for each in histories])
    return candidates, scores, histories, History(np.concatenate(histories).astype(int), counts)


def test_they_equal_a_slow_computation(catalogue, features, asked):
    candidates, scores, histories, history = asked
    found = features.compute(candidates, scores, history)
    assert found.shape == (4, 8, len(features.names)) and found.dtype == np.float32
    for row in range(4):
        for place in range(5 if row == 3 else 8):
            expected = features_of(
                place, candidates[row], scores[row].tolist(), histories[row], **catalogue
            )
            np.testing.assert_allclose(found[row, place], expected, rtol=2e-5, atol=2e-5)
    assert not found[3, 5:].any()  # padding


def test_a_batch_has_what_its_rows_have_alone(features, asked):
    candidates, scores, histories, history = asked
    together = features.compute(candidates, scores, history)
    for row, own in enumerate(histories):
        alone = History(np.array(own, int), np.array([len(own)]))
        found = features.compute(candidates[row : row + 1], scores[row : row + 1], alone)
        np.testing.assert_allclose(found[0], together[row], rtol=1e-6, atol=1e-6)


def test_the_order_of_a_history_has_no_effect(features, asked):
    candidates, scores, histories, _ = asked
    found = [
        features.compute(candidates[:1], scores[:1], History(np.array(own), np.array([20])))
        for own in (histories[0], histories[0][::-1])
    ]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_they_are_the_same_after_saving(features, asked, tmp_path):
    candidates, scores, _, history = asked
    kinds = features.save(tmp_path)
    assert kinds == {"year": "numbers", "genres": "values"}
    read = CandidateFeatures.load(tmp_path, kinds, features.vectors)
    assert read.names == features.names
    expected = features.compute(candidates, scores, history)
    assert np.array_equal(read.compute(candidates, scores, history), expected)


def test_some_of_the_items_keep_their_features(features, asked):
    candidates, scores, _, history = asked
    kept = np.ones(ITEMS, bool)
    kept[[n for n in range(ITEMS) if n not in candidates and n not in history.positions]] = False
    assert not kept.all()
    new = np.cumsum(kept) - 1
    some = features.take(kept).compute(
        new[candidates], scores, History(new[history[0]], history[1])
    )
    assert np.array_equal(some, features.compute(candidates, scores, history))


def test_one_candidate_and_one_value_are_no_division_by_zero():
    column = ItemColumn("INT64", np.array([3]), np.array([0, 0, 0], np.int32))
    columns = ItemColumns({"same": column}, 3)
    features = CandidateFeatures.of(np.eye(3, dtype=np.float32), np.zeros(3, int), columns)
    history = History(np.array([1]), np.array([1]))
    found = features.compute(np.array([[0]]), np.ones((1, 1), np.float32), history)
    assert np.isfinite(found).all()
    assert found[0, 0].tolist()[:4] == [1, 0, 0, 0]


def test_rare_values_count_as_none(monkeypatch):
    monkeypatch.setattr(profiles, "MAX_VALUES", 1)
    column = ItemColumn("BYTES", np.array(["a", "b"], object), np.array([0, 1, 1, 2], np.int32))
    profile = ValueProfile.of(column, np.array([1, 1, 1, 1]))
    # Only "b" is kept, and the item of "a" has no value, like the last one.
    assert profile.starts.tolist() == [0, 0, 1, 2, 2] and len(profile.log_shares) == 1
    found = np.zeros((1, 4, 2), np.float32)
    profile.fill(found, np.array([[0, 1, 2, 3]]), np.array([1, 0]), np.array([0, 0]))
    assert found[0, :, 0].tolist() == [0, 0.5, 0.5, 0]
