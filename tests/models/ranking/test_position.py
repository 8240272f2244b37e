"""The term of the position: by hand, and the relevance that it uncovers in a planted log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from merlin.schema import Schema

from benchmarks.two_stage.explicit import column
from tests.impressions import CLICK, catalogue, impressions
from twotower.models.ranking.candidates import Candidates, row_auc
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.fit import RankingModel, fit_ranking
from twotower.models.ranking.networks import build_network
from twotower.models.ranking.position import PositionBias

USERS, ITEMS, WIDTH, BIAS = 400, 48, 24, 2.0
CATEGORY = column("item_category", 3 + len(CLICK))


def test_the_term_has_a_mean_of_0_over_the_rows_and_is_in_the_first_logit_alone():
    bias = PositionBias(np.array([0, 0, 0, 2]))
    bias.table.assign([1.0, 7.0, -3.0])
    np.testing.assert_allclose(bias.centred(), [1, 7, -3])  # 3/4 of 1 and 1/4 of -3 are 0
    bias.table.assign([5.0, 7.0, 1.0])
    np.testing.assert_allclose(bias.centred(), [1, 3, -3])
    logits = tf.constant([[[10.0, 20.0], [30.0, 40.0]]])
    found = bias.added(logits, tf.constant([[2, 0]]))
    np.testing.assert_allclose(found, [[[7, 20], [31, 40]]])


@pytest.fixture(scope="module")
def log():
    """Items that are clicked least are shown at the top, where items are clicked most."""
    rows, table = impressions(USERS, ITEMS, WIDTH, bias=BIAS), catalogue(ITEMS)
    shape = (USERS, WIDTH)
    labels = rows["click"].to_numpy(bool).reshape(shape)
    found = Candidates(
        users=np.arange(USERS),
        items=rows["item_id"].to_numpy().reshape(shape),
        features=np.zeros((*shape, 1), np.float32),
        labels=labels,
        relevant=labels.sum(axis=1),
        positions=rows["position"].to_numpy().reshape(shape),
    )
    codes = table["item_category"].to_numpy(np.int32)[:, None] + 3
    return found, {"item_category": codes}


def fitted(found, items, loss):
    config = RankingConfig(
        model="mlp",
        rows="interactions",
        loss=loss,
        hidden=[16],
        feature_dim=4,
        dropout=0.0,
        learning_rate=0.03,
        batch_users=30,
        epochs=40,
        patience=40,
    )
    network = build_network(Schema([]), Schema([CATEGORY]), *found.moments(), config)
    model = RankingModel(network, {}, items)
    train, held_out = found.take(np.arange(100, USERS)), found.take(np.arange(100))
    return fit_ranking(model, train, held_out, config, measure=row_auc)


def logit_of_each_category(model, items):
    """The logits that are served for one item of each category."""
    first = [int(np.flatnonzero(items["item_category"][:, 0] == 3 + n)[0]) for n in range(4)]
    asked = Candidates.without_labels(np.arange(1), np.array([first]), np.zeros((1, 4, 1)))
    return model.logits(asked)[0]


@pytest.mark.parametrize("loss", ["binary", pytest.param("pairwise", marks=pytest.mark.slow)])
def test_with_the_position_the_order_is_that_of_relevance(loss, log):
    found, items = log
    model = fitted(found, items, loss)
    served = logit_of_each_category(model, items)
    # The planted logits, but for a constant.
    np.testing.assert_allclose(np.diff(served), np.diff(CLICK), atol=0.4)
    slope = np.polyfit(np.arange(5), model.bias.centred()[:5], 1)[0]
    assert slope == pytest.approx(-BIAS, abs=0.3)
    # At their positions, the rows have the probabilities of the log.
    held_out = found.take(np.arange(100))
    share = held_out.labels.mean()
    assert model.probabilities_as_shown(held_out).mean() == pytest.approx(share, abs=1e-3)


def test_without_the_position_the_order_is_that_of_the_clicks(log):
    found, items = log
    model = fitted(replace(found, positions=None), items, "binary")
    served = logit_of_each_category(model, items)
    assert model.bias is None
    assert served[0] > served[3]  # the most relevant category has the fewest clicks


def test_candidates_have_no_position():
    with pytest.raises(ValueError, match="position: candidates have not been shown at a position"):
        RankingConfig(position="position")
