"""Training of sequence models: planted order, loss against a loop, interruption, negatives."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.interruption import fit_until
from tests.models.sequence.conftest import ITEMS, LENGTH, OFFSET
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.objective.sampling import sample_distinct
from twotower.models.sequence.batches import batch_of, epoch_windows
from twotower.models.sequence.tower import sequence_tower
from twotower.models.sequence.training import SequenceTrainer
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import CONFIG, load, save
from twotower.models.two_tower import embed

TRAINING = TrainingConfig(
    batch_size=64, epochs=10, patience=10, learning_rate=0.03, learning_rate_decay=1.0
)
USERS = 60
NEXT = np.random.default_rng(7).permutation(ITEMS)
"""The film that follows each film."""


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Each user begins anywhere and follows NEXT, for 2 to 9 films."""
    random = np.random.default_rng(0)
    rows, seen = [], np.zeros((USERS, LENGTH), np.int32)
    for user in range(USERS):
        item = random.integers(ITEMS)
        for place in range(random.integers(2, 10)):
            rows.append((user, item, place))
            item = NEXT[item]
        latest = [each for owner, each, _ in rows if owner == user][::-1][:LENGTH]
        seen[user, : len(latest)] = np.array(latest) + OFFSET
    users, items, places = np.array(rows, np.int32)[random.permutation(len(rows))].T
    return TrainingData(
        users={"user": np.full((USERS, 1), 2, np.int32), "seen": seen},
        items={"film": np.arange(OFFSET, ITEMS + OFFSET, dtype=np.int32)[:, None]},
        user_rows=users,
        item_rows=items,
        positions=places,
    )


def right(data):
    """Validation metric: for how many users the next film comes first."""
    following = NEXT[data.users["seen"][:, 0] - OFFSET]

    def validate(model):
        items = embed(model.candidate_encoder, data.items)
        scores = embed(model.query_encoder, data.users) @ items.T
        return {"ndcg@10": float((scores.argmax(axis=1) == following).mean())}

    return validate


def config_of(kind="transformer", dim=16, **settings):
    sequence = {"kind": kind, "dropout": 0.1, **settings}
    return TwoTowerConfig(dim=dim, normalize=False, temperature=1.0, sequence=sequence)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "transformer", "feed_forward": 32, "blocks": 1},
        pytest.param({"kind": "gru"}, marks=pytest.mark.slow),
        pytest.param({"kind": "decay", "decay_time": 0.5}, marks=pytest.mark.slow),
        {"kind": "decay", "last_item": True, "negatives": 8},
    ],
    ids=lambda settings: settings["kind"],
)
def test_a_planted_order_is_learnt_and_survives_saving(schema, data, tmp_path, settings):
    tower = create(schema, data, config_of(**settings), seed=1)
    history = fit(tower, data, TRAINING, right(data), tmp_path / "state")
    assert max(history["val_ndcg@10"]) > 0.9
    save(tower, tmp_path / "model")
    reloaded = load(tmp_path / "model").model
    for encoder, columns in (("query_encoder", data.users), ("candidate_encoder", data.items)):
        before, after = (embed(getattr(each, encoder), columns) for each in (tower.model, reloaded))
        np.testing.assert_array_equal(before, after)


def test_weights_of_other_towers_are_refused(schema, data, tmp_path):
    """As of an earlier release: reading some of them would leave the others random."""
    save(create(schema, data, config_of("mean"), seed=1), tmp_path)
    (tmp_path / CONFIG).write_text(config_of("decay").json())
    with pytest.raises(ModelError, match="another release saved them"):
        load(tmp_path)


def test_a_mean_does_not_see_the_order(schema, data, tmp_path):
    """The partner of the test above: without the order, few users are answered right."""
    tower = create(schema, data, config_of("mean"), seed=1)
    history = fit(tower, data, TRAINING, right(data), tmp_path)
    assert history["loss"][-1] < history["loss"][0]
    assert max(history["val_ndcg@10"]) < 0.8


def test_a_batch_may_be_larger_than_the_data(schema, data, tmp_path):
    """Unlike in a fit by Keras, which would have no step."""
    tower = create(schema, data, config_of("mean"), seed=1)
    config = TRAINING.copy(update={"batch_size": 10**6, "epochs": 2})
    history = fit(tower, data, config, right(data), tmp_path)
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 3, "blocks": 1},
        pytest.param({"kind": "decay", "negatives": 8}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(schema, data, tmp_path, settings):
    config = TRAINING.copy(update={"epochs": 2, "checkpoint_seconds": 1e-9})
    model = config_of(**settings)
    whole = create(schema, data, model, seed=1)
    expected = fit(whole, data, config, right(data), tmp_path / "whole")

    steps = SequenceTrainer(whole, data, config).steps_per_epoch
    tower = create(schema, data, model, seed=1)
    fit_until(steps + 1, tower, data, config, right(data), tmp_path / "state")
    tower = create(schema, data, model, seed=1)
    history = fit(tower, data, config, right(data), tmp_path / "state")
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for encoder, columns in (("query_encoder", data.users), ("candidate_encoder", data.items)):
        a, b = (embed(getattr(each.model, encoder), columns) for each in (tower, whole))
        np.testing.assert_array_equal(a, b)


def trainer_of(schema, data, settings, **changes):
    """A trainer whose model has random weights, without dropout."""
    import tensorflow as tf

    tower = create(schema, data, config_of(**settings, dropout=0), seed=1)
    for weight in tower.model.trainable_variables:
        weight.assign(tf.random.normal(weight.shape) * 0.3)
    return SequenceTrainer(tower, data, TRAINING.copy(update=changes))


def losses(trainer, part):
    import tensorflow as tf

    batch = batch_of(trainer.sequences, part)
    parts = map(tf.constant, (batch.inputs, batch.places, batch.targets))
    return trainer.losses(*parts, tf.constant([3, 4]))


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "mean"},
        {"kind": "decay"},
        pytest.param({"kind": "gru"}, marks=pytest.mark.slow),
        {},
    ],
)
def test_the_loss_of_one_pass_is_that_of_a_loop_over_all_prefixes(schema, data, settings):
    from twotower.models.sequence.training import copy_item_vectors

    trainer = trainer_of(schema, data, settings)
    copy_item_vectors(trainer.tower, data)
    parts = epoch_windows(
        trainer.sequences, length=LENGTH, stride=LENGTH, batch_size=10_000, seed=[0]
    )
    loss, of_start = losses(trainer, parts[0])
    model = trainer.model
    items = embed(model.candidate_encoder, data.items).astype(float)
    codes = data.items["film"][:, 0]
    expected, popular = [], []
    start = sequence_tower(model).start.numpy().astype(float)
    for first, last, predicted in zip(*vars(parts[0]).values(), strict=True):
        for place in range(last - predicted + 1, last + 1):
            read = codes[trainer.sequences.items[first:place]][::-1]
            query = embed(model.query_encoder, {"seen": read[None].astype(np.int32)})[0]
            for vector, into in ((query.astype(float), expected), (start, popular)):
                scores = items @ vector
                into.append(np.log(np.exp(scores).sum()) - scores[trainer.sequences.items[place]])
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
    np.testing.assert_allclose(of_start, np.mean(popular), rtol=1e-4)


def test_negatives_estimate_the_loss_of_all_items(schema, data):
    full = trainer_of(schema, data, {})
    (part, *_) = epoch_windows(full.sequences, length=6, stride=6, batch_size=99, seed=[0])
    expected = float(losses(full, part)[0])
    all_drawn = trainer_of(schema, data, {"negatives": ITEMS})
    assert float(losses(all_drawn, part)[0]) == pytest.approx(expected, rel=1e-5)
    # One item that is not drawn, and stands for itself: the largest difference without an error.
    nearly = float(losses(trainer_of(schema, data, {"negatives": ITEMS - 1}), part)[0])
    assert nearly == pytest.approx(expected, rel=0.05)
    assert nearly != pytest.approx(expected, rel=1e-6)


def test_gbce_is_that_of_the_drawn_items(schema, data):
    trainer = trainer_of(schema, data, {"loss": "gbce", "negatives": 2 * ITEMS, "kind": "mean"})
    (part, *_) = epoch_windows(trainer.sequences, length=6, stride=6, batch_size=99, seed=[0])
    import tensorflow as tf

    batch = batch_of(trainer.sequences, part)
    drawn = sample_distinct(
        ITEMS, ITEMS, tf.random.experimental.stateless_fold_in([3, 4], 0)
    ).numpy()
    assert len(set(drawn)) == ITEMS
    items = embed(trainer.model.candidate_encoder, data.items).astype(float)
    losses_by_hand = []
    for row, inputs in enumerate(batch.inputs):
        for place in range(len(inputs)):
            cell = np.flatnonzero(batch.places == row * len(inputs) + place)
            if len(cell):
                target = batch.targets[cell[0]]
                scores = items @ (items[inputs[place:]].mean(axis=0) * 16**0.5)
                others = drawn[drawn != target]
                alpha = len(others) / (ITEMS - 1)
                beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
                losses_by_hand.append(
                    beta * np.log1p(np.exp(-scores[target]))
                    + np.log1p(np.exp(scores[others])).sum()
                )
    np.testing.assert_allclose(losses(trainer, part)[0], np.mean(losses_by_hand), rtol=1e-4)


def test_a_later_item_does_not_change_an_earlier_prediction(schema, data):
    import tensorflow as tf

    for settings in ({}, {"kind": "gru"}, {"positions": "absolute", "gated": True}):
        query = trainer_of(schema, data, settings).query
        x, known = tf.random.normal([1, 5, 16]), tf.ones([1, 5])
        seed = tf.constant([0, 0])
        before = query.layer.every(x, known, seed)
        newest = tf.one_hot([0], 5)[..., None]
        changed = query.layer.every(x + tf.random.normal([16]) * newest, known, seed)
        np.testing.assert_allclose(before[:, 1:], changed[:, 1:], atol=1e-6)
        assert np.abs(before[:, 0] - changed[:, 0]).max() > 1e-3


@pytest.mark.slow
def test_a_grown_model_answers_as_before_and_knows_the_new_film(schema, data, tmp_path):
    from dataclasses import replace

    from merlin.schema import Schema

    for settings in ({"blocks": 1}, {"kind": "decay"}):
        tower = create(schema, data, config_of(**settings), seed=1)
        fit(tower, data, TRAINING.copy(update={"epochs": 1}), right(data), tmp_path / str(settings))
        domain = {"min": 0, "max": ITEMS + OFFSET}
        larger = Schema(
            [
                column.with_properties({"domain": {**domain, "name": column.name}})
                if column.name in ("film", "seen")
                else column
                for column in schema
            ]
        )
        films = np.append(data.items["film"], [[ITEMS + OFFSET]], axis=0).astype(np.int32)
        grown = grow(tower, larger, replace(data, items={"film": films}), seed=1)
        before = embed(tower.model.query_encoder, data.users)
        np.testing.assert_allclose(embed(grown.model.query_encoder, data.users), before, atol=1e-5)
        items = embed(grown.model.candidate_encoder, {"film": films})
        old = embed(tower.model.candidate_encoder, {"film": np.append(films[:-1], [[2]], axis=0)})
        np.testing.assert_allclose(items, old, atol=1e-6)
        seen = {"seen": np.array([[ITEMS + OFFSET]], np.int32)}
        start = sequence_tower(grown.model).start.numpy()
        assert np.abs(embed(grown.model.query_encoder, seen)[0] - start).max() > 1e-6
