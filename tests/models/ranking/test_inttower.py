"""IntTower compared with NumPy: the towers, the heads that meet, and the exported graphs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from merlin.schema import Schema
from onnxruntime import InferenceSession

from benchmarks.two_stage.explicit import column
from twotower.models.errors import ModelError
from twotower.models.ranking.candidates import Candidates
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.fit import RankingModel
from twotower.models.ranking.inttower import interaction
from twotower.models.ranking.networks import build_network
from twotower.models.ranking.saving import NETWORK, save_ranking
from twotower.serving.operators.saved_ranking import SavedRanking
from twotower.serving.runtime.ranking.rank_candidates import FEATURES, HEAD, USER_PART, USERS
from twotower.serving.runtime.ranking.rank_candidates import ITEMS as ITEMS_INPUT

CONFIG = RankingConfig(model="inttower", hidden=[6, 5], heads=3, feature_dim=4)
TASTE, KIND = column("taste", 7), column("kind", 9)


def test_each_head_of_the_user_picks_the_most_similar_head_of_the_item():
    # One layer, two heads of length 2: products 1 and 3, then 2 and -4.
    users = tf.constant([[1.0, 0, 0, 2]])
    items = tf.constant([[1.0, 1, 3, -2]])
    assert float(interaction(users, items, 2, 2)[0]) == pytest.approx((3 + 2) / np.sqrt(2))
    # A second layer adds its own.
    twice = tf.concat([users, 2 * users], axis=1)
    assert float(interaction(twice, items, 2, 2)[0]) == pytest.approx(3 * (3 + 2) / np.sqrt(2))


BENDS = [(0.2, 0.7), (0.6, -0.9)]


@pytest.fixture(scope="module")
def world():
    """A network with random weights, and candidates that it judges."""
    draw = np.random.default_rng(0)
    users = {"taste": draw.integers(3, 7, (8, 1)).astype(np.int32)}
    items = {"kind": draw.integers(3, 9, (20, 1)).astype(np.int32)}
    rows = np.stack([draw.permutation(20)[:5] for _ in range(8)])
    features = draw.normal(size=(8, 5, 2)).astype(np.float32)
    found = Candidates.without_labels(np.arange(8), rows, features)
    network = build_network(Schema([TASTE]), Schema([KIND]), *found.moments(), CONFIG)
    model = RankingModel(network, users, items, slope=1.5, intercept=-0.5, bends=BENDS)
    model.logits(found)  # creates the weights
    return model, found


def relu_layers(x, layers):
    """The output of each layer."""
    outputs = []
    for layer in layers:
        kernel, bias = layer.get_weights()
        x = np.maximum(x @ kernel + bias, 0)
        outputs.append(x)
    return outputs


def test_the_logit_is_that_of_numpy(world):
    model, found = world
    network, logits = model.network, model.logits(found)
    tables = [
        tables[name].table.embeddings.numpy()[codes[name][:, 0]]
        for tables, name, codes in (
            (network._user_tables, "taste", model.users),
            (network._item_tables, "kind", model.items),
        )
    ]
    of_layers = relu_layers(tables[0], network._user_layers)
    projections = [head.get_weights()[0] for head in network._user_heads]
    last = relu_layers(tables[1], network._item_layers)[-1]
    item_heads = (last @ network._item_heads.get_weights()[0]).reshape(-1, 3, 4)
    rest = [layer for layer in network._rest if layer.weights]
    kernel, bias = network._output.get_weights()
    for user, place in ((0, 0), (3, 4), (7, 2)):
        expected = 0.0
        for x, projection in zip(of_layers, projections, strict=True):
            for head in (x[user] @ projection).reshape(3, 4):
                expected += max(head @ other for other in item_heads[found.items[user, place]]) / 2
        scaled = (found.features[user, place] - network.means) / network.deviations
        expected += (relu_layers(scaled, rest)[-1] @ kernel + bias)[0]
        assert logits[user, place] == pytest.approx(expected, abs=1e-5)


def test_the_onnx_graphs_give_the_same(world, tmp_path):
    model, found = world
    save_ranking(model, CONFIG, tmp_path)
    saved = SavedRanking(tmp_path / NETWORK, ["taste"], slope=1.5, intercept=-0.5, bends=BENDS)
    saved.convert(tmp_path)
    users, head = (
        InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
        for name in (USER_PART, HEAD)
    )
    (parts,) = users.run(None, {"taste": model.users["taste"][:, 0].astype(np.int64)})
    assert parts.shape == (8, 2 * 3 * 4)
    items = model.network.item_part(model.items).numpy()
    given = {
        USERS: parts.repeat(5, axis=0),
        ITEMS_INPUT: items[found.items.ravel()],
        FEATURES: found.features.reshape(-1, 2),
    }
    (probabilities,) = head.run(None, given)
    expected = model.probabilities(found)
    np.testing.assert_allclose(probabilities.reshape(8, 5), expected, atol=1e-5)


@pytest.mark.parametrize(
    "users, items, missing", [([TASTE], [], "items"), ([], [KIND], "users"), ([], [], "users")]
)
def test_it_needs_embeddings_of_both_sides(users, items, missing):
    means = np.zeros(2, np.float32)
    with pytest.raises(ModelError, match=f"but no embedding of {missing}: name one of their"):
        build_network(Schema(users), Schema(items), means, means + 1, CONFIG)
