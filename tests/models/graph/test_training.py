"""Training on the graph: what the towers answer, the loss, batches, restarts and interruptions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.checkerboard import ITEMS, TRAINING, USERS, data, own_colour, vectors  # noqa: F401
from tests.models.columns import code_column
from tests.models.interruption import fit_until
from twotower.models.config import TwoTowerConfig
from twotower.models.graph.training import GraphTrainer
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import load, save
from twotower.models.two_tower import embed

OOV = 2
FAST = TRAINING.copy(update={"epochs": 8, "learning_rate": 0.02})


def config_of(**graph):
    return TwoTowerConfig(
        dim=8, history_pooling="sum", normalize=False, temperature=0.1, graph=graph
    )


def schema_of(length, more=0):
    from merlin.schema import Schema, Tags

    width = {"min": length, "max": length}
    seen = code_column("seen", ITEMS + 3 + more, Tags.USER, Tags.SEQUENCE, value_count=width)
    return Schema(
        [
            code_column("user", USERS + 3 + more, Tags.USER_ID, Tags.USER),
            seen.with_dtype(np.int32, is_list=True, is_ragged=False),
            code_column("film", ITEMS + 3 + more, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


def with_history(data, length):  # noqa: F811
    """The checkerboard, and the first `length` positives of each user."""
    seen = np.zeros((USERS, length), np.int32)
    for user in range(USERS):
        codes = data.items["film"][data.item_rows[data.user_rows == user], 0][:length]
        seen[user, : len(codes)] = codes
    return replace(data, users={**data.users, "seen": seen})


@pytest.fixture(scope="module")
def seeing(data):  # noqa: F811
    """All positives of each user are in the history."""
    return with_history(data, ITEMS)


def cosines(one, other):
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms


@pytest.mark.parametrize("negatives", [None, pytest.param(10, marks=pytest.mark.slow)])
def test_a_planted_pattern_is_learnt_and_survives_saving(seeing, tmp_path, negatives):
    tower = create(schema_of(ITEMS), seeing, config_of(negatives=negatives), seed=1)
    history = fit(tower, seeing, FAST, own_colour(seeing), tmp_path / "state")
    assert max(history["val_ndcg@10"]) > 0.9
    save(tower, tmp_path / "model")
    reloaded = load(tmp_path / "model").model
    for before, after in zip(vectors(tower.model, seeing), vectors(reloaded, seeing), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("length", [5, ITEMS])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_towers_answer_with_the_propagated_vectors(data, layers, length):  # noqa: F811
    """Whether the history has all positives or not; the candidates' lengths have a power of .5."""
    known = with_history(data, length)
    tower = create(schema_of(length), known, config_of(layers=layers, length_power=0.5), seed=1)
    trainer = GraphTrainer(tower, known, TRAINING)
    trainer.finish_epoch()
    users, items = (
        each.numpy()
        for each in trainer.graph.sums(trainer.vectors.users, trainer.vectors.items, layers)
    )
    found_users, found_items = vectors(tower.model, known)
    np.testing.assert_allclose(cosines(found_users, users), 1, atol=1e-5)
    np.testing.assert_allclose(cosines(found_items, items), 1, atol=1e-5)
    lengths = [np.linalg.norm(each, axis=1) for each in (found_items, items)]
    np.testing.assert_allclose(lengths[0], lengths[1] ** 0.5, rtol=1e-5)


def test_a_new_user_is_answered_as_one_whose_own_vector_is_zero(seeing):
    tower = create(schema_of(ITEMS), seeing, config_of(), seed=1)
    trainer = GraphTrainer(tower, seeing, TRAINING)
    before = trainer.vectors.users[7].numpy()
    trainer.vectors.users[7].assign(np.zeros(8))
    trainer.finish_epoch()
    # What the own vector adds through the user's items is not the new user's, and small here.
    assert np.abs(before).max() > 0.05
    history = {name: values[7:8] for name, values in seeing.users.items()}
    own = embed(tower.model.query_encoder, history)
    unknown = embed(tower.model.query_encoder, {**history, "user": np.array([[OOV]], np.int32)})
    empty = {"user": np.array([[OOV]], np.int32), "seen": np.zeros((1, ITEMS), np.int32)}
    stranger = embed(tower.model.query_encoder, empty)
    np.testing.assert_allclose(unknown - stranger, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negatives", [None, 20])
def test_the_loss_is_that_of_a_loop(seeing, negatives):
    """A user's other positives are no negatives, and 20 of 40 items count twice."""
    import tensorflow as tf
    from tensorflow.random.experimental import stateless_fold_in

    from twotower.models.objective.sampling import sample_distinct

    weights = np.random.default_rng(5).random(len(seeing.user_rows)).astype(np.float32)
    weighted = replace(seeing, weights=weights)
    tower = create(schema_of(ITEMS), weighted, config_of(negatives=negatives), seed=1)
    tower.model.optimizer = tf.keras.optimizers.SGD(0.0)
    trainer = GraphTrainer(tower, weighted, TRAINING)
    users, items = trainer.graph.sums(trainer.vectors.users, trainer.vectors.items, 2)
    users, items = (each.numpy() for each in (users, items))
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    counts = np.ones(ITEMS)
    if negatives:
        counts = np.zeros(ITEMS)
        seed = stateless_fold_in([TRAINING.seed, 1], tf.constant(0, tf.int64))
        counts[sample_distinct(negatives, ITEMS, seed)] = ITEMS / negatives
    total, n_positives = 0.0, 0
    for user in (3, 11):
        of_user = seeing.user_rows == user
        own = seeing.item_rows[of_user]
        scores = np.exp(items @ users[user] / 0.1)
        others = np.delete(counts * scores, own).sum()
        total -= (weights[of_user] * np.log(scores[own] / (scores[own] + others))).sum()
        n_positives += len(own)
    assert trainer.step(np.array([3, 11])) == pytest.approx(total / n_positives, rel=1e-5)


def test_a_batch_has_all_positives_of_its_users(seeing, monkeypatch):
    tower = create(schema_of(ITEMS), seeing, config_of(), seed=1)
    trainer = GraphTrainer(tower, seeing, TRAINING)
    first, second = trainer.batches(0), trainer.batches(1)
    for batches in (first, second):
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(USERS))
        counts = np.diff(trainer.offsets)
        sizes = [counts[batch].sum() for batch in batches[:-1]]
        assert all(TRAINING.batch_size / 2 < size < TRAINING.batch_size * 1.5 for size in sizes)
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    monkeypatch.setattr("twotower.models.graph.training.MAX_PAIRS", 2 * ITEMS)
    assert max(map(len, trainer.batches(0))) == 2


@pytest.mark.slow
def test_an_interrupted_training_ends_as_an_uninterrupted_one(seeing, tmp_path):
    config = FAST.copy(update={"epochs": 2, "checkpoint_seconds": 1e-9})
    model = config_of(negatives=10)
    whole = create(schema_of(ITEMS), seeing, model, seed=1)
    expected = fit(whole, seeing, config, own_colour(seeing), tmp_path / "whole")

    steps = GraphTrainer(whole, seeing, config).steps_per_epoch
    for last in (steps // 2, steps + 2):
        parts = create(schema_of(ITEMS), seeing, model, seed=1)
        fit_until(last, parts, seeing, config, own_colour(seeing), tmp_path / "parts")
    parts = create(schema_of(ITEMS), seeing, model, seed=1)
    found = fit(parts, seeing, config, own_colour(seeing), tmp_path / "parts")
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    for one, other in zip(vectors(whole.model, seeing), vectors(parts.model, seeing), strict=True):
        # The first step of a process may round differently.
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_grown_model_starts_from_the_vectors_it_had(seeing, tmp_path, layers):
    tower = create(schema_of(ITEMS), seeing, config_of(layers=layers), seed=1)
    fit(tower, seeing, FAST.copy(update={"epochs": 1}), own_colour(seeing), tmp_path)
    grown = grow(tower, schema_of(ITEMS, more=1), seeing, seed=2)
    trainer = GraphTrainer(grown, seeing, TRAINING)
    users, items = (
        each.numpy()
        for each in trainer.graph.sums(trainer.vectors.users, trainer.vectors.items, layers)
    )
    before = vectors(tower.model, seeing)
    np.testing.assert_allclose(cosines(users, before[0]), 1, atol=1e-4)
    np.testing.assert_allclose(cosines(items, before[1]), 1, atol=1e-4)
    fresh = GraphTrainer(create(schema_of(ITEMS), seeing, config_of(), seed=1), seeing, TRAINING)
    assert not np.allclose(fresh.vectors.items, trainer.vectors.items, atol=0.01)


def test_a_batch_may_be_larger_than_the_data(seeing, tmp_path):
    config = FAST.copy(update={"epochs": 1, "batch_size": 10 * len(seeing.user_rows)})
    tower = create(schema_of(ITEMS), seeing, config_of(), seed=1)
    assert len(fit(tower, seeing, config, own_colour(seeing), tmp_path)["loss"]) == 1


def test_items_and_users_without_positives_are_left_out(seeing):
    chosen = np.flatnonzero((seeing.item_rows != 4) & (seeing.user_rows != 9))
    fewer = seeing.take(chosen)
    tower = create(schema_of(ITEMS), fewer, config_of(), seed=1)
    trainer = GraphTrainer(tower, fewer, TRAINING)
    trainer.finish_epoch()
    users, items = vectors(tower.model, fewer)
    np.testing.assert_array_equal(items[4], np.zeros(8))
    assert np.isfinite(users).all()
    assert trainer.vectors.items.shape == (ITEMS - 1, 8)
