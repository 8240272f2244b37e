"""The in-batch softmax: equal to Merlin's, to finite differences, in chunks of any size."""

from __future__ import annotations

import numpy as np
import pytest

CARDINALITY, DIM, TEMPERATURE = 40, 6, 0.2


@pytest.fixture
def batch():
    """37 rows whose item ids repeat: unit vectors of queries and candidates, ids [37, 1]."""
    import tensorflow as tf

    draw = np.random.default_rng(5)
    vectors = tf.math.l2_normalize(draw.normal(size=(2, 37, DIM)), axis=-1)
    query, candidate = (tf.Variable(tf.cast(each, tf.float32)) for each in vectors)
    return query, candidate, tf.constant(draw.integers(0, CARDINALITY, (37, 1)))


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


def our_output(counts, log_q_weight, samplers="in-batch"):
    from merlin.models.tf.outputs.base import DotProduct

    from models.softmax import InBatchSoftmax

    log_q = log_q_weight * np.log(counts / counts.sum()) if log_q_weight else None
    return InBatchSoftmax(
        DotProduct(),
        negative_samplers=samplers,
        schema=schema(),
        temperature=TEMPERATURE,
        log_q=log_q,
    )


def loss_and_gradients(output, query, candidate, ids):
    import tensorflow as tf

    from models.softmax import AsGiven, InBatchSoftmax

    stock = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
    loss_of = AsGiven() if isinstance(output, InBatchSoftmax) else stock
    with tf.GradientTape() as tape:
        embeddings = {"query": query, "candidate": candidate}
        answer = output(embeddings, features={"item": ids}, targets=None, training=True)
        loss = loss_of(answer.targets, answer.outputs)
    return loss.numpy(), [each.numpy() for each in tape.gradient(loss, [query, candidate])]


@pytest.mark.parametrize("log_q_weight", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(("at_once", "least"), [(1 << 20, 64), (1, 36), (1, 5), (1, 1)])
def test_equals_merlins_output(log_q_weight, at_once, least, batch, monkeypatch):
    monkeypatch.setattr("models.softmax.SCORES_AT_ONCE", at_once)
    monkeypatch.setattr("models.softmax.LEAST_ROWS", least)
    counts = np.random.default_rng(6).integers(1, 90, CARDINALITY).astype(np.float32)
    expected, gradients = loss_and_gradients(stock_output(counts, log_q_weight), *batch)
    loss, ours = loss_and_gradients(our_output(counts, log_q_weight), *batch)
    assert loss == pytest.approx(expected, rel=1e-5)
    for gradient, known in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(gradient, known, atol=1e-5 * np.abs(known).max())


def everything(scale=1.0):
    """Arguments of `contrastive_softmax`: other negatives than positives, weights and biases."""
    import tensorflow as tf

    draw = np.random.default_rng(8)
    vectors = [scale * draw.normal(size=(size, 3)) for size in (11, 11, 17)]
    query, positive, negative = (tf.Variable(tf.cast(each, tf.float32)) for each in vectors)
    return (query, positive, negative), {
        "temperature": tf.Variable(0.7),
        "positive_id": draw.integers(0, 9, 11),
        "negative_id": draw.integers(0, 9, 17),
        "positive_bias": draw.normal(size=11),
        "negative_bias": draw.normal(size=17),
        "weight": draw.random(11),
    }


def by_hand(query, positive, negative, temperature, weight, **rest):
    """The formula in float64."""
    own = (query * positive).sum(1) / temperature + rest["positive_bias"]
    others = query @ negative.T / temperature + rest["negative_bias"]
    others[rest["positive_id"][:, None] == rest["negative_id"]] = -np.inf
    every = np.hstack([own[:, None], others])
    highest = every.max(1)
    sums = np.log(np.exp(every - highest[:, None]).sum(1)) + highest
    return (weight * (sums - own)).mean()


def test_equals_the_formula_and_its_differences(monkeypatch):
    import tensorflow as tf

    from models.softmax import contrastive_softmax

    monkeypatch.setattr("models.softmax.SCORES_AT_ONCE", 1)
    monkeypatch.setattr("models.softmax.LEAST_ROWS", 4)
    vectors, rest = everything()
    with tf.GradientTape() as tape:
        loss = contrastive_softmax(*vectors, **rest)
    gradients = tape.gradient(loss, [*vectors, rest["temperature"]])
    numbers = [each.numpy().astype(np.float64) for each in (*vectors, rest["temperature"])]
    known = {name: each for name, each in rest.items() if name != "temperature"}
    assert float(loss) == pytest.approx(by_hand(*numbers, **known), rel=1e-5)
    for which, gradient in enumerate(gradients):
        differences = np.zeros_like(numbers[which])
        for place in np.ndindex(differences.shape):
            moved = []
            for step in (1e-5, -1e-5):
                at = [np.array(each) for each in numbers]
                at[which][place] += step
                moved.append(by_hand(*at, **known))
            differences[place] = (moved[0] - moved[1]) / 2e-5
        np.testing.assert_allclose(gradient, differences, atol=1e-5)


@pytest.fixture
def groups():
    """8 queries and 9 candidates, of which 40 interactions name some often and some never."""
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


@pytest.mark.parametrize("log_q_weight", [0.0, 1.0])
@pytest.mark.parametrize(("at_once", "least"), [(1 << 20, 64), (1, 5), (1, 1)])
def test_a_grouped_batch_equals_merlins_output(log_q_weight, at_once, least, groups, monkeypatch):
    import tensorflow as tf

    from models.softmax import COUNT, POSITIVE_OF, QUERY_OF

    monkeypatch.setattr("models.softmax.SCORES_AT_ONCE", at_once)
    monkeypatch.setattr("models.softmax.LEAST_ROWS", least)
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


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_a_grouped_batch_equals_the_ungrouped_one(masked, size, groups, monkeypatch):
    """Weights, a learned temperature, biases, scores in the thousands, unmasked negatives."""
    import tensorflow as tf

    from models.softmax import contrastive_softmax, grouped_softmax

    monkeypatch.setattr("models.softmax.SCORES_AT_ONCE", 1)
    monkeypatch.setattr("models.softmax.LEAST_ROWS", 3)
    query, candidate, query_of, positive_of = groups
    query.assign(size * query)
    draw = np.random.default_rng(12)
    bias, weight = (draw.random(n).astype(np.float32) for n in (9, 40))
    variables = [query, candidate, tf.Variable(0.3)]
    with tf.GradientTape(persistent=True) as tape:
        positive, ids = tf.gather(candidate, positive_of), positive_of if masked else None
        expected = contrastive_softmax(
            *(tf.gather(query, query_of), positive, positive),
            temperature=variables[2],
            positive_id=ids,
            negative_id=ids,
            positive_bias=bias[positive_of],
            negative_bias=bias[positive_of],
            weight=weight,
        )
        loss = grouped_softmax(
            *(query, candidate, query_of, positive_of, np.bincount(positive_of)),
            temperature=variables[2],
            bias=bias,
            weight=weight,
            masked=masked,
        )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for ours, known in zip(
        *(tape.gradient(each, variables) for each in (loss, expected)), strict=True
    ):
        known = tf.convert_to_tensor(known).numpy()
        np.testing.assert_allclose(ours, known, rtol=1e-4, atol=2e-5 * np.abs(known).max())


def test_a_positive_that_is_nearly_everything_keeps_its_precision():
    """A hundred times in the batch, it is taken out of its query's sum all but once."""
    import tensorflow as tf

    from models.softmax import grouped_softmax

    query = tf.Variable([[1.0, 0.0]])
    candidate = tf.constant([[1.0, 0.0], [-1.0, 0.0]])
    query_of, positive_of = np.zeros(101, np.int64), np.append(np.zeros(100, np.int64), 1)
    loss = grouped_softmax(query, candidate, query_of, positive_of, [100.0, 1.0], temperature=0.25)
    first = np.log1p(np.exp(-8.0))  # the loss of the hundred
    last = np.log(np.exp(-4.0) + 100 * np.exp(4.0)) + 4.0
    assert float(loss) == pytest.approx((100 * first + last) / 101, abs=100 * 2**-22)


def test_scores_in_the_thousands_stay_finite():
    import tensorflow as tf

    from models.softmax import contrastive_softmax

    vectors, rest = everything(scale=100.0)
    with tf.GradientTape() as tape:
        loss = contrastive_softmax(*vectors, **rest)
    numbers = [each.numpy().astype(np.float64) for each in (*vectors, rest.pop("temperature"))]
    assert float(loss) == pytest.approx(by_hand(*numbers, **rest), rel=1e-5)
    assert all(np.isfinite(each).all() for each in tape.gradient(loss, vectors))


def test_half_precision_is_near_the_full_one(batch):
    import tensorflow as tf

    from models.softmax import contrastive_softmax

    query, candidate, ids = batch

    def loss_and_gradients(precision):
        with tf.GradientTape() as tape:
            loss = contrastive_softmax(
                *(query, candidate, candidate),
                temperature=TEMPERATURE,
                positive_id=ids,
                negative_id=ids,
                precision=precision,
            )
        return loss.numpy(), *(g.numpy() for g in tape.gradient(loss, [query, candidate]))

    full, half = loss_and_gradients(tf.float32), loss_and_gradients(tf.bfloat16)
    for one, other in zip(full, half, strict=True):
        assert other.dtype == np.float32
        assert 0 < np.abs(one - other).max() < 0.01 * np.abs(one).max()


@pytest.mark.parametrize("jit", [False, True])
def test_equal_in_a_graph_and_under_xla(jit, batch, monkeypatch):
    import tensorflow as tf

    from models.softmax import contrastive_softmax

    monkeypatch.setattr("models.softmax.SCORES_AT_ONCE", 1)
    monkeypatch.setattr("models.softmax.LEAST_ROWS", 10)

    def loss_and_gradients(query, candidate, ids):
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            loss = contrastive_softmax(
                *(query, candidate, candidate), positive_id=ids, negative_id=ids
            )
        return loss, *tape.gradient(loss, [query, candidate])

    tensors = [tf.convert_to_tensor(each) for each in batch]
    compiled = tf.function(loss_and_gradients, jit_compile=jit)
    for ours, eager in zip(compiled(*tensors), loss_and_gradients(*tensors), strict=True):
        np.testing.assert_allclose(ours, eager, rtol=1e-5, atol=1e-7)


def test_never_makes_a_square(batch):
    """The largest tensor of the graph, gradients included, at 4,096 rows has fewer than 4,096^2."""
    import tensorflow as tf

    from models.softmax import contrastive_softmax

    @tf.function(jit_compile=True)
    def gradients(query, candidate):
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            loss = contrastive_softmax(query, candidate, candidate)
        return tape.gradient(loss, [query, candidate])

    vectors = tf.zeros([4096, 8])
    text = gradients.experimental_get_compiler_ir(vectors, vectors)(stage="optimized_hlo")
    assert "f32[4096,4096]" not in text
    assert "f32[512,4096]" in text


def test_loss_curves_of_merlins_model_and_ours_coincide(monkeypatch):
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.schema import ColumnSchema, Tags

    from models.config import TwoTowerConfig
    from models.two_tower import build_two_tower

    draw = np.random.default_rng(9)
    counts = draw.integers(1, 90, CARDINALITY).astype(np.float32)
    tags = [Tags.USER, Tags.USER_ID, Tags.CATEGORICAL]
    domain = {"domain": {"min": 0, "max": 29}}
    user = ColumnSchema("user", dtype=np.int32, tags=tags, properties=domain)
    both = schema() + type(schema())([user])
    both["item"] = both["item"].with_tags([Tags.ITEM])
    rows = {
        "user": draw.integers(0, 30, (1200, 1)),
        "item": draw.integers(0, CARDINALITY, (1200, 1)),
    }
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(60)
    batches = batches.map(lambda features: (features, None))

    def curve():
        tf.keras.utils.set_random_seed(3)
        config = TwoTowerConfig(dim=8, temperature=TEMPERATURE)
        model = build_two_tower(both, counts, config)
        model.compile(optimizer=tf.keras.optimizers.Adam(0.01), metrics=[])
        losses = []
        keep = tf.keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: losses.append(logs["loss_batch"])
        )
        model.fit(batches, epochs=3, verbose=0, callbacks=[keep], train_metrics_steps=0)
        return np.array(losses), type(model._output)

    ours, kind = curve()
    assert kind is not mm.ContrastiveOutput
    monkeypatch.setattr(
        "models.softmax.InBatchSoftmax", lambda *_, **__: stock_output(counts, 1.0, ["in-batch"])
    )
    stock, kind = curve()
    assert kind is mm.ContrastiveOutput
    assert len(ours) == 60
    assert ours[-1] < ours[0] - 0.1
    np.testing.assert_allclose(ours, stock, rtol=1e-4)
