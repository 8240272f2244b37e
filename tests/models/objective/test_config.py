"""Every objective from its configuration to its gradient, against NumPy; draws against log_q."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.conftest import differences
from twotower.models.config import TwoTowerConfig
from twotower.models.training.batches import feature_lookup
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.mining import MinedNegatives
from twotower.models.training.model import create

USERS, ITEMS, KNOWN, BATCH, DIM = 5, 9, 5, 14, 3
OOV = 2


def schema_of(users: int, known: int):
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, cardinality, *tags):
        domain = {"min": 0, "max": cardinality - 1, "name": name}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(name, dtype=np.int32, tags=tags, properties={"domain": domain})

    return Schema(
        [
            column("user", users + 3, Tags.USER_ID, Tags.USER),
            column("film", known + 3, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


def data_of(users: int, items: int, known: int, pairs: np.ndarray) -> TrainingData:
    """Training data whose items from row `known` on are not in the vocabulary."""
    codes = np.arange(3, items + 3, dtype=np.int32)
    codes[known:] = OOV
    rows = pairs.astype(np.int32)
    users = np.arange(3, users + 3, dtype=np.int32)
    return TrainingData({"user": users[:, None]}, {"film": codes[:, None]}, *rows.T)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Some items are much more popular. Rows 5 to 8 are not in the vocabulary; 2 have positives."""
    draw = np.random.default_rng(5)
    items = np.repeat(np.arange(7), [40, 9, 5, 3, 2, 2, 1])
    pairs = np.stack([draw.integers(0, USERS, len(items)), items], 1)
    rare, pairs = pairs[-6:], draw.permutation(pairs[:-6])
    return data_of(USERS, ITEMS, KNOWN, np.concatenate([rare, pairs]))


class Step:
    """A batch of training: its features, the model's loss, and the gradient of both tables."""

    def __init__(self, data: TrainingData, settings: dict, steps: int = 1):
        import tensorflow as tf

        base = {"dim": DIM, "normalize": False, "temperature": 0.5, "cold_count": 1.5}
        self.config = TwoTowerConfig(**{**base, **settings})
        self.data, objective = data, self.config.objective
        tower = create(schema_of(USERS, KNOWN), data, self.config, seed=1)
        model, draw = tower.model, np.random.default_rng(2)
        model.compile(optimizer="sgd", metrics=[])
        self.tables = [model.query_encoder.weights[0], model.candidate_encoder.weights[0]]
        for table in self.tables:
            table.assign(draw.normal(size=table.shape))
        mined = None
        if objective.negatives == "mined":
            mined = MinedNegatives(data, (0, 4), 0.5)
            mined.mine(model)
        lookup = feature_lookup(tower, data, data, TrainingConfig(seed=3), mined)
        rows = {"user_row": data.user_rows[:BATCH], "item_row": data.item_rows[:BATCH]}
        rows = {name: tf.constant(values) for name, values in rows.items()}
        self.earlier = []
        for step in range(steps):
            model.optimizer.iterations.assign(7 + step)
            features = lookup(rows, training=True)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(features, training=True).outputs)
            self.features = {name: values.numpy() for name, values in features.items()}
            self.earlier.append(self.features)
        self.loss = float(loss)
        self.gradients = [
            tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, self.tables)
        ]

    def expect(self, loss_of) -> None:
        """Assert that `loss_of` (step, users [q, D], items [c, D]) is the loss; and its slopes."""
        users, films = (self.features[name][:, 0] for name in ("user", "film"))
        at = [table.numpy().astype(np.float64) for table in self.tables]

        def loss(user_table, item_table):
            return loss_of(self, user_table[users], item_table[films])

        assert self.loss == pytest.approx(loss(*at), rel=1e-4)
        slopes = (
            differences(lambda table: loss(table, at[1]), at[0]),
            differences(lambda table: loss(at[0], table), at[1]),
        )
        for ours, known in zip(self.gradients, slopes, strict=True):
            np.testing.assert_allclose(ours, known, 2e-3, 1e-4 * np.abs(known).max())

    def q(self, codes: np.ndarray) -> np.ndarray:
        """The probability that a negative is this row, of the candidates' codes."""
        given, positives = self.config.objective, self.data.positives_per_item
        hidden = np.where(np.arange(ITEMS) < KNOWN, np.minimum(1.5, positives / 2), positives)
        counts = np.zeros(KNOWN + 3)
        counts[3:] = (positives - hidden)[:KNOWN]
        counts[OOV] = hidden.sum() / (hidden > 0).sum()  # of one of the items that share the id
        in_batch, uniform = counts[codes] / positives.sum(), np.full(len(codes), 1 / ITEMS)
        if given.negatives == "mixed":
            return (BATCH * in_batch + given.drawn * uniform) / (BATCH + given.drawn)
        if given.negatives == "popularity":
            return counts[codes] ** given.power / (positives**given.power).sum()
        return uniform if given.negatives in ("uniform", "all") else in_batch

    def weight(self) -> np.ndarray:
        """Of each interaction, by how often its item is a positive, hidden or not."""
        positives = self.data.positives_per_item
        power = self.config.objective.propensity_power
        share = np.maximum((positives / positives.max()) ** power, 0.1)
        mean = (positives / share).sum() / positives.sum()
        return 1 / share[self.data.item_rows[:BATCH]] / mean


def softmax(step: Step, users: np.ndarray, items: np.ndarray) -> float:
    """The softmax over all negatives of the step, computed one interaction at a time."""
    batch, given, config = step.features, step.config.objective, step.config
    log_q = np.log(step.q(batch["film"][:, 0]))
    taken = set(zip(step.data.user_rows, step.data.item_rows, strict=True))
    losses = []
    for i, (user, own) in enumerate(zip(batch["_query_of"], batch["_positive_of"], strict=True)):
        scores = items @ users[user] / config.temperature
        times = batch["_count"].astype(float)
        others = times.sum() - times[own]
        for place, row in enumerate(batch["_row"]):
            known = given.mask_known and (step.data.user_rows[i], row) in taken
            if known or place == own:
                times[place] = 0.0
        positive = scores[own] - config.logq * log_q[own]
        if given.corrected_logq:
            positive = scores[own] - np.log((1 - np.exp(log_q[own])) / others)
        negative = scores - config.logq * log_q
        total = np.exp(positive) + (times * np.exp(negative)).sum()
        loss = np.log(total) - positive
        if given.label_smoothing:
            excess = (negative - positive + np.log(np.maximum(times, 1)))[times > 0]
            loss -= given.label_smoothing * excess.sum() / (len(excess) + 1)
        losses.append(loss)
    return float(np.mean(step.weight() * losses))


def softplus(x):
    return np.logaddexp(0.0, x)


def bce(p, s):
    return softplus(-p) + softplus(s).sum()


def gbce(p, s):
    beta = 1 - 0.75 * (1 - len(s) / (ITEMS - 1))
    return beta * softplus(-p) + softplus(s).sum()


def mean(values):
    return values.mean() if len(values) else 0.0


SAMPLED = {
    "bce": bce,
    "gbce": gbce,
    "bpr": lambda p, s: mean(softplus(s - p)),
    "hinge": lambda p, s: mean(np.maximum(1 - p + s, 0)),
    "cosine_regression": lambda p, s: (1 - p) ** 2 + ((1 + s) ** 2).sum(),
    "cosine_contrastive": lambda p, s: 1 - p + 50 * mean(np.maximum(s - 0.9, 0)),
}


def few(step: Step, users: np.ndarray, items: np.ndarray) -> float:
    """A pairwise loss of the hardest of a few negatives per positive."""
    import tensorflow as tf

    batch, given = step.features, step.config.objective
    n = given.per_positive * given.hard
    if given.negatives == "mined":
        places = batch["_negative_of"]
    else:
        upper = np.cumsum(batch["_count"].astype(float))
        draw = tf.random.stateless_uniform([BATCH * n], batch["_seed"], dtype=tf.float64).numpy()
        places = np.searchsorted(upper, draw * upper[-1], side="right").reshape(BATCH, n)
    taken = set(zip(step.data.user_rows, step.data.item_rows, strict=True))
    losses = []
    divisor = step.config.temperature if given.loss in ("bce", "gbce", "bpr") else 1.0
    for i, (user, own) in enumerate(zip(batch["_query_of"], batch["_positive_of"], strict=True)):
        scores = items @ users[user]
        left = [place for place in places[i] if place != own]
        if given.mask_known:
            left = [p for p in left if (step.data.user_rows[i], batch["_row"][p]) not in taken]
        negative = np.sort(scores[left])[::-1][: given.per_positive]
        losses.append(SAMPLED[given.loss](scores[own] / divisor, negative / divisor))
    return float(np.mean(step.weight() * losses))


def squared(step: Step, users: np.ndarray, items: np.ndarray) -> float:
    """The squared loss over all pairs; each user is weighted by the share of its positives here."""
    batch, scores = step.features, users @ items.T
    there = np.zeros(scores.shape, bool)
    there[batch["_query_of"], batch["_positive_of"]] = True
    every = np.bincount(step.data.user_rows, minlength=USERS)
    order = dict(zip(batch["_query_of"], step.data.user_rows[:BATCH], strict=True))
    share = [(batch["_query_of"] == u).sum() / every[order[u]] for u in range(len(users))]
    fitted = ((1 - scores[batch["_query_of"], batch["_positive_of"]]) ** 2).sum()
    missing = (np.array(share)[:, None] * scores**2 * ~there).sum()
    return float(fitted + step.config.objective.unobserved_weight * missing) / BATCH


OBJECTIVES = [
    {},
    {"negatives": "uniform", "drawn": 20},
    {"negatives": "popularity", "drawn": 20},
    {"negatives": "mixed", "drawn": 20},
    {"negatives": "all"},
    {"negatives": "mixed", "drawn": 20, "mask_known": True},
    {"negatives": "mixed", "drawn": 20, "label_smoothing": 0.2},
    {"corrected_logq": True},
    {"corrected_logq": True, "negatives": "uniform", "drawn": 20},
    {"corrected_logq": True, "negatives": "popularity", "drawn": 20},
    {"corrected_logq": True, "negatives": "mixed", "drawn": 20, "mask_known": True},
    {"propensity_power": 0.5},
    {"propensity_power": 1.0, "corrected_logq": True},
    {"propensity_power": 0.5, "loss": "bpr"},
    {"loss": "bce", "per_positive": 3},
    {"loss": "gbce", "negatives": "uniform", "drawn": 20, "per_positive": 3},
    {"loss": "bpr", "negatives": "popularity", "drawn": 20, "hard": 3, "per_positive": 2},
    {
        **{"loss": "hinge", "negatives": "mixed", "drawn": 20, "mask_known": True},
        **{"hard": 4, "per_positive": 2},
    },
    {"loss": "cosine_regression", "negatives": "uniform", "drawn": 20, "per_positive": 4},
    {"loss": "cosine_contrastive"},
    {"loss": "bpr", "negatives": "mined", "hard": 2, "per_positive": 2, "mask_known": True},
    {"loss": "squared", "negatives": "all", "unobserved_weight": 0.3},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_step_has_the_loss_and_the_gradient_of_its_formula(objective, data):
    step = Step(data, {"objective": objective})
    hidden = step.features["film"][step.features["_row"] < KNOWN] == OOV
    assert hidden.any() and not hidden.all(), "some ids of known items are hidden"
    step.expect({"softmax": softmax, "squared": squared}.get(step.config.objective.loss, few))


def test_a_weight_of_one_half_subtracts_half_of_log_q(data):
    Step(data, {"logq": 0.5, "objective": {"negatives": "mixed", "drawn": 20}}).expect(softmax)
    Step(data, {"logq": 0.0, "objective": {"label_smoothing": 0.1}}).expect(softmax)


def test_queued_items_are_compared_with_the_positive_by_row(data):
    """Different items share the out-of-vocabulary id, so ids cannot be compared."""
    settings = {"objective": {"negatives": "cross_batch", "drawn": 2 * BATCH}}
    step = Step(data, settings, steps=2)
    before = step.earlier[0]
    unknown = [set(each["_row"][each["film"][:, 0] == OOV]) for each in step.earlier]
    assert len(unknown[0]) > 1 and unknown[1]

    def both(step, users, items):
        batch = step.features
        log_q, earlier = (np.log(step.q(each["film"][:, 0])) for each in (batch, before))
        table, losses = step.tables[1].numpy().astype(np.float64), []
        queued = before["_row"][before["_positive_of"]]
        vectors = table[before["film"][:, 0]][before["_positive_of"]]
        for user, own in zip(batch["_query_of"], batch["_positive_of"], strict=True):
            scores = items @ users[user] / 0.5 - log_q
            old = vectors @ users[user] / 0.5 - earlier[before["_positive_of"]]
            times = batch["_count"] * (np.arange(len(items)) != own)
            total = np.exp(scores[own]) + (times * np.exp(scores)).sum()
            total += np.exp(old)[queued != batch["_row"][own]].sum()
            losses.append(np.log(total) - scores[own])
        return float(np.mean(losses))

    users, films = (step.features[name][:, 0] for name in ("user", "film"))
    at = [table.numpy().astype(np.float64) for table in step.tables]
    assert step.loss == pytest.approx(both(step, at[0][users], at[1][films]), rel=1e-4)


MANY, VOCABULARY, RARE = 240, 30, 80  # rows, rows in the vocabulary, rows with few positives


@pytest.fixture(scope="module")
def wide() -> TrainingData:
    """A table of items eight times as large as the vocabulary; most items have no positives."""
    draw = np.random.default_rng(6)
    popular = np.repeat(np.arange(VOCABULARY), 1000 // np.arange(1, VOCABULARY + 1))
    rare = np.repeat(np.arange(VOCABULARY, VOCABULARY + RARE), 3)
    items = draw.permutation(np.concatenate([popular, rare]))
    pairs = np.stack([draw.integers(0, USERS, len(items)), items], 1)
    return data_of(USERS, MANY, VOCABULARY, pairs)


@pytest.mark.parametrize(
    "objective, estimate",
    [
        ({"label_smoothing": 0.1}, "counts"),
        ({"negatives": "cross_batch", "drawn": 64}, "counts"),
        ({"negatives": "uniform", "drawn": 512}, "counts"),
        ({"negatives": "popularity", "drawn": 512}, "counts"),
        ({"negatives": "mixed", "drawn": 512}, "counts"),
        ({"negatives": "all"}, "counts"),
        ({}, "streaming"),
    ],
    ids=str,
)
def test_log_q_equals_the_frequency_of_a_row_among_the_negatives(objective, estimate, wide):
    """For a row in the vocabulary, and on average for one that is not; hidden ids are counted.

    By the cardinality of the id log_q would be off by 2 for uniform negatives, and by 4 or more if
    the rows that share the out-of-vocabulary id counted together.
    """
    import tensorflow as tf
    from merlin.models.tf.outputs.sampling.base import Candidate

    size, steps = 256, 150
    config = TwoTowerConfig(dim=2, cold_count=3.0, logq_estimate=estimate, objective=objective)
    tower = create(schema_of(USERS, VOCABULARY), wide, config, seed=1)
    tower.model.compile(optimizer="sgd", metrics=[])
    lookup, output = feature_lookup(tower, wide, wide, TrainingConfig(seed=3)), tower.model.last
    draw = np.random.default_rng(1)

    @tf.function
    def step(user_rows, item_rows):
        features = lookup({"user_row": user_rows, "item_row": item_rows}, training=True)
        tower.model(features, training=True)
        return {name: features[name] for name in ("_row", "film", "_count")}

    drawn = np.zeros((MANY, VOCABULARY + 3))  # by row and by code, as codes are sometimes hidden
    for number in range(steps):
        tower.model.optimizer.iterations.assign(number)
        places = draw.integers(0, len(wide.user_rows), size)
        found = step(tf.constant(wide.user_rows[places]), tf.constant(wide.item_rows[places]))
        drawn[found["_row"], found["film"][:, 0]] += found["_count"]
    drawn /= drawn.sum()
    codes = np.arange(VOCABULARY + 3)
    candidate = Candidate(tf.constant(codes[:, None]), {"_query_of": tf.zeros([size])})
    log_q = -output._bias(candidate).numpy()

    known = drawn[np.arange(VOCABULARY), codes[3:]]
    tolerance = 0.7 if estimate == "streaming" else 0.35  # of a single row, in nats
    np.testing.assert_allclose(log_q[3:], np.log(known), atol=tolerance)
    assert np.mean(log_q[3:] - np.log(known)) == pytest.approx(0, abs=tolerance / 3)
    # Averaged over the items that share the id and can be drawn.
    rows = MANY - VOCABULARY if objective.get("negatives") in ("uniform", "mixed", "all") else None
    shared = drawn[:, OOV].sum() / (rows or VOCABULARY + RARE)
    assert log_q[OOV] == pytest.approx(np.log(shared), abs=tolerance)
