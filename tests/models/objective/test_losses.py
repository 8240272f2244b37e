"""Every loss equals a float64 loop over the valid negatives, in value and in gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.models.conftest import differences

ITEMS = 12


def softplus(x):
    return np.logaddexp(0.0, x)


def smoothed_softmax(p, s, smoothing=0.1):
    logits = np.append(s, p)
    target = np.full(len(logits), smoothing / len(logits))
    target[-1] += 1 - smoothing
    highest = logits.max()
    return -(target * (logits - highest - np.log(np.exp(logits - highest).sum()))).sum()


def gbce_by_hand(p, s, t=0.75):
    alpha = min(len(s) / (ITEMS - 1), 1.0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha) if alpha else 1 - t
    return beta * softplus(-p) + softplus(s).sum()


def mean(losses):
    return losses.mean() if len(losses) else 0.0


# name: options, the loss of one row from its positive's score and its valid negatives' scores
FORMULAS = {
    "binary_cross_entropy": ({}, lambda p, s: softplus(-p) + softplus(s).sum()),
    "gbce": ({"candidates": ITEMS}, gbce_by_hand),
    "cosine_regression": ({}, lambda p, s: (1 - p) ** 2 + ((-1 - s) ** 2).sum()),
    "bpr": ({}, lambda p, s: mean(softplus(s - p))),
    "hinge": ({"margin": 0.4}, lambda p, s: mean(np.maximum(0.4 - p + s, 0))),
    "cosine_contrastive": (
        {"margin": 0.2, "weight": 5.0},
        lambda p, s: 1 - p + 5 * mean(np.maximum(s - 0.2, 0)),
    ),
    "sampled_softmax": ({"smoothing": 0.1}, smoothed_softmax),
}
every_loss = pytest.mark.parametrize("name", FORMULAS)


def batch(seed=3, scale=1.0, n=9):
    """In-batch cosines of items that repeat; the last row has no valid negative."""
    draw = np.random.default_rng(seed)
    user, item = draw.integers(0, 4, n), draw.integers(0, 5, n)
    vectors = draw.normal(size=(ITEMS, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = scale * vectors[:4][user] @ vectors[4:][item].T
    valid = item[:, None] != item
    valid[-1] = False
    assert 0 < valid[:-1].sum() < valid[:-1].size - n
    return np.diag(scores).astype(np.float32), scores.astype(np.float32), valid


def loss_and_gradients(name, positive, negative, valid):
    import tensorflow as tf

    from twotower.models.objective import losses

    positive, negative = tf.constant(positive), tf.constant(negative)
    with tf.GradientTape() as tape:
        tape.watch([positive, negative])
        loss = getattr(losses, name)(positive, negative, tf.constant(valid), **FORMULAS[name][0])
    assert loss.dtype == tf.float32
    return loss.numpy(), *(g.numpy() for g in tape.gradient(loss, [positive, negative]))


def by_hand(name, positive, negative, valid):
    """Losses [n] in float64."""
    formula = FORMULAS[name][1]
    rows = zip(positive.astype(np.float64), negative.astype(np.float64), valid, strict=True)
    return np.array([formula(p, s[v]) for p, s, v in rows])


@every_loss
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_equals_the_formula_and_its_differences(name, scale):
    positive, negative, valid = batch(scale=scale)
    loss, by_positive, by_negative = loss_and_gradients(name, positive, negative, valid)
    np.testing.assert_allclose(loss, by_hand(name, positive, negative, valid), 1e-5, 1e-6)
    slopes = differences(
        lambda p: by_hand(name, p, negative, valid).sum(), positive.astype(np.float64)
    )
    np.testing.assert_allclose(by_positive, slopes, 1e-4, 1e-5)
    slopes = differences(
        lambda s: by_hand(name, positive, s, valid).sum(), negative.astype(np.float64)
    )
    np.testing.assert_allclose(by_negative, slopes, 1e-4, 1e-5)


@every_loss
def test_invalid_negatives_are_ignored(name):
    """Whatever their scores are: the loss does not change, and their gradient is exactly 0."""
    positive, negative, valid = batch()
    known = loss_and_gradients(name, positive, negative, valid)
    for score in (-50.0, 1e4, np.inf, -np.inf, np.nan):
        ours = loss_and_gradients(name, positive, np.where(valid, negative, score), valid)
        for one, other in zip(ours, known, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not known[2][~valid].any()


@every_loss
def test_scores_of_ten_thousand(name):
    draw = np.random.default_rng(1)
    positive = draw.choice([-1e4, 0, 1e4], 12).astype(np.float32)
    negative = draw.choice([-1e4, -9999, 0, 1e4], (12, 5)).astype(np.float32)
    valid = draw.random((12, 5)) < 0.6
    loss, *gradients = loss_and_gradients(name, positive, negative, valid)
    np.testing.assert_allclose(loss, by_hand(name, positive, negative, valid), 1e-5, 1e-6)
    assert all(np.isfinite(each).all() for each in gradients)


@every_loss
def test_equal_in_a_graph_of_unknown_sizes(name):
    import tensorflow as tf

    from twotower.models.objective import losses

    loss_of, options = getattr(losses, name), FORMULAS[name][0]
    specs = [([None], tf.float32), ([None, None], tf.float32), ([None, None], tf.bool)]
    graph = tf.function(
        lambda *scores: loss_of(*scores, **options),
        input_signature=[tf.TensorSpec(*spec) for spec in specs],
    )
    for n in (9, 7):
        tensors = batch(n=n)
        np.testing.assert_allclose(graph(*tensors), by_hand(name, *tensors), 1e-5, 1e-6)
    np.testing.assert_allclose(
        graph([0.5], np.zeros([1, 0], np.float32), np.zeros([1, 0], bool)),
        [FORMULAS[name][1](0.5, np.zeros(0))],
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("name", "positive", "options", "answer"),
    [
        # scores 0 and 1 of two negatives; a third is not valid
        ("binary_cross_entropy", 0.0, {}, 2 * math.log(2) + math.log(1 + math.e)),
        ("gbce", 0.0, {"candidates": 5, "t": 1.0}, 1.5 * math.log(2) + math.log(1 + math.e)),
        ("cosine_regression", 0.5, {}, 0.25 + 1 + 4),
        ("bpr", 1.0, {}, (math.log(1 + math.exp(-1)) + math.log(2)) / 2),
        ("hinge", 0.5, {"margin": 0.25}, 0.375),
        ("cosine_contrastive", 0.75, {"margin": 0.5, "weight": 10.0}, 0.25 + 10 * 0.25),
        ("sampled_softmax", 0.0, {}, math.log(2 + math.e)),
        ("sampled_softmax", 0.0, {"smoothing": 0.3}, math.log(2 + math.e) - 0.1),
    ],
)
def test_small_examples_by_hand(name, positive, options, answer):
    from twotower.models.objective import losses

    valid = [[True, True, False]]
    scores = np.float32([positive]), np.float32([[0, 1, 9]])
    loss = getattr(losses, name)(*scores, valid, **options)
    assert loss.numpy() == pytest.approx([answer], rel=1e-6)


def test_gbce_without_calibration_is_binary_cross_entropy():
    from twotower.models.objective.losses import binary_cross_entropy, gbce

    tensors = batch()
    np.testing.assert_array_equal(
        gbce(*tensors, candidates=ITEMS, t=0.0), binary_cross_entropy(*tensors)
    )


@pytest.fixture
def matrix():
    """5 users, 7 items, 11 interactions with a repeated pair."""
    draw = np.random.default_rng(7)
    query_of = np.append(np.arange(5), draw.integers(0, 5, 6))
    positive_of = draw.integers(0, 7, 11)
    query_of[-1], positive_of[-1] = query_of[0], positive_of[0]
    return {
        "vectors": (draw.normal(size=(5, 3)), draw.normal(size=(7, 3))),
        "batch": (query_of, positive_of),
        "share": draw.random(5),
    }


def dense(query, candidates, batch, share, unobserved_weight):
    """The sum over all pairs, one at a time."""
    pairs = list(zip(*batch, strict=True))
    scores = query @ candidates.T
    total = sum((1 - scores[u, i]) ** 2 for u, i in pairs)
    for u, i in np.ndindex(scores.shape):
        if (u, i) not in pairs:
            total += share[u] * unobserved_weight * scores[u, i] ** 2
    return total / len(pairs)


def whole_data(query, candidates, batch, share, unobserved_weight=0.3):
    import tensorflow as tf

    from twotower.models.objective.losses import whole_data_squared

    users, items = tf.gather(query, batch[0]), tf.gather(candidates, batch[1])
    return whole_data_squared(
        query,
        candidates,
        tf.reduce_sum(users * items, axis=1),
        *batch,
        share=tf.constant(share, tf.float32),
        unobserved_weight=unobserved_weight,
    )


def test_whole_data_equals_the_dense_sum(matrix):
    import tensorflow as tf

    fixed = (matrix["batch"], matrix["share"])
    vectors = [tf.constant(each, tf.float32) for each in matrix["vectors"]]
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = whole_data(*vectors, *fixed)
    query, candidates = (each.numpy().astype(np.float64) for each in vectors)
    assert float(loss) == pytest.approx(dense(query, candidates, *fixed, 0.3), rel=1e-5)
    by_query, by_candidates = tape.gradient(loss, vectors)
    slopes = differences(lambda q: dense(q, candidates, *fixed, 0.3), query)
    np.testing.assert_allclose(by_query, slopes, 1e-4, 1e-5)
    slopes = differences(lambda v: dense(query, v, *fixed, 0.3), candidates)
    np.testing.assert_allclose(by_candidates, slopes, 1e-4, 1e-5)


def test_whole_data_by_hand():
    """One user (2, 1), items (1, 0), (0, 1), (1, 1): scores 2, 1, 3; the second one is positive."""
    import tensorflow as tf

    query, items = tf.constant([[2.0, 1.0]]), tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    loss = whole_data(query, items, ([0], [1]), [0.5], unobserved_weight=0.2)
    assert float(loss) == pytest.approx(0 + 0.5 * 0.2 * (4 + 9))


def test_whole_data_never_scores_every_pair(matrix):
    """No tensor of the graph, gradients included, has a row of 997 for each of 61 users."""
    import tensorflow as tf

    @tf.function
    def gradients(query, candidates):
        with tf.GradientTape() as tape:
            tape.watch([query, candidates])
            share = np.ones(61)
            loss = whole_data(query, candidates, matrix["batch"], share)
        return tape.gradient(loss, [query, candidates])

    draw = np.random.default_rng(0)
    shapes = [tf.TensorSpec([size, 3]) for size in (61, 997)]
    graph = gradients.get_concrete_function(*shapes).graph
    sizes = [out.shape.num_elements() or 0 for op in graph.get_operations() for out in op.outputs]
    assert 997 * 3 <= max(sizes) < 61 * 997
    vectors = [tf.constant(draw.normal(size=shape.shape), tf.float32) for shape in shapes]
    assert all(np.isfinite(tf.convert_to_tensor(each)).all() for each in gradients(*vectors))
