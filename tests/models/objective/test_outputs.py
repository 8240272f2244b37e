"""The objectives: their scores against NumPy, what is masked, and that each of them learns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.checkerboard import CONFIG, TRAINING, data, own_colour, schema  # noqa: F401
from tests.models.objective.conftest import BATCH, COUNTS, ITEMS, candidate_of, output_of
from twotower.models.config import TwoTowerConfig
from twotower.models.objective.config import ObjectiveConfig
from twotower.models.training.fit import fit
from twotower.models.training.model import create


def loss_of(objective, query, features, vectors, logq=0.0):
    import tensorflow as tf

    candidate = candidate_of(features, vectors)
    return float(output_of(objective, logq).loss_of(tf.constant(query), candidate))


def softmax_loss(scores, items):
    return np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(items)), items])


@pytest.mark.parametrize("by_rows", [False, True])
def test_the_full_softmax_is_over_the_whole_catalogue(batch, by_rows):
    # The logQ correction changes nothing if all items are equally likely.
    objective = ObjectiveConfig(negatives="all", label_smoothing=1e-9 if by_rows else 0.0)
    users, items, vectors, query, features = batch(objective)
    scores = vectors["user"][users] @ vectors["item"].T / 0.5
    for logq in (0.0, 1.0):
        found = loss_of(objective, query, features, vectors, logq)
        assert found == pytest.approx(softmax_loss(scores, items), rel=1e-5)


@pytest.mark.parametrize("negatives", ["in_batch", "uniform", "popularity", "mixed"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_the_softmax_over_drawn_items_equals_the_formula(batch, negatives, by_rows):
    objective = ObjectiveConfig(
        negatives=negatives, drawn=50, label_smoothing=1e-9 if by_rows else 0.0
    )
    users, items, vectors, query, features = batch(objective)
    # Shares of the rows, which have the codes 3 to 8.
    share = COUNTS[3:] / COUNTS[3:].sum()
    q = {
        "in_batch": share,
        "uniform": np.full(ITEMS, 1 / ITEMS),
        "popularity": COUNTS[3:] ** 0.75 / (COUNTS[3:] ** 0.75).sum(),
        "mixed": (BATCH * share + 50 / ITEMS) / (BATCH + 50),
    }[negatives]
    count = np.zeros(ITEMS)
    count[features["film"].numpy()[:, 0] - 3] = features["_count"].numpy()
    assert count.sum() == {"in_batch": BATCH, "mixed": BATCH + 50}.get(negatives, 50)
    scores = vectors["user"][users] @ vectors["item"].T / 0.5 - np.log(q)
    total = 0.0
    for row, item in zip(scores, items, strict=True):
        others = np.exp(row) * count * (np.arange(ITEMS) != item)
        total += np.log(others.sum() + np.exp(row[item])) - row[item]
    assert loss_of(objective, query, features, vectors, 1.0) == pytest.approx(total / BATCH, 1e-4)


def test_known_positives_are_masked(batch):
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
    # The batch has half of each user's positives, so missing pairs are weighted by a half.
    here = np.isin(np.arange(4), users)[:, None]
    missing = (scores**2 * ~there * here).sum() / 2
    found = loss_of(objective, query, features, vectors)
    assert found == pytest.approx((fitted + 0.3 * missing) / BATCH, rel=1e-5)


def test_positives_of_earlier_batches_are_negatives(batch):
    """Step 2 has those of step 1, with their logQ correction; step 3 has those of both."""
    import tensorflow as tf

    objective = ObjectiveConfig(negatives="cross_batch", drawn=2 * BATCH)
    users, items, vectors, query, features = batch(objective)
    output, candidate = output_of(objective, logq=0.5), candidate_of(features, vectors)
    share = COUNTS[3:] / COUNTS[3:].sum()
    scores = vectors["user"][users] @ vectors["item"].T / 0.5 - 0.5 * np.log(share)
    times = np.bincount(items, minlength=ITEMS)
    for steps in (1, 2, 3, 3):
        total = 0.0
        for row, item in zip(scores, items, strict=True):
            others = np.exp(row) * steps * times * (np.arange(ITEMS) != item)
            total += np.log(others.sum() + np.exp(row[item])) - row[item]
        found = output.loss_of(tf.constant(query), candidate)
        assert float(found) == pytest.approx(total / BATCH, rel=1e-5)


def test_the_gradient_of_the_batchs_items_makes_up_for_the_queues(batch):
    """With the batch itself in the queue, it is as if the queued copies had gradients too."""
    import tensorflow as tf

    queued = ObjectiveConfig(negatives="cross_batch", drawn=2 * BATCH)
    _, _, vectors, query, features = batch(queued)

    def gradients(output, features, steps):
        candidate, query_of = candidate_of(features, vectors), tf.constant(query)
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch([query_of, candidate.embedding])
                loss = output.loss_of(query_of, candidate)
        return tape.gradient(loss, [query_of, candidate.embedding])

    ours = gradients(output_of(queued, logq=0.5), features, 3)
    thrice = {**features, "_count": 3 * features["_count"]}
    whole = gradients(output_of(ObjectiveConfig(), logq=0.5), thrice, 1)
    for one, other in zip(ours, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("by_rows", [False, True])
def test_the_correction_uses_frequencies_estimated_from_batches(batch, by_rows):
    import tensorflow as tf

    from twotower.models.objective.corrections import StreamingFrequency

    objective = ObjectiveConfig(label_smoothing=1e-9 if by_rows else 0.0)
    users, items, vectors, query, features = batch(objective)
    frequency, other = (StreamingFrequency(9, alpha=0.5) for _ in range(2))
    output = output_of(objective, logq=1.0, frequency=frequency)
    for _ in range(2):
        prediction = output.outputs(tf.constant(query), candidate_of(features, vectors), None)
        other.update(items + 3)
    log_q = other.log_q(np.arange(3, 9)).numpy()
    assert np.ptp(log_q) > 0.5
    scores = vectors["user"][users] @ vectors["item"].T / 0.5 - log_q
    total = 0.0
    for row, item in zip(scores, items, strict=True):
        others = np.exp(row) * np.bincount(items, minlength=ITEMS) * (np.arange(ITEMS) != item)
        total += np.log(others.sum() + np.exp(row[item])) - row[item]
    assert float(prediction.outputs) == pytest.approx(total / BATCH, rel=1e-5)
    assert len(output.non_trainable_weights) == 3  # checkpoints contain weights


@pytest.mark.parametrize("objective", [{}, {"loss": "bpr"}])
def test_the_gradient_of_a_learned_temperature(batch, objective):
    import tensorflow as tf

    objective = ObjectiveConfig(**objective)
    _, _, vectors, query, features = batch(objective)
    output, candidate = (
        output_of(objective, learn_temperature=True),
        candidate_of(features, vectors),
    )
    (weight,) = output.trainable_weights
    with tf.GradientTape() as tape:
        loss = output.loss_of(tf.constant(query), candidate)
    slope = tape.gradient(loss, weight)
    assert float(output.temperature) == pytest.approx(0.5)
    around = []
    for step in (0.01, -0.01):
        weight.assign(np.log(0.5) + step)
        around.append(float(output.loss_of(tf.constant(query), candidate)))
    assert float(slope) == pytest.approx((around[0] - around[1]) / 0.02, rel=1e-2)
    assert float(weight.constraint(tf.constant(-9.0))) == pytest.approx(np.log(0.01))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"loss": "bce"}, marks=pytest.mark.slow),
        {"loss": "gbce", "negatives": "uniform", "calibration": 0.25},
        pytest.param({"loss": "cosine_regression", "per_positive": 2}, marks=pytest.mark.slow),
        {"loss": "bpr", "negatives": "popularity"},
        pytest.param({"loss": "hinge", "margin": 0.5, "hard": 3}, marks=pytest.mark.slow),
        pytest.param(
            {"loss": "cosine_contrastive", "margin": 0.1, "negative_weight": 2},
            marks=pytest.mark.slow,
        ),
        {"loss": "squared", "negatives": "all", "unobserved_weight": 1.0},
        pytest.param(
            {"negatives": "mixed", "drawn": 32, "mask_known": True}, marks=pytest.mark.slow
        ),
        pytest.param({"negatives": "all", "label_smoothing": 0.1}, marks=pytest.mark.slow),
        pytest.param({"corrected_logq": True}, marks=pytest.mark.slow),
        pytest.param({"propensity_power": 0.5}, marks=pytest.mark.slow),
        {"negatives": "cross_batch", "drawn": 128},
        pytest.param(
            {"loss": "bpr", "negatives": "mined", "mined_ranks": [3, 15]}, marks=pytest.mark.slow
        ),
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
        (
            {"loss": "squared"},
            "squared cannot be used with negatives in_batch; set negatives to all",
        ),
        ({"loss": "bpr", "negatives": "all"}, "bpr cannot be used with negatives all"),
        (
            {"loss": "bpr", "label_smoothing": 0.1},
            "label_smoothing is 0.1, but loss bpr does not use it",
        ),
        ({"hard": 2}, "hard is 2, but loss softmax does not use it"),
        ({"negatives": "mined"}, "softmax cannot be used with negatives mined"),
        (
            {"loss": "gbce", "negatives": "popularity"},
            "gbce cannot be used with negatives popularity; set",
        ),
        (
            {"loss": "bpr", "negatives": "mined", "mined_ranks": [9, 9]},
            "the first rank, 9, must be below",
        ),
        (
            {"loss": "bpr", "negatives": "cross_batch"},
            "bpr cannot be used with negatives cross_batch",
        ),
        (
            {"negatives": "cross_batch", "mask_known": True},
            "mask_known cannot be used with negatives cross_batch",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_errors(values, message):
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(objective=values)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"learn_temperature": True, "objective": {"loss": "hinge"}}, "hinge has no temperature"),
        ({"logq_estimate": "streaming", "objective": {"negatives": "mixed"}}, "in_batch or"),
        ({"logq_estimate": "streaming", "logq": 0}, "logq above 0"),
        ({"learn_temperature": True, "temperature": 0.005}, "0.01 or more"),
        (
            {"softmax_precision": "bfloat16", "objective": {"loss": "bce"}},
            "the default objective only",
        ),
    ],
)
def test_settings_that_the_objective_does_not_use_are_errors(values, message):
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(**values)


def test_corrected_logq_with_a_weight_other_than_1_is_an_error():
    with pytest.raises(ValueError, match=r"logq is 0\.5, .* needs logq to be 1"):
        TwoTowerConfig(objective={"corrected_logq": True}, logq=0.5)
