"""Training with weights: they decide what is learnt, and survive an interruption."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.models.checkerboard import CONFIG, ITEMS, TRAINING, USERS, own_colour, vectors
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import with_replay
from twotower.models.training.model import create


def trained(schema, data, folder, validate=lambda model: {"ndcg@10": 0.0}, **training):
    tower = create(schema, data, CONFIG, seed=1)
    fit(tower, data, TRAINING.copy(update=training), validate, folder)
    return tower


def both_colours(data, seed=3):
    """Every user takes items of both colours; those of the own colour weigh 19 times as much."""
    draw = np.random.default_rng(seed)
    rows = np.argwhere(draw.random((USERS, ITEMS)) < 0.5)[:, :].astype(np.int32)
    rows = rows[draw.permutation(len(rows))]
    weights = np.where(rows.sum(axis=1) % 2 == 0, 1.9, 0.1).astype(np.float32)
    return TrainingData(
        data.users, data.items, rows[:, 0], rows[:, 1], weights=weights / weights.mean()
    )


def test_weights_decide_what_is_learnt(schema, data, tmp_path):
    weighted = both_colours(data)
    validate = own_colour(data)
    tower = trained(schema, weighted, tmp_path / "weighted", validate)
    assert max(tower.history["val_ndcg@10"]) > 0.9
    tower = trained(schema, replace(weighted, weights=None), tmp_path / "plain", validate)
    assert max(tower.history["val_ndcg@10"]) < 0.6


def test_weights_of_1_change_no_bit(schema, data, tmp_path):
    ones = replace(data, weights=np.ones(len(data.user_rows), np.float32))
    plain = vectors(trained(schema, data, tmp_path / "plain", epochs=2).model, data)
    weighted = vectors(trained(schema, ones, tmp_path / "ones", epochs=2).model, data)
    for one, other in zip(plain, weighted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_training_has_the_same_weights(schema, data, tmp_path):
    weighted = both_colours(data)
    whole = vectors(trained(schema, weighted, tmp_path / "whole", epochs=3).model, data)
    trained(schema, weighted, tmp_path / "parts", epochs=1)
    resumed = vectors(trained(schema, weighted, tmp_path / "parts", epochs=3).model, data)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_replayed_rows_keep_their_weights():
    rows = np.arange(1000, dtype=np.int32)
    rows_only = TrainingData({}, {}, rows, rows, weights=rows.astype(np.float32))
    sample = with_replay(rows_only, new=10, replay=2.0, batch_size=1, seed=0)
    assert len(sample.user_rows) == 64
    np.testing.assert_array_equal(sample.weights, sample.user_rows)
    assert with_replay(replace(rows_only, weights=None), 10, 2.0, 1, 0).weights is None
