"""Every subject learns, and all have the same loss at the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training_process import Task, Watch
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData

USERS, ITEMS = 60, 40
CONFIG = TrainingConfig(
    batch_size=64, epochs=8, patience=8, learning_rate=0.05, learning_rate_decay=1.0
)


def subjects():
    from benchmarks.training_subjects import Ours, Stock

    yield Ours
    yield Stock
    reason = "tensorflow-recommenders is missing: `make bench-train` installs it"
    tfrs = pytest.importorskip("benchmarks.training_tfrs", reason=reason)
    yield tfrs.Recommenders
    yield tfrs.CompiledRecommenders


@pytest.fixture(scope="module")
def checkerboard() -> tuple:
    """Schema and data: even users take even items, odd users odd ones; half the pairs."""
    from benchmarks.training_subjects import made_up

    schema, data = made_up(USERS, ITEMS, 10)
    draw = np.random.default_rng(0)
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0
    pairs = np.argwhere(colour & (draw.random(colour.shape) < 0.5))
    pairs = pairs[draw.permutation(len(pairs))].astype(np.int32)
    return schema, TrainingData(data.users, data.items, pairs[:, 0], pairs[:, 1])


def right_colour(data):
    """From a model to the share of the catalogue's pairs that the sign of the score gets right."""
    from twotower.models.two_tower import TowerScorer

    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0

    def score(model) -> float:
        scores = TowerScorer.of(model, data.users, data.items).score(np.arange(USERS))
        return float(((scores > np.median(scores)) == colour).mean())

    return score


def test_every_subject_learns_a_planted_pattern(checkerboard):
    score = right_colour(checkerboard[1])
    for kind in subjects():
        watch = Watch(Task("", "", {}, target=2.0, seconds=1e6), score)
        seconds, losses = kind(*checkerboard, CONFIG).fit(watch)
        assert len(seconds) == len(losses) == len(watch.scores) == CONFIG.epochs, kind
        assert losses[-1] < losses[0] - 0.1, kind
        assert watch.scores[-1] > 0.95, kind


def test_a_peer_stops_at_the_target(checkerboard):
    from benchmarks.training_subjects import Stock

    watch = Watch(Task("", "", {}, target=0.1, seconds=1e6), right_colour(checkerboard[1]))
    assert len(Stock(*checkerboard, CONFIG).fit(watch)[0]) == 1


def test_the_loss_of_the_same_weights_is_the_same(checkerboard):
    from benchmarks.training_subjects import TEMPERATURE, Ours
    from twotower.models.config import TwoTowerConfig
    from twotower.models.training.model import create

    schema, data = checkerboard
    # One batch of everything, hardly moved; Keras tells the loss before the step.
    config = CONFIG.copy(
        update={"batch_size": len(data.user_rows), "epochs": 1, "learning_rate": 1e-9}
    )
    draw, losses = np.random.default_rng(4), []
    tables = {size + 3: draw.normal(size=(size + 3, 64)) for size in (USERS, ITEMS)}
    plain = TwoTowerConfig(temperature=TEMPERATURE, feature_dropout=0, cold_count=1e-6)
    for kind in subjects():
        subject = kind(schema, data, config)
        if kind is Ours:  # which hides ids at random, and that is no loss of the same batch
            subject.tower = create(schema, data, plain, config.seed)
            subject.model = subject.tower.model
        right_colour(data)(subject.model)  # makes the variables
        for variable in subject.model.trainable_variables:
            variable.assign(tables[variable.shape[0]])
        losses += subject.fit(Watch(Task("", "", {}), None))[1]
    assert losses[0] > 1
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_lists_are_left_out_and_a_part_is_drawn():
    from merlin.schema import ColumnSchema, Schema

    from benchmarks.training_subjects import a_part, expanded, made_up, without_lists

    schema, data = made_up(USERS, ITEMS, 100)
    genres = ColumnSchema("genres", dtype=np.int32, dims=(None, 6))
    items = {**data.items, "genres": np.ones([ITEMS, 6], np.int32)}
    more = TrainingData(data.users, items, data.user_rows, data.item_rows)
    single, without = without_lists(Schema([*schema, genres]), more)
    assert single.column_names == schema.column_names
    assert list(without.items) == list(data.items)
    some = a_part(without, 30)
    assert len(some.user_rows) == len(some.item_rows) == 30
    np.testing.assert_array_equal(expanded(some)["user_id"], some.user_rows + 3)
    np.testing.assert_array_equal(expanded(some)["item_id"], some.item_rows + 3)
