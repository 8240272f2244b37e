"""Networks with two labels: their parts by hand, and what they learn from a planted log."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from merlin.schema import Schema
from onnxruntime import InferenceSession

from benchmarks.two_stage.explicit import column
from tests.impressions import catalogue, click_logits, conversion_logits, impressions, sigmoid
from twotower.models.errors import ModelError
from twotower.models.ranking.base import served_logit
from twotower.models.ranking.candidates import NO_ITEM, Candidates
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.fit import RankingModel, fit_ranking
from twotower.models.ranking.metrics import auc
from twotower.models.ranking.networks import build_network
from twotower.models.ranking.saving import NETWORK, save_ranking
from twotower.serving.operators.saved_ranking import SavedRanking
from twotower.serving.runtime.ranking.rank_candidates import FEATURES, HEAD
from twotower.serving.runtime.ranking.rank_candidates import ITEMS as ITEMS_INPUT
from twotower.serving.runtime.ranking.rank_candidates import USERS as USERS_INPUT

USERS, ITEMS, WIDTH = 300, 48, 24
SETTINGS = {
    "loss": "binary",
    "hidden": [8],
    "feature_dim": 4,
    "dropout": 0.0,
    "learning_rate": 0.02,
    "batch_users": 60,
    "epochs": 25,
}


@pytest.fixture(scope="module")
def log():
    """A log as candidates: a feature that says nothing, and the columns of the items."""
    rows, table = impressions(USERS, ITEMS, WIDTH), catalogue(ITEMS)
    shape = (USERS, WIDTH)
    labels = rows["conversion"].to_numpy(bool).reshape(shape)
    found = Candidates(
        users=np.arange(USERS),
        items=rows["item_id"].to_numpy().reshape(shape),
        features=np.random.default_rng(2).normal(size=(*shape, 1)).astype(np.float32),
        labels=labels,
        relevant=labels.sum(axis=1),
        clicks=rows["click"].to_numpy(bool).reshape(shape),
    )
    names = ("item_category", "item_brand")
    items = {name: table[name].to_numpy(np.int32)[:, None] + 3 for name in names}
    schema = Schema([column(name, 3 + int(table[name].max()) + 1) for name in names])
    return SimpleNamespace(found=found, items=items, schema=schema, table=table)


def made(log, name, found=None, **settings):
    found = log.found if found is None else found
    config = RankingConfig(**{"model": name, **SETTINGS, **settings})
    network = build_network(Schema([]), log.schema, *found.moments(), config)
    return RankingModel(network, {}, log.items), config


def fitted(log, name, found=None, **settings):
    found = log.found if found is None else found
    model, config = made(log, name, found, **settings)
    train, held_out = found.take(np.arange(60, USERS)), found.take(np.arange(60))
    return fit_ranking(model, train, held_out, config, measure=auc_of_rows)


def auc_of_rows(found, scores):
    return auc(found.labels[found.mask], scores[found.mask])


def inputs(log, network, count=7):
    """The inputs of the head for the first items, and the scaled features."""
    columns = {name: tf.constant(values[:count]) for name, values in log.items.items()}
    features = np.linspace(-2, 2, count, dtype=np.float32)[:, None]
    users = network.user_part({"": tf.zeros([count, 1], tf.int32)})
    return users, network.item_part(columns), features


def test_the_served_logit_is_that_of_the_product():
    a, b = np.meshgrid(np.linspace(-6, 6, 13), np.linspace(-6, 6, 13))
    product = sigmoid(a) * sigmoid(b)
    pairs = np.stack([a, b], axis=-1)
    np.testing.assert_allclose(served_logit(tf.constant(pairs)), np.log(product / (1 - product)))
    # One label is its own logit; large logits do not overflow.
    np.testing.assert_array_equal(served_logit(tf.constant(a[..., None])), a)
    extreme = [[200.0, 200.0], [-200.0, 3.0], [200.0, 1.5], [-100.0, -100.0]]
    found = served_logit(tf.constant(extreme, tf.float32)).numpy()
    np.testing.assert_allclose(
        found, [200 - np.log(2), -200 - np.log1p(np.exp(-3)), 1.5, -200], rtol=1e-5
    )


def test_esmm_has_layers_per_label_over_the_same_embeddings(log):
    model, _ = made(log, "esmm", hidden=[8, 5])
    network = model.network
    users, items, features = inputs(log, network)
    found = network.label_logits(users, items, features).numpy()
    x = np.concatenate([items, (features - network.means) / network.deviations], axis=1)
    for place, name in enumerate(("first", "second")):
        hidden = x
        *layers, output = [layer.get_weights() for layer in network._layers[name]]
        for kernel, bias in layers:
            hidden = np.maximum(hidden @ kernel + bias, 0)
        np.testing.assert_allclose(found[:, place], (hidden @ output[0] + output[1])[:, 0], 1e-4)
    product = sigmoid(found[:, 0]) * sigmoid(found[:, 1])
    head = network.head(users, items, features).numpy()
    np.testing.assert_allclose(sigmoid(head), product, rtol=1e-5)


def test_mmoe_mixes_different_experts_by_a_gate_per_label(log):
    model, _ = made(log, "mmoe", experts=3)
    network = model.network
    users, items, features = inputs(log, network)
    found = network.label_logits(users, items, features).numpy()
    x = np.concatenate([items, (features - network.means) / network.deviations], axis=1)
    kernels = [v.numpy() for v in network.variables if "with_shortcut" in v.name]
    experts = [
        np.maximum(x @ kernel + bias, 0)
        for kernel, bias in zip(kernels[::2], kernels[1::2], strict=True)
    ]
    assert len(experts) == 3 and not np.allclose(experts[0], experts[1])
    for place, name in enumerate(("first", "second")):
        (gate,) = [v.numpy() for v in network.variables if f"gate_{name}/" in v.name]
        weights = np.exp(x @ gate) / np.exp(x @ gate).sum(axis=1, keepdims=True)
        mixed = sum(weights[:, [n]] * expert for n, expert in enumerate(experts))
        kernel, bias = network._outputs[name].get_weights()
        np.testing.assert_allclose(found[:, place], (mixed @ kernel + bias)[:, 0], atol=1e-5)


def test_ple_has_shared_experts_and_experts_of_each_label(log):
    model, _ = made(log, "ple", experts=1)
    network = model.network
    found = network.label_logits(*inputs(log, network))
    experts = {v.ref() for v in network.variables if v.shape[-1] == SETTINGS["hidden"][0]}
    gates = [v.shape[1] for v in network.variables if "gate_final" in v.name]
    assert found.shape == (7, 2)
    assert len(experts) == 2 * 3 * 2  # kernel and bias; two labels and shared; two layers
    assert sorted(gates) == [2, 2, 2, 2, 3]  # the last layer has no gate of the shared experts


def test_esmm_learns_conversion_on_all_impressions_and_clicks_alone_mislead(log):
    held_out, model = log.found.take(np.arange(60)), fitted(log, "esmm")
    clicked, probabilities = log.found.clicks, model.label_probabilities(log.found)
    first, second = np.moveaxis(probabilities, -1, 0)
    # The order of p(conversion | click) is the planted one, over all impressions.
    truth = conversion_logits(log.table)[log.found.items]
    assert np.corrcoef(np.log(second / (1 - second)).ravel(), truth.ravel())[0, 1] > 0.95
    # A model of the clicked rows learns that order, too, but it is not the order of conversions.
    only = replace(log.found, items=np.where(clicked, log.found.items, NO_ITEM))
    clicks_only = fitted(log, "mlp", only)
    planted = sigmoid(click_logits(log.table)) * sigmoid(conversion_logits(log.table))
    best = auc_of_rows(held_out, planted[held_out.items])
    assert auc_of_rows(held_out, model.logits(held_out)) > best - 0.01
    assert auc_of_rows(held_out, clicks_only.logits(held_out)) < best - 0.05
    assert auc(clicked.ravel(), first.ravel()) > 0.7


@pytest.mark.parametrize(
    "name", ["esmm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mmoe", "ple"))]
)
def test_the_onnx_graph_gives_the_served_probability(name, log, tmp_path):
    model, config = made(log, name, experts=1)
    model.slope, model.intercept = 1.5, -0.5
    expected = model.probabilities(log.found)
    save_ranking(model, config, tmp_path)
    saved = SavedRanking(tmp_path / NETWORK, [], slope=1.5, intercept=-0.5)
    saved.convert(tmp_path)
    count = log.found.items.size
    items = model.network.item_part({name: each for name, each in log.items.items()}).numpy()
    session = InferenceSession(str(tmp_path / HEAD), providers=["CPUExecutionProvider"])
    given = {
        USERS_INPUT: np.zeros((count, 0), np.float32),
        ITEMS_INPUT: items[log.found.items.ravel()],
        FEATURES: log.found.features.reshape(count, -1),
    }
    wanted = [each.name for each in session.get_inputs()]
    (found,) = session.run(None, {each: given[each] for each in wanted})
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["esmm", "mmoe", "ple"])
def test_two_labels_that_are_the_same_are_refused(name, log):
    found = log.found
    same = replace(found, clicks=found.labels)
    with pytest.raises(ModelError, match=rf"ranking\.model {name} learns two labels, but all"):
        fitted(log, name, same)


def test_a_log_without_conversions_says_how_to_get_some(log):
    none = replace(log.found, labels=np.zeros_like(log.found.labels))
    settings = {"rows": "interactions", "conversion": {"column": "bought"}}
    message = r"0 of the 5,760 interactions of the training users are conversions in valid; .* Give"
    with pytest.raises(ModelError, match=message):
        fitted(log, "esmm", none, **settings)


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_two_labels_have_their_own_loss(loss):
    with pytest.raises(ValueError, match=f"loss: {loss} has one label, but esmm learns two"):
        RankingConfig(model="esmm", loss=loss)
