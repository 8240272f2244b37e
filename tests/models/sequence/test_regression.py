"""Decay towers in closed form: against loops over histories, a full eigenvalue problem, a chain."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.sequence.conftest import ITEMS, LENGTH, OFFSET
from tests.models.sequence.test_training import NEXT, TRAINING, config_of, data, right  # noqa: F401
from twotower.models.errors import ModelError
from twotower.models.sequence import regression
from twotower.models.sequence.config import SequenceConfig
from twotower.models.sequence.regression import (
    age_weights,
    moments,
    set_next_item_weights,
    solve,
)
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.model import create
from twotower.models.two_tower import embed

N = 7
DECAY = {"decay_time": 2.0, "decay_floor": 0.3, "last_item": True}
CHAIN = {**DECAY, "decay_time": 0.5, "decay_floor": 0.0, "start": {"l2": 1.0}}


@pytest.fixture(scope="module")
def sequences():
    """30 users with 0 to 11 items of 7, repeats included."""
    random = np.random.default_rng(1)
    lengths = random.integers(0, 12, 30)
    return random.integers(0, N, lengths.sum()), np.append(0, np.cumsum(lengths))


@pytest.fixture(scope="module")
def weights():
    return age_weights(SequenceConfig(kind="decay", **DECAY), length=5)


def looped(sequences, weights):
    """The normal equations from histories that are written out, one after another."""
    items, offsets = sequences
    gram, cross = np.zeros((2 * N, 2 * N)), np.zeros((2 * N, N))
    for user in range(len(offsets) - 1):
        own = items[offsets[user] : offsets[user + 1]]
        for place in range(1, len(own)):
            x = np.zeros(2 * N)
            for age in range(min(place, weights.shape[1])):
                for which in range(2):
                    x[which * N + own[place - 1 - age]] += weights[which, age]
            gram += np.outer(x, x)
            cross[:, own[place]] += x
    return gram, cross


def test_weights_are_those_of_the_tower_without_the_small_ones(weights):
    decay = [1, np.exp(-0.5), np.exp(-1), 0.3, 0.3]
    np.testing.assert_allclose(weights, [decay, [1, 0, 0, 0, 0]])
    without_floor = age_weights(SequenceConfig(kind="decay", decay_time=1.0, last_item=True), 50)
    assert without_floor.shape == (2, 7)  # exp(-7) < 0.001 < exp(-6)


@pytest.mark.parametrize("fold", [5, 1 << 24], ids=["folded often", "folded once"])
def test_moments_are_those_of_all_histories(sequences, weights, monkeypatch, fold):
    monkeypatch.setattr(regression, "FOLD", fold)
    found, expected = moments(sequences, N, weights), looped(sequences, weights)
    for each, right_one in zip(found, expected, strict=True):
        np.testing.assert_allclose(each.toarray(), right_one, atol=1e-10)


def best_of_rank(gram, cross, counts, rank, l2):
    """The minimum of the ridge loss among all matrices of a rank, from a singular value problem."""
    factor = np.linalg.cholesky(gram + l2 * np.eye(len(gram))).T
    whitened = factor @ np.linalg.solve(gram + l2 * np.eye(len(gram)), cross / np.sqrt(counts))
    left, values, right_one = np.linalg.svd(whitened)
    return np.linalg.solve(factor, left[:, :rank] * values[:rank] @ right_one[:rank])


@pytest.mark.parametrize(("max_dense", "tolerance"), [(100, 1e-6), (0, 1e-3)])
def test_the_cut_is_the_best_of_its_rank(sequences, weights, monkeypatch, max_dense, tolerance):
    """Both with the factorization and with conjugate gradients."""
    monkeypatch.setattr(regression, "MAX_DENSE", max_dense)
    gram, cross = moments(sequences, N, weights)
    counts = np.bincount(sequences[0], minlength=N)
    inputs, candidates = solve(gram, cross, counts, dim=3, l2=2.0)
    expected = best_of_rank(gram.toarray(), cross.toarray(), counts, rank=3, l2=2.0)
    np.testing.assert_allclose(inputs @ candidates.T, expected, atol=tolerance)
    assert np.abs(expected).max() > 50 * tolerance


def test_conjugate_gradients_agree_with_the_factorization_on_ill_conditioned_matrices(monkeypatch):
    from scipy.sparse import csr_matrix

    random = np.random.default_rng(0)
    half = random.normal(size=(200, 50)) * np.geomspace(1, 10, 200)[:, None]
    gram, right_one = csr_matrix(half @ half.T), random.normal(size=(200, 3)).astype(np.float32)
    expected = regression._inverse(gram, 30.0)(right_one)
    monkeypatch.setattr(regression, "MAX_DENSE", 0)
    found = regression._inverse(gram, 30.0)(right_one)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_more_dimensions_than_items_are_zero(sequences, weights):
    gram, cross = moments(sequences, N, weights)
    inputs, candidates = solve(gram, cross, np.ones(N), dim=10, l2=2.0)
    assert inputs.shape == (2 * N, 10) and not inputs[:, N:].any()
    full = np.linalg.solve(gram.toarray() + 2 * np.eye(2 * N), cross.toarray())
    np.testing.assert_allclose(inputs @ candidates.T, full, atol=1e-5)


def test_a_planted_chain_is_solved_without_a_gradient_step(schema, data, tmp_path):  # noqa: F811
    tower = create(schema, data, config_of("decay", dim=ITEMS + 1, **CHAIN), seed=1)
    history = fit(
        tower=tower,
        data=data,
        config=TRAINING.copy(update={"epochs": 1}),
        validate=right(data),
        folder=tmp_path,
        initialize=lambda: set_next_item_weights(tower, data),
    )
    assert history["val_ndcg@10"] == [1.0] and history["loss"] == [None]


def scores(tower, data, histories):  # noqa: F811
    users = {"user": np.full((len(histories), 1), 2, np.int32), "seen": histories}
    return (
        embed(tower.model.query_encoder, users) @ embed(tower.model.candidate_encoder, data.items).T
    )


def test_scores_are_log_popularity_plus_the_regression(schema, data):  # noqa: F811
    """For any temperature, and log-popularity alone for an empty history."""
    random = np.random.default_rng(3)
    histories = random.integers(OFFSET, ITEMS + OFFSET, (5, LENGTH)).astype(np.int32)
    counts = data.positives_per_item
    popularity = np.log((counts + 1) / (counts.sum() + ITEMS))
    found = []
    for temperature in (1.0, 0.1):
        config = config_of("decay", dim=ITEMS + 1, **CHAIN).copy(
            update={"temperature": temperature}
        )
        tower = create(schema, data, config, seed=1)
        set_next_item_weights(tower, data)
        found.append(scores(tower, data, histories) / temperature)
        empty = scores(tower, data, np.zeros((1, LENGTH), np.int32))[0] / temperature
        np.testing.assert_allclose(empty, popularity - popularity.mean(), atol=1e-4)
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
    gram, cross = moments(
        data.sequences(), ITEMS, age_weights(tower.config.sequence, length=LENGTH)
    )
    weights = age_weights(tower.config.sequence, length=LENGTH)
    full = np.linalg.solve(gram.toarray() + np.eye(2 * ITEMS), cross.toarray()) / np.sqrt(counts)
    for row, codes in enumerate(histories - OFFSET):
        decayed, newest = full[:ITEMS], full[ITEMS:]
        expected = weights[0] @ decayed[codes[: weights.shape[1]]] + newest[codes[0]]
        rest = found[0][row] - (popularity - popularity.mean())
        assert np.corrcoef(rest, expected)[0, 1] > 0.9999


def test_alignment_keeps_scores_and_the_orientation(schema, data):  # noqa: F811
    tower = create(schema, data, config_of("decay", **CHAIN), seed=1)
    set_next_item_weights(tower, data)
    items = embed(tower.model.candidate_encoder, data.items)
    before = scores(tower, data, data.users["seen"])
    for table in (tower.model.candidate_encoder, tower.model.query_encoder):
        for weight in table.trainable_variables:
            weight.assign(weight[..., ::-1])  # another orientation of the same towers
    turned = embed(tower.model.candidate_encoder, data.items)
    np.testing.assert_allclose(turned, items[:, ::-1])
    set_next_item_weights(tower, data, align=True)
    np.testing.assert_allclose(embed(tower.model.candidate_encoder, data.items), turned, atol=1e-4)
    np.testing.assert_allclose(scores(tower, data, data.users["seen"]), before, atol=1e-3)


def test_data_that_cannot_be_solved_are_refused(schema, data):  # noqa: F811
    alone = TrainingData(
        users=data.users,
        items=data.items,
        user_rows=np.arange(5, dtype=np.int32),
        item_rows=np.arange(5, dtype=np.int32),
        positions=np.zeros(5, np.int32),
    )
    tower = create(schema, data, config_of("decay", **CHAIN), seed=1)
    with pytest.raises(ModelError, match=r"model\.sequence\.start: no user has two items"):
        set_next_item_weights(tower, alone)
    few = {**CHAIN, "start": {"max_pairs": 100}}
    tower = create(schema, data, config_of("decay", **few), seed=1)
    with pytest.raises(ModelError, match=r"have [\d,]+ pairs of items at most 4 apart; lower"):
        set_next_item_weights(tower, data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "gru", "start": {}}, "start applies to kind decay only"),
        ({"kind": "decay", "start": {}}, "set last_item to true"),
    ],
)
def test_a_start_needs_the_tower_that_it_solves_for(settings, message):
    with pytest.raises(ValueError, match=message):
        SequenceConfig(**settings)
