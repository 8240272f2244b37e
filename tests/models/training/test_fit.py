"""Fitting: early stopping, interruption, determinism, and patterns that are learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tests.models.checkerboard import CONFIG, ITEMS, TRAINING, USERS, own_colour, vectors
from tests.models.interruption import Killed, fit_until
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import Popularity
from twotower.models.evaluation.metrics import evaluate
from twotower.models.training.fit import fit
from twotower.models.training.model import create
from twotower.models.training.saving import load, load_tower, save
from twotower.models.two_tower import TowerScorer, embed


@pytest.fixture(scope="module")
def fitted(schema, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    tower = create(schema, data, CONFIG, seed=1)
    history = fit(tower, data, TRAINING, own_colour(data), out / "state")
    save(tower, out)
    return tower, history, out


def test_a_planted_pattern_is_learnt(fitted):
    _, history, _ = fitted
    assert history["loss"][-1] < history["loss"][0]
    assert max(history["val_ndcg@10"]) > 0.98


def interrupted(tower, data, config, folder, steps):
    """Fit until `steps` steps are done, as a process that then ends."""
    import tensorflow as tf

    fit_until(steps, tower, data, config, own_colour(data), folder)
    tf.keras.backend.clear_session()


STEPS = 9  # per epoch


@pytest.mark.parametrize(
    ("optimizer", "average", "moments", "changes"),
    [
        # Within an epoch, and twice within a later one.
        ("lazy_adam", 0.5, [4, 2 * STEPS + 3, 2 * STEPS + 5], {}),
        # At the end of one.
        pytest.param("lazy_adam", 0.5, [STEPS], {}, marks=pytest.mark.slow),
        pytest.param(
            "adam",
            None,
            [STEPS + 1],
            {"objective": {"negatives": "cross_batch", "drawn": 100}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "adagrad",
            None,
            [STEPS + 1],
            {"learn_temperature": True, "logq_estimate": "streaming"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "rowwise_adagrad",
            None,
            [STEPS + 1],
            {"objective": {"loss": "bpr", "negatives": "mined"}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    schema, data, tmp_path, optimizer, average, moments, changes
):
    assert len(data.user_rows) // TRAINING.batch_size == STEPS
    settings = {"epochs": 3, "optimizer": optimizer, "checkpoint_seconds": 1e-9, "warmup": 12}
    config = TRAINING.copy(update={**settings, "average": average})
    hidden = TwoTowerConfig(dim=8, hidden=[16], dropout=0.3, **changes)
    whole = create(schema, data, hidden, seed=1)
    expected = fit(whole, data, config, own_colour(data), tmp_path / "whole")
    for at in moments:
        interrupted(create(schema, data, hidden, seed=1), data, config, tmp_path / "state", at)
    tower = create(schema, data, hidden, seed=1)
    history = fit(tower, data, config, own_colour(data), tmp_path / "state")
    assert history["val_ndcg@10"] == expected["val_ndcg@10"]
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for ours, theirs in zip(vectors(tower.model, data), vectors(whole.model, data), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_resuming_with_more_epochs_equals_one_longer_training(schema, data, tmp_path):
    def fitted_for(epochs, folder):
        tower = create(schema, data, CONFIG, seed=1)
        config = TRAINING.copy(update={"epochs": epochs})
        fit(tower, data, config, own_colour(data), tmp_path / folder)
        return vectors(tower.model, data)[0]

    fitted_for(2, "state")
    np.testing.assert_array_equal(fitted_for(5, "state"), fitted_for(5, "at once"))


def test_a_finished_fit_is_not_repeated(fitted, data):
    tower, history, out = fitted
    state = out / "state"
    assert fit(tower, data, TRAINING, lambda model: 1 / 0, state) == history


def test_a_damaged_state_says_which_folder_to_remove(schema, data, tmp_path):
    config = TRAINING.copy(update={"epochs": 1})
    fit(create(schema, data, CONFIG, seed=1), data, config, own_colour(data), tmp_path)
    for file in (tmp_path / "state").glob("*.data*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match=f"{tmp_path}.*damaged or of another model; remove"):
        fit(create(schema, data, CONFIG, seed=1), data, config, own_colour(data), tmp_path)


def test_the_best_epoch_is_kept_and_patience_ends_the_fit(schema, data, tmp_path):
    scores = iter([0.2, 0.9, 0.3, 0.4, 0.5])
    seen = []

    def validate(model):
        seen.append(vectors(model, data)[0])
        return {"ndcg@10": next(scores)}

    tower = create(schema, data, CONFIG, seed=1)
    history = fit(tower, data, TRAINING.copy(update={"patience": 2}), validate, tmp_path)
    assert history["val_ndcg@10"] == [0.2, 0.9, 0.3, 0.4]
    np.testing.assert_array_equal(vectors(tower.model, data)[0], seen[1])


def test_averaged_weights_are_validated_and_kept_but_not_trained_on(schema, data, tmp_path):
    """The losses are those of a training without averages."""
    scores = {None: iter([1, 2]), 1.5: iter([1, 2])}
    validated = {}

    def fitted_with(average):
        def validate(model):
            validated[average] = vectors(model, data)[0]
            return {"ndcg@10": next(scores[average])}

        tower = create(schema, data, CONFIG, seed=1)
        config = TRAINING.copy(update={"epochs": 2, "average": average})
        history = fit(tower, data, config, validate, tmp_path / str(average))
        np.testing.assert_array_equal(vectors(tower.model, data)[0], validated[average])
        return history["loss"]

    assert fitted_with(1.5) == fitted_with(None)
    assert np.abs(validated[1.5] - validated[None]).max() > 1e-3


@pytest.mark.slow
def test_same_seed_same_weights(schema, data, tmp_path):
    def run(seed, name):
        tower = create(schema, data, CONFIG, seed)
        config = TRAINING.copy(update={"epochs": 2, "seed": seed})
        fit(tower, data, config, own_colour(data), tmp_path / name)
        return vectors(tower.model, data)[0]

    first = run(5, "first")
    np.testing.assert_array_equal(run(5, "again"), first)
    assert np.abs(run(6, "other") - first).max() > 1e-3


def test_interactions_outside_the_sample_are_not_mined(schema, data, tmp_path, monkeypatch):
    seen = []

    def record(data, ranks, share):
        seen.append(len(data.user_rows))
        raise Killed

    monkeypatch.setattr("twotower.models.training.fit.MinedNegatives", record)
    config = TwoTowerConfig(dim=8, objective={"loss": "bpr", "negatives": "mined"})
    sample = replace(data, user_rows=data.user_rows[:100], item_rows=data.item_rows[:100])
    tower = create(schema, data, config, seed=1)
    with pytest.raises(Killed):
        fit(tower, sample, TRAINING, own_colour(data), tmp_path, all_data=data)
    assert seen == [len(data.user_rows)]


def test_a_batch_larger_than_the_data_is_refused(schema, data, tmp_path):
    tower = create(schema, data, CONFIG, seed=1)
    config = TRAINING.copy(update={"batch_size": 10**6})
    with pytest.raises(ModelError, match="batch_size is 1000000 but there are only"):
        fit(tower, data, config, own_colour(data), tmp_path)


def test_an_unknown_monitor_names_the_measured_ones(schema, data, tmp_path):
    tower = create(schema, data, CONFIG, seed=1)
    config = TRAINING.copy(update={"monitor": "auc"})
    with pytest.raises(ModelError, match=r"'auc' is not measured; choose one of ndcg@10"):
        fit(tower, data, config, own_colour(data), tmp_path)


def test_the_l2_penalty_counts_a_user_and_an_item_of_a_batch_once(schema, data, tmp_path):
    pairs = replace(data, user_rows=np.int32([0, 0, 1]), item_rows=np.int32([5, 6, 6]))
    training = TRAINING.copy(update={"batch_size": 3, "epochs": 1, "learning_rate": 1e-9})

    def loss(l2):
        changes = {"embedding_l2": l2, "feature_dropout": 0.0, "cold_count": 1e-9}
        tower = create(schema, pairs, CONFIG.copy(update=changes), seed=1)
        for encoder, value in (
            (tower.model.query_encoder, 1.0),
            (tower.model.candidate_encoder, 2.0),
        ):
            for weight in encoder.weights:
                weight.assign(np.full(weight.shape, value))
        folder = tmp_path / str(l2)
        return fit(tower, pairs, training, lambda model: {"ndcg@10": 0.0}, folder)["loss"][0]

    users, items = 2 * CONFIG.dim * 1**2, 2 * CONFIG.dim * 2**2
    assert loss(0.01) - loss(0.0) == pytest.approx(0.01 * (users + items), rel=1e-4)


def separated_by(kind, schema, data):
    """The checkerboard without user ids, and with a column that says which items a user takes.

    number: about 1 for even users, about -1 for odd ones. list: one or two values between 3 and 6,
    even values for even users and odd values for odd ones.
    """
    from merlin.schema import ColumnSchema, Schema, Tags

    random = np.random.default_rng(4)
    even = np.arange(USERS) % 2 == 0
    if kind == "number":
        values = (np.where(even, 1, -1) + random.normal(0, 0.2, USERS)).astype(np.float32)[:, None]
        added = ColumnSchema("taste", dtype=np.float32, tags=[Tags.CONTINUOUS, Tags.USER])
    else:
        pairs = np.array([[4, 6], [6, 0], [4, 0]])
        values = pairs[random.integers(0, 3, USERS)] - np.where(even, 0, 1)[:, None]
        values = np.maximum(values, 0).astype(np.int32)
        domain = {"min": 0, "max": 6, "name": "taste"}
        added = ColumnSchema(
            "taste",
            dtype=np.int32,
            is_list=True,
            is_ragged=False,
            tags=[Tags.CATEGORICAL, Tags.USER],
            properties={"domain": domain, "value_count": {"min": 2, "max": 2}},
        )
    users = {"user": np.full((USERS, 1), 2, np.int32), "taste": values}
    return schema + Schema([added]), replace(data, users=users)


def held_out(data):
    """(relevant, seen): pairs of the right colour without the training pairs, and these."""
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0
    pairs = (np.ones(len(data.user_rows)), (data.user_rows, data.item_rows))
    seen = csr_matrix(pairs, shape=colour.shape)
    return csr_matrix(colour & ~(seen.toarray() > 0)), seen


@pytest.mark.parametrize("hidden", [[], pytest.param([16], marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["number", "list"])
def test_a_feature_that_alone_separates_users_is_learnt(kind, hidden, schema, data, tmp_path):

    schema, data = separated_by(kind, schema, data)
    relevant, seen = held_out(data)

    def precision(scorer):
        return evaluate(scorer, relevant, seen, [3]).values["precision@3"]

    def validate(model):
        return {"ndcg@10": precision(TowerScorer.of(model, data.users, data.items))}

    tower = create(schema, data, CONFIG.copy(update={"hidden": hidden}), seed=1)
    history = fit(tower, data, TRAINING, validate, tmp_path / "state")
    assert precision(Popularity().fit(seen)) < 0.7
    assert max(history["val_ndcg@10"]) > 0.95

    save(tower, tmp_path)
    ours = vectors(tower.model, data)
    for array, again in zip(ours, vectors(load(tmp_path).model, data), strict=True):
        np.testing.assert_array_equal(array, again)
    saved = load_tower(tmp_path / "query_tower")
    np.testing.assert_allclose(embed(saved, data.users), ours[0], atol=1e-6)
