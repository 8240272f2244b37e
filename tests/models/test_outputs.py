"""The objectives: their scores against NumPy, what is masked, and that each of them learns."""

from __future__ import annotations

import numpy as np
import pytest

from models.objective import ObjectiveConfig
from models.training import create, fit
from models.two_tower import TwoTowerConfig
from tests.models.test_training import CONFIG, TRAINING, data, own_colour, schema  # noqa: F401

ITEMS, BATCH = 6, 9
COUNTS = np.array(
    [0.5, 0.5, 0.5, 5, 3, 9, 1, 2, 4]
)  # of the codes 0 to 8; row r has the code r + 3


@pytest.fixture
def batch():
    """(query [4, 3], item rows [c], candidates [c, 3], features) of a step, by an objective."""
    import tensorflow as tf

    from models.layers import FeatureLookup
    from models.negatives import known_pairs

    draw = np.random.default_rng(0)
    vectors = {
        "user": draw.normal(size=(4, 3)).astype(np.float32),
        "item": draw.normal(size=(ITEMS, 3)).astype(np.float32),
    }
    users, items = draw.integers(0, 4, BATCH), draw.integers(0, ITEMS, BATCH)

    def of(objective, known=()):
        lookup = FeatureLookup(
            {"user": np.arange(3, 7, dtype=np.int32)[:, None]},
            {"film": np.arange(3, ITEMS + 3, dtype=np.int32)[:, None]},
            *("film", np.zeros(ITEMS, np.float32), 0.0, 3, lambda: tf.constant(0)),
            draw=objective.sampler(COUNTS[3:]),
            in_batch=objective.negatives in ("in_batch", "mixed"),
            known=known_pairs(*np.array(known).T, ITEMS) if len(known) else None,
            positives_per_user=np.bincount(users, minlength=4) * 2,
        )
        rows = {"user_row": tf.constant(users), "item_row": tf.constant(items)}
        features = lookup(rows, training=True)
        query = vectors["user"][features["user"].numpy()[:, 0] - 3]
        return users, items, vectors, query, features

    return of


def loss_of(objective, query, features, vectors, logq=0.0):
    import tensorflow as tf
    from merlin.models.tf.outputs.base import DotProduct
    from merlin.models.tf.outputs.sampling.base import Candidate
    from merlin.schema import ColumnSchema, Schema

    from models.outputs import SampledOutput

    output = SampledOutput(
        DotProduct(),
        negative_samplers=["in-batch"],
        schema=Schema([ColumnSchema("film")]),
        **{"temperature": 0.5, "objective": objective, "counts": COUNTS, "logq": logq},
    )
    rows = features["film"].numpy()[:, 0] - 3
    candidate = Candidate(features["film"], dict(features)).with_embedding(
        tf.constant(vectors["item"][rows])
    )
    return float(output.loss_of(tf.constant(query), candidate))


def softmax_loss(scores, items):
    return np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(items)), items])


@pytest.mark.parametrize("by_rows", [False, True])
def test_the_full_softmax_is_over_the_whole_catalogue(batch, by_rows):
    # A weight of the logQ correction changes nothing where all are alike.
    objective = ObjectiveConfig(negatives="all", label_smoothing=1e-9 if by_rows else 0.0)
    users, items, vectors, query, features = batch(objective)
    scores = vectors["user"][users] @ vectors["item"].T / 0.5
    for logq in (0.0, 1.0):
        found = loss_of(objective, query, features, vectors, logq)
        assert found == pytest.approx(softmax_loss(scores, items), rel=1e-5)


@pytest.mark.parametrize("negatives", ["in_batch", "uniform", "popularity", "mixed"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_the_softmax_over_drawn_items_by_the_formula(batch, negatives, by_rows):
    objective = ObjectiveConfig(
        negatives=negatives, drawn=50, label_smoothing=1e-9 if by_rows else 0.0
    )
    users, items, vectors, query, features = batch(objective)
    share = COUNTS / COUNTS.sum()
    q = {
        "in_batch": share,
        "uniform": np.full(9, 1 / 9),
        "popularity": COUNTS**0.75 / (COUNTS**0.75).sum(),
        "mixed": (BATCH * share + 50 / 9) / (BATCH + 50),
    }[negatives][3:]
    count = np.zeros(ITEMS)
    count[features["film"].numpy()[:, 0] - 3] = features["_count"].numpy()
    assert count.sum() == {"in_batch": BATCH, "mixed": BATCH + 50}.get(negatives, 50)
    scores = vectors["user"][users] @ vectors["item"].T / 0.5 - np.log(q)
    total = 0.0
    for row, item in zip(scores, items, strict=True):
        others = np.exp(row) * count * (np.arange(ITEMS) != item)
        total += np.log(others.sum() + np.exp(row[item])) - row[item]
    assert loss_of(objective, query, features, vectors, 1.0) == pytest.approx(total / BATCH, 1e-4)


def test_no_known_positive_is_a_negative(batch):
    objective = ObjectiveConfig(negatives="all", mask_known=True)
    known = [(user, item) for user in range(4) for item in range(ITEMS) if (user + item) % 2]
    users, items, vectors, query, features = batch(objective, known)
    scores = vectors["user"][users] @ vectors["item"].T / 0.5
    masked = scores.copy()
    for row, (user, item) in enumerate(zip(users, items, strict=True)):
        for other in range(ITEMS):
            if (user + other) % 2 and other != item:
                masked[row, other] = -np.inf
    found = loss_of(objective, query, features, vectors)
    assert found == pytest.approx(softmax_loss(masked, items), rel=1e-5)
    assert found < softmax_loss(scores, items) - 0.01


def test_the_squared_loss_is_over_the_whole_matrix(batch):
    objective = ObjectiveConfig(loss="squared", negatives="all", unobserved_weight=0.3)
    users, items, vectors, query, features = batch(objective)
    scores = vectors["user"] @ vectors["item"].T
    there = np.zeros((4, ITEMS), bool)
    there[users, items] = True
    fitted = ((1 - scores[users, items]) ** 2).sum()
    # Half of each user's positives are in the batch, and with them half of what is not there.
    here = np.isin(np.arange(4), users)[:, None]
    missing = (scores**2 * ~there * here).sum() / 2
    found = loss_of(objective, query, features, vectors)
    assert found == pytest.approx((fitted + 0.3 * missing) / BATCH, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "bce"},
        {"loss": "gbce", "negatives": "uniform", "calibration": 0.25},
        {"loss": "cosine_regression", "per_positive": 2},
        {"loss": "bpr", "negatives": "popularity"},
        {"loss": "hinge", "margin": 0.5, "hard": 3},
        {"loss": "cosine_contrastive", "margin": 0.1, "negative_weight": 2},
        {"loss": "squared", "negatives": "all", "unobserved_weight": 1.0},
        {"negatives": "mixed", "drawn": 32, "mask_known": True},
        {"negatives": "all", "label_smoothing": 0.1},
        {"corrected_logq": True},
        {"propensity_power": 0.5},
    ],
)
def test_every_objective_learns_the_checkerboard(changes, schema, data, tmp_path):  # noqa: F811
    objective = ObjectiveConfig(**changes)
    config = CONFIG.copy(update={"objective": objective})
    training = TRAINING.copy(update={"epochs": 40, "patience": 40})
    tower = create(schema, data, config, seed=1)
    history = fit(tower, data, training, own_colour(data), tmp_path)
    assert max(history["val_ndcg@10"]) > 0.9
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"loss": "squared"}, "need each other"),
        ({"loss": "bpr", "negatives": "all"}, "need each other"),
        ({"loss": "bpr", "label_smoothing": 0.1}, "label_smoothing is of the softmax"),
        ({"hard": 2}, "hard is of losses with a few negatives"),
    ],
)
def test_what_does_not_fit_together_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(objective=values)


def test_half_of_the_correction_of_2025_is_refused():
    with pytest.raises(ValueError, match="logq is to be 1"):
        TwoTowerConfig(objective={"corrected_logq": True}, logq=0.5)
