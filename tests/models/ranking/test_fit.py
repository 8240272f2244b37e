"""Ranking models learn what is planted, keep their best epoch, and predict the same when loaded."""

from __future__ import annotations

import numpy as np
import pytest
from merlin.schema import Schema
from scipy.special import expit

from benchmarks.two_stage.explicit import column
from twotower.models.errors import ModelError
from twotower.models.ranking.candidates import NO_ITEM, Candidates, ndcg
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.fit import RankingModel, _fit_scale, fit_ranking
from twotower.models.ranking.metrics import calibration
from twotower.models.ranking.networks import NETWORK_CLASSES, build_network
from twotower.models.ranking.options import NETWORKS
from twotower.models.ranking.saving import load_ranking, save_ranking

USERS, ITEMS, WIDTH = 60, 30, 12
SMALL = {
    "loss": "binary",
    "hidden": [16],
    "feature_dim": 4,
    "dropout": 0.0,
    "batch_users": 20,
    "epochs": 12,
    "experts": 2,
}


TASTE, KIND, TOPICS = column("taste", 5), column("kind", 6), column("topics", 7, width=3)


@pytest.fixture(scope="module")
def planted():
    """Users of taste t like items of kind t; the scores of retrieval say nothing."""
    draw = np.random.default_rng(1)
    users = {"taste": draw.integers(3, 5, (USERS, 1)).astype(np.int32)}
    items = {
        "kind": draw.integers(3, 6, (ITEMS, 1)).astype(np.int32),
        "topics": draw.integers(0, 7, (ITEMS, 3)).astype(np.int32),
    }
    rows = np.stack([draw.permutation(ITEMS)[:WIDTH] for _ in range(USERS)])
    rows[::7, -2:] = NO_ITEM
    labels = (items["kind"][rows, 0] == users["taste"]) & (rows != NO_ITEM)
    features = draw.normal(5, 3, (USERS, WIDTH, 2)).astype(np.float32)
    clicks = labels | (draw.random(labels.shape) < 0.3) & (rows != NO_ITEM)
    found = Candidates(np.arange(USERS), rows, features, labels, labels.sum(axis=1), clicks)
    return users, items, found


def made(planted, schemas=((TASTE,), (KIND, TOPICS)), **settings):
    users, items, found = planted
    config = RankingConfig(**{"model": "mlp", **SMALL, **settings})
    network = build_network(*map(Schema, schemas), *found.moments(), config)
    return RankingModel(network, users, items), config


def fitted(planted, **settings):
    model, config = made(planted, **settings)
    found = planted[2]
    train, held_out = found.take(np.arange(15, USERS)), found.take(np.arange(15))
    return fit_ranking(model, train, held_out, config), config


@pytest.mark.parametrize(
    "name",
    # The others take seconds to trace.
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("mlp", "esmm")))
        for name in NETWORKS
    ],
)
def test_a_network_learns_a_planted_taste_and_predicts_the_same_when_loaded(
    name, planted, tmp_path
):
    users, items, found = planted
    model, config = fitted(planted, model=name, learning_rate=0.02, epochs=30)
    held_out = found.take(np.arange(15))
    assert ndcg(held_out, model.logits(held_out)) > 0.95
    untrained, _ = made(planted, model=name)
    assert ndcg(held_out, untrained.logits(held_out)) < 0.8
    save_ranking(model, config, tmp_path)
    loaded = load_ranking(tmp_path, users, items)
    np.testing.assert_allclose(loaded.logits(found), model.logits(found), atol=1e-5)
    np.testing.assert_allclose(loaded.probabilities(found), model.probabilities(found), atol=1e-6)
    assert loaded.history == model.history


def test_every_name_has_a_network():
    assert set(NETWORK_CLASSES) == set(NETWORKS)


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_every_loss_learns_the_planted_taste(loss, planted):
    model, _ = fitted(planted, loss=loss, learning_rate=0.05, epochs=60, patience=30)
    held_out = planted[2].take(np.arange(15))
    assert ndcg(held_out, model.logits(held_out)) > 0.95
    # Their logits have any scale; the probabilities are those of the users held out.
    share = held_out.labels[held_out.mask].mean()
    assert model.probabilities(held_out)[held_out.mask].mean() == pytest.approx(share, abs=1e-3)


def test_the_mlp_is_its_layers_over_all_inputs(planted):
    model, _ = made(planted)
    found, (users, items, _) = planted[2], planted
    model.logits(found)  # creates the weights
    network = model.network
    parts = [network._user_tables["taste"].table.embeddings.numpy()[users["taste"][:, 0]]]
    kinds = network._item_tables["kind"].table.embeddings.numpy()[items["kind"][:, 0]]
    table, topics = network._item_tables["topics"].table.embeddings.numpy(), items["topics"]
    known = (topics != 0) & (topics != 2)  # neither padding nor unknown
    pooled = (table[topics] * known[..., None]).sum(axis=1) / np.maximum(known.sum(axis=1), 1)[
        :, None
    ]
    user, place = 3, 4
    item = found.items[user, place]
    scaled = (found.features[user, place] - network.means) / network.deviations
    first = {name: layer.get_weights() for name, layer in network._first.items()}
    hidden = (
        parts[0][user] @ first["user"][0]
        + np.concatenate([kinds[item], pooled[item]]) @ first["item"][0]
        + np.clip(scaled, -5, 5) @ first["features"][0]
        + first["features"][1]
    )
    kernel, bias = network._output.get_weights()
    expected = np.maximum(hidden, 0) @ kernel[:, 0] + bias[0]
    assert model.logits(found)[user, place] == pytest.approx(expected, abs=1e-5)


def test_the_best_epoch_is_kept(planted):
    model, _ = fitted(planted, epochs=30, patience=3, learning_rate=0.05)
    reached = model.history["held_out"]
    held_out = planted[2].take(np.arange(15))
    assert ndcg(held_out, model.logits(held_out)) == pytest.approx(max(reached))
    assert len(reached) <= reached.index(max(reached)) + 4  # stops after `patience` epochs
    assert len(model.history["loss"]) == len(reached)


def test_the_same_seed_gives_the_same_model(planted):
    first, second = (fitted(planted, epochs=2)[0].logits(planted[2]) for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_a_model_may_read_features_alone(planted, tmp_path):
    users, items, found = planted
    informative = found.labels[..., None] * np.float32(2) + found.features[..., :1]
    found = Candidates(found.users, found.items, informative, found.labels, found.relevant)
    model, config = made((users, items, found), schemas=((), ()))
    fit_ranking(model, found.take(np.arange(15, USERS)), found.take(np.arange(15)), config)
    save_ranking(model, config, tmp_path)
    loaded = load_ranking(tmp_path, users, items)
    np.testing.assert_allclose(loaded.logits(found), model.logits(found), atol=1e-5)


@pytest.mark.parametrize("name", ["dlrm", "deepfm"])
def test_products_of_embeddings_need_embeddings(name, planted):
    with pytest.raises(ModelError, match=f"ranking.model {name} multiplies embeddings, but there"):
        made(planted, schemas=((), ()), model=name)


@pytest.mark.parametrize("label, kind", [(False, "0 of the"), (True, "are positives")])
def test_candidates_of_one_kind_teach_nothing(label, kind, planted):
    users, items, found = planted
    labels = found.mask & label
    same = Candidates(found.users, found.items, found.features, labels, labels.sum(axis=1))
    model, config = made((users, items, same))
    with pytest.raises(ModelError, match=kind):
        fit_ranking(model, same.take(np.arange(15, USERS)), same.take(np.arange(15)), config)


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_a_loss_that_compares_candidates_needs_users_with_both_kinds(loss, planted):
    users, items, found = planted
    single = Candidates(
        found.users, found.items[:, :1], found.features[:, :1], found.labels[:, :1], found.relevant
    )
    model, config = made((users, items, single), loss=loss)
    with pytest.raises(ModelError, match=rf"ranking\.loss {loss} compares the positives of a user"):
        fit_ranking(model, single.take(np.arange(15, USERS)), single.take(np.arange(15)), config)


def test_ndcg_by_hand():
    labels = np.array([[False, True, False], [True, False, True], [False, False, False]])
    items = np.array([[4, 5, 6], [1, 2, NO_ITEM], [7, 8, 9]])
    found = Candidates(
        np.arange(3), items, np.zeros((3, 3, 1), np.float32), labels, np.array([2, 1, 0])
    )
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 9.0], [1.0, 2.0, 3.0]])
    # User 0: the positive is second, a second one is no candidate. User 1: padding is no hit.
    first = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    assert ndcg(found, scores) == pytest.approx((first + 1 / np.log2(3)) / 2)


class Given(RankingModel):
    """A model whose logits are the first feature."""

    def logits(self, candidates: Candidates) -> np.ndarray:
        return candidates.features[..., 0]


def drawn(users: int) -> tuple[Candidates, np.ndarray]:
    """Candidates whose logits are a bent line in those of their labels, and the probabilities."""
    draw = np.random.default_rng(4)
    logits = draw.normal(size=(users, 50)).astype(np.float32)
    probabilities = expit(np.where(logits < 1, 0.3 * logits, 0.3 + 2.5 * (logits - 1)) - 2)
    labels = draw.random(logits.shape) < probabilities
    items = np.zeros(logits.shape, np.int64)
    found = Candidates(np.arange(users), items, logits[..., None], labels, labels.sum(axis=1))
    return found, probabilities


def test_the_scale_is_a_bent_line_that_keeps_the_order():
    found, probabilities = drawn(users=2000)
    model = Given(network=None, users={}, items={})
    _fit_scale(model, found)
    assert len(model.bends) == 4
    fitted = model.probabilities(found)
    assert np.abs(fitted - probabilities).mean() < 0.01
    errors = []
    for bends in (model.bends, ()):
        model.bends = bends
        if not bends:  # the scale of Platt: fitted without enough positives for a bend
            few = found.take(np.arange(2))
            _fit_scale(model, few)
            assert model.bends == []
        errors.append(calibration(found.labels.ravel(), model.probabilities(found).ravel()).error)
    assert errors[0] < 0.005 < errors[1]
    _fit_scale(model, found)
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    line = model.probabilities(Candidates.without_labels(np.zeros(1), x[None], x[None, :, None]))
    assert (np.diff(line[0].astype(np.float64)) >= 0).all()


def test_a_scale_is_saved_and_read_with_its_bends(planted, tmp_path):
    model, config = made(planted)
    model.slope, model.intercept, model.bends = 0.5, -1.0, [(0.1, 2.0), (0.3, -0.4)]
    found = planted[2]
    logits = model.logits(found)
    scaled = 0.5 * logits - 1 + 2 * np.maximum(logits - 0.1, 0) - 0.4 * np.maximum(logits - 0.3, 0)
    np.testing.assert_allclose(model.probabilities(found), expit(scaled), atol=1e-6)
    save_ranking(model, config, tmp_path)
    loaded = load_ranking(tmp_path, *planted[:2])
    np.testing.assert_allclose(loaded.probabilities(found), model.probabilities(found), atol=1e-6)
