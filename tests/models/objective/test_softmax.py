"""The in-batch softmax: equal to Merlin's, to finite differences, in chunks of any size."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.conftest import differences

CARDINALITY, DIM, TEMPERATURE = 40, 6, 0.2


def schema():
    from merlin.schema import ColumnSchema, Schema, Tags

    domain = {"min": 0, "max": CARDINALITY - 1}
    tags = [Tags.ITEM_ID, Tags.CATEGORICAL]
    return Schema([ColumnSchema("item", dtype=np.int32, tags=tags, properties={"domain": domain})])


def stock_output(counts, log_q_weight, samplers="in-batch"):
    """What mm.TwoTowerModelV2 would build."""
    import merlin.models.tf as mm
    from merlin.models.tf.outputs.base import DotProduct
    from merlin.models.tf.transforms.bias import PopularityLogitsCorrection

    correction = {}
    if log_q_weight:
        # Merlin corrects before it divides by the temperature.
        factor = log_q_weight * TEMPERATURE
        post = PopularityLogitsCorrection(counts, schema=schema(), reg_factor=factor)
        correction = {"post": post, "store_negative_ids": True}
    return mm.ContrastiveOutput(
        DotProduct(),
        negative_samplers=samplers,
        schema=schema(),
        logits_temperature=TEMPERATURE,
        **correction,
    )


def our_output(counts, log_q_weight):
    from twotower.models.objective.outputs import InBatchSoftmax

    return InBatchSoftmax(
        schema=schema(),
        temperature=TEMPERATURE,
        log_q=np.log(counts / counts.sum()),
        logq=log_q_weight,
    )


@pytest.fixture
def groups():
    """8 queries, 9 candidates and 40 interactions; some candidates occur often."""
    import tensorflow as tf

    draw = np.random.default_rng(11)
    vectors = tf.math.l2_normalize(draw.normal(size=(2, 9, DIM)), axis=-1)
    query, candidate = (
        tf.Variable(tf.cast(vectors[0][:8], tf.float32)),
        tf.cast(vectors[1], "float32"),
    )
    query_of, positive_of = (
        draw.integers(0, 8, 40),
        np.append(np.arange(9), draw.integers(0, 3, 31)),
    )
    return query, tf.Variable(candidate), query_of, positive_of


@pytest.mark.parametrize("log_q_weight", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(("scores_in_memory", "min_rows"), [(1 << 20, 64), (1, 7), (1, 5), (1, 1)])
def test_a_grouped_batch_equals_merlins_output(
    log_q_weight, scores_in_memory, min_rows, groups, monkeypatch
):
    import tensorflow as tf

    from twotower.models.batch_keys import COUNT, POSITIVE_OF, QUERY_OF

    monkeypatch.setattr("twotower.models.objective.softmax.MAX_SCORES_IN_MEMORY", scores_in_memory)
    monkeypatch.setattr("twotower.models.objective.softmax.MIN_ROWS", min_rows)
    query, candidate, query_of, positive_of = groups
    counts = np.random.default_rng(6).integers(1, 90, CARDINALITY).astype(np.float32)
    codes = np.arange(10, 19)[:, None]
    with tf.GradientTape() as tape:
        inputs = {
            "query": tf.gather(query, query_of),
            "candidate": tf.gather(candidate, positive_of),
        }
        answer = stock_output(counts, log_q_weight)(
            inputs, features={"item": tf.constant(codes[positive_of])}, training=True
        )
        stock = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
        expected = stock(answer.targets, answer.outputs)
    known = tape.gradient(expected, [query, candidate])
    features = {
        "item": tf.constant(codes),
        QUERY_OF: tf.constant(query_of),
        POSITIVE_OF: tf.constant(positive_of),
        COUNT: tf.constant(np.bincount(positive_of)),
    }
    with tf.GradientTape() as tape:
        inputs = {"query": query, "candidate": candidate}
        answer = our_output(counts, log_q_weight)(inputs, features=features, training=True)
        loss = tf.reduce_mean(answer.outputs)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for gradient, theirs in zip(tape.gradient(loss, [query, candidate]), known, strict=True):
        theirs = tf.convert_to_tensor(theirs).numpy()
        np.testing.assert_allclose(gradient, theirs, atol=1e-5 * np.abs(theirs).max())


def everything(groups):
    """All arguments of `grouped_softmax`; candidate 8 is not a negative."""
    import tensorflow as tf

    query, candidate, query_of, positive_of = groups
    draw, count = np.random.default_rng(12), np.bincount(positive_of)
    count[8] = 0
    rest = {
        "query_of": query_of,
        "positive_of": positive_of,
        "count": count,
        "bias": draw.normal(size=9).astype(np.float32),
        "weight": draw.random(40).astype(np.float32),
    }
    return [query, candidate, tf.Variable(0.3)], rest


def by_hand(query, candidate, temperature, query_of, positive_of, count, bias, weight, known=None):
    """The formula in float64, one interaction at a time."""
    losses = []
    for user, own in zip(query_of, positive_of, strict=True):
        scores = candidate @ query[user] / temperature + bias
        negatives = count if known is None else np.where(known[user], 0, count)
        times = np.where(np.arange(len(candidate)) == own, 1, negatives)
        highest = scores[times > 0].max()
        total = (times * np.exp(np.minimum(scores - highest, 0))).sum()
        losses.append(np.log(total) + highest - scores[own])
    return np.mean(weight * losses)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_equals_the_formula_and_its_differences(size, masked, groups, monkeypatch):
    """Also with scores in the thousands, and with some positives among those masked."""
    import tensorflow as tf

    from twotower.models.objective.softmax import grouped_softmax

    monkeypatch.setattr("twotower.models.objective.softmax.MAX_SCORES_IN_MEMORY", 1)
    monkeypatch.setattr("twotower.models.objective.softmax.MIN_ROWS", 3)
    variables, rest = everything(groups)
    variables[0].assign(size * variables[0])
    if masked:
        rest["known"] = np.random.default_rng(13).random((8, 9)) < 0.4
    with tf.GradientTape() as tape:
        query, candidate, temperature = variables
        loss = grouped_softmax(query, candidate, temperature=temperature, **rest)
    gradients = tape.gradient(loss, variables)
    at = [np.array(each, np.float64) for each in variables]
    assert float(loss) == pytest.approx(by_hand(*at, **rest), rel=1e-5)
    for which, gradient in enumerate(gradients):
        slopes = differences(
            lambda values, which=which: by_hand(*at[:which], values, *at[which + 1 :], **rest),
            at[which],
        )
        np.testing.assert_allclose(gradient, slopes, 1e-3, 1e-4 * np.abs(slopes).max())


def test_a_positive_that_dominates_the_sum_keeps_its_precision():
    """It occurs a hundred times in the batch, and 99 of them are subtracted from the sum."""
    import tensorflow as tf

    from twotower.models.objective.softmax import grouped_softmax

    query = tf.Variable([[1.0, 0.0]])
    candidate = tf.constant([[1.0, 0.0], [-1.0, 0.0]])
    query_of, positive_of = np.zeros(101, np.int64), np.append(np.zeros(100, np.int64), 1)
    loss = grouped_softmax(query, candidate, query_of, positive_of, [100.0, 1.0], temperature=0.25)
    first = np.log1p(np.exp(-8.0))  # the loss of the hundred
    last = np.log(np.exp(-4.0) + 100 * np.exp(4.0)) + 4.0
    assert float(loss) == pytest.approx((100 * first + last) / 101, abs=100 * 2**-22)


def test_a_positive_that_is_not_a_negative_may_score_far_above_all_negatives():
    """By 200, whose exponential overflows float32; the loss is 0."""
    import tensorflow as tf

    from twotower.models.objective.softmax import grouped_softmax

    query, candidate = tf.Variable([[200.0]]), tf.constant([[1.0], [0.0]])
    with tf.GradientTape() as tape:
        loss = grouped_softmax(query, candidate, [0], [0], [0.0, 3.0])
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, query), [[0.0]], atol=1e-6)


def test_bfloat16_is_close_to_float32(groups):
    import tensorflow as tf

    from twotower.models.objective.softmax import grouped_softmax

    def loss_and_gradients(precision):
        query, candidate, _, positive_of = groups
        with tf.GradientTape() as tape:
            loss = grouped_softmax(
                *groups,
                np.bincount(positive_of),
                temperature=TEMPERATURE,
                precision=precision,
            )
        return loss.numpy(), *(g.numpy() for g in tape.gradient(loss, [query, candidate]))

    full, half = loss_and_gradients(tf.float32), loss_and_gradients(tf.bfloat16)
    for one, other in zip(full, half, strict=True):
        assert other.dtype == np.float32
        # Factors are rounded by up to 1 / 512, and scores, of 5 at most, to 1 / 50. A gradient has
        # two such scores. Without its correction it is off by a tenth on some processors.
        assert 0 < np.abs(one - other).max() < 0.04 * np.abs(one).max()


def test_equal_in_a_graph_of_unknown_sizes(groups, monkeypatch):
    import tensorflow as tf

    from twotower.models.objective.softmax import grouped_softmax

    monkeypatch.setattr("twotower.models.objective.softmax.MAX_SCORES_IN_MEMORY", 1)
    monkeypatch.setattr("twotower.models.objective.softmax.MIN_ROWS", 3)

    def loss_and_gradients(query, candidate, query_of, positive_of, count):
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            loss = grouped_softmax(query, candidate, query_of, positive_of, count)
        return loss, *tape.gradient(loss, [query, candidate])

    tensors = [tf.convert_to_tensor(each) for each in (*groups, np.bincount(groups[3]))]
    shapes = [[None, DIM]] * 2 + [[None]] * 3
    specs = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, tensors, strict=True)]
    compiled = tf.function(loss_and_gradients, input_signature=specs)
    for ours, eager in zip(compiled(*tensors), loss_and_gradients(*tensors), strict=True):
        np.testing.assert_allclose(ours, eager, rtol=1e-5, atol=1e-7)


def test_no_square_matrix_is_computed(monkeypatch):
    """For 4,096 users and items, 512 rows are scored at a time, gradients included."""
    import tensorflow as tf

    from twotower.models.objective import softmax

    sizes, product = [], softmax._product

    def recorded(*args, **transposed):
        out = product(*args, **transposed)
        sizes.append(tuple(out.shape))
        return out

    monkeypatch.setattr("twotower.models.objective.softmax._product", recorded)
    vectors, rows = tf.Variable(tf.ones([4096, 8])), tf.range(4096)
    with tf.GradientTape() as tape:
        loss = softmax.grouped_softmax(vectors, vectors, rows, rows, tf.ones([4096]))
    assert float(loss) == pytest.approx(np.log(4096), rel=1e-5)
    assert np.abs(tape.gradient(loss, vectors)).max() < 1e-6
    assert set(sizes) == {(512, 4096), (4096, 8), (512, 8)}


@pytest.mark.slow
def test_loss_curves_of_merlins_model_and_ours_coincide(monkeypatch):
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Tags

    from twotower.models.config import TwoTowerConfig
    from twotower.models.feature_lookup import FeatureLookup
    from twotower.models.two_tower import build_two_tower

    draw = np.random.default_rng(9)
    counts = draw.integers(1, 90, CARDINALITY).astype(np.float32)
    tags = [Tags.USER, Tags.USER_ID, Tags.CATEGORICAL]
    domain = {"domain": {"min": 0, "max": 29}}
    user = ColumnSchema("user", dtype=np.int32, tags=tags, properties=domain)
    both = schema() + type(schema())([user])
    both["item"] = both["item"].with_tags([Tags.ITEM])
    rows = {"user_row": draw.integers(0, 30, 1200), "item_row": draw.integers(0, CARDINALITY, 1200)}
    of_rows = tf.data.Dataset.from_tensor_slices(rows).batch(60)
    of_codes = of_rows.map(
        lambda each: ({"user": each["user_row"][:, None], "item": each["item_row"][:, None]}, None)
    )
    lookup = FeatureLookup(
        {"user": np.arange(30)[:, None]},
        {"item": np.arange(CARDINALITY)[:, None]},
        item_id="item",
        hide_item_id=np.zeros(CARDINALITY, np.float32),
        dropout=0.0,
        seed=3,
        step=lambda: tf.constant(0),
    )

    def curve(batches, **settings):
        tf.keras.utils.set_random_seed(3)
        config = TwoTowerConfig(dim=8, temperature=TEMPERATURE)
        model = build_two_tower(both, counts, config)
        model({name: tf.zeros([2, 1], tf.int64) for name in ("user", "item")})
        model.compile(optimizer=tf.keras.optimizers.Adam(0.01), metrics=[])
        losses = []
        keep = tf.keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: losses.append(logs["loss_batch"])
        )
        callbacks = [keep]
        model.fit(
            batches, epochs=3, verbose=0, callbacks=callbacks, train_metrics_steps=0, **settings
        )
        return np.array(losses), type(model._output)

    ours, kind = curve(of_rows, pre=lookup)
    assert kind is not mm.ContrastiveOutput
    monkeypatch.setattr(
        "twotower.models.objective.outputs.InBatchSoftmax",
        lambda *_, **__: stock_output(counts, 1.0, ["in-batch"]),
    )
    stock, kind = curve(of_codes)
    assert kind is mm.ContrastiveOutput
    assert len(ours) == 60
    assert ours[-1] < ours[0] - 0.1
    np.testing.assert_allclose(ours, stock, rtol=1e-4)
