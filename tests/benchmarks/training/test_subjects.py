"""Every subject learns, and all compute the same loss from the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training.process import Monitor, Task
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData

USERS, ITEMS = 60, 40
CONFIG = TrainingConfig(
    batch_size=64, epochs=8, patience=8, learning_rate=0.05, learning_rate_decay=1.0
)


def subjects():
    from benchmarks.training.subjects import Ours, Stock

    yield Ours
    yield Stock
    reason = "tensorflow-recommenders is missing: `make bench-train` installs it"
    tfrs = pytest.importorskip("benchmarks.training.tfrs", reason=reason)
    yield tfrs.Recommenders
    yield tfrs.CompiledRecommenders


@pytest.fixture(scope="module")
def checkerboard() -> tuple:
    """Schema and data: even users have even items, odd users odd ones; half of the pairs."""
    from benchmarks.training.subjects import random_data

    schema, data = random_data(users=USERS, items=ITEMS, rows=10)
    draw = np.random.default_rng(0)
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0
    pairs = np.argwhere(colour & (draw.random(colour.shape) < 0.5))
    pairs = pairs[draw.permutation(len(pairs))].astype(np.int32)
    return schema, TrainingData(data.users, data.items, pairs[:, 0], pairs[:, 1])


def right_colour(data):
    """Return a function from a model to the share of pairs that it scores on the right side."""
    from twotower.models.two_tower import TowerScorer

    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0

    def score(model) -> float:
        scores = TowerScorer.of(model, data.users, data.items).score(np.arange(USERS))
        return float(((scores > np.median(scores)) == colour).mean())

    return score


@pytest.mark.slow
def test_every_subject_learns_a_planted_pattern(checkerboard):
    score = right_colour(checkerboard[1])
    for kind in subjects():
        monitor = Monitor(Task("", "", {}, target=2.0, seconds=1e6), score)
        seconds, losses = kind(*checkerboard, CONFIG).fit(monitor)
        assert len(seconds) == len(losses) == len(monitor.scores) == CONFIG.epochs, kind
        assert losses[-1] < losses[0] - 0.1, kind
        assert monitor.scores[-1] > 0.95, kind


def test_a_peer_stops_at_the_target(checkerboard):
    from benchmarks.training.subjects import Stock

    monitor = Monitor(Task("", "", {}, target=0.1, seconds=1e6), right_colour(checkerboard[1]))
    assert len(Stock(*checkerboard, CONFIG).fit(monitor)[0]) == 1


def test_the_loss_of_the_same_weights_is_the_same(checkerboard):
    from benchmarks.training.subjects import TEMPERATURE, Ours
    from twotower.models.config import TwoTowerConfig
    from twotower.models.training.model import create

    schema, data = checkerboard
    # One batch of all rows and a tiny learning rate; Keras reports the loss before the step.
    config = CONFIG.copy(
        update={"batch_size": len(data.user_rows), "epochs": 1, "learning_rate": 1e-9}
    )
    draw, losses = np.random.default_rng(4), []
    tables = {size + 3: draw.normal(size=(size + 3, 64)) for size in (USERS, ITEMS)}
    plain = TwoTowerConfig(temperature=TEMPERATURE, feature_dropout=0, cold_count=1e-6)
    for kind in subjects():
        subject = kind(schema, data, config)
        if kind is Ours:  # whose default towers replace ids at random
            subject.tower = create(schema, data, plain, config.seed)
            subject.model = subject.tower.model
        right_colour(data)(subject.model)  # creates the variables
        for variable in subject.model.trainable_variables:
            variable.assign(tables[variable.shape[0]])
        losses += subject.fit(Monitor(Task("", "", {}), None))[1]
    assert losses[0] > 1
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_lists_are_removed_and_rows_are_sampled():
    from merlin.schema import ColumnSchema, Schema

    from benchmarks.training.subjects import (
        random_data,
        sample_rows,
        training_columns,
        without_lists,
    )

    schema, data = random_data(users=USERS, items=ITEMS, rows=100)
    genres = ColumnSchema("genres", dtype=np.int32, dims=(None, 6))
    items = {**data.items, "genres": np.ones([ITEMS, 6], np.int32)}
    more = TrainingData(data.users, items, data.user_rows, data.item_rows)
    single, without = without_lists(Schema([*schema, genres]), more)
    assert single.column_names == schema.column_names
    assert list(without.items) == list(data.items)
    some = sample_rows(without, 30)
    assert len(some.user_rows) == len(some.item_rows) == 30
    np.testing.assert_array_equal(training_columns(some)["user_id"], some.user_rows + 3)
    np.testing.assert_array_equal(training_columns(some)["item_id"], some.item_rows + 3)
