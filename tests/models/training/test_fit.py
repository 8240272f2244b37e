"""Fit, early stopping on the catalogue, interruption, save, reload, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import Popularity
from twotower.models.evaluation.metrics import evaluate
from twotower.models.training.fit import (
    TrainingConfig,
    TrainingData,
    create,
    fit,
    load,
    load_tower,
    save,
)
from twotower.models.two_tower import TowerScorer, embed

USERS, ITEMS = 60, 40
CONFIG = TwoTowerConfig(dim=8)
TRAINING = TrainingConfig(
    batch_size=64, epochs=12, patience=12, learning_rate=0.05, learning_rate_decay=1.0
)


@pytest.fixture(scope="module")
def schema():
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, cardinality, *tags):
        domain = {"min": 0, "max": cardinality - 1, "name": name}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(name, dtype=np.int32, tags=tags, properties={"domain": domain})

    return Schema(
        [
            column("user", USERS + 3, Tags.USER_ID, Tags.USER),
            column("film", ITEMS + 3, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """A checkerboard: even users take even items, odd users odd ones; half the pairs."""
    random = np.random.default_rng(0)
    users, items = np.meshgrid(np.arange(USERS), np.arange(ITEMS), indexing="ij")
    taken = ((users + items) % 2 == 0) & (random.random((USERS, ITEMS)) < 0.5)
    rows = np.argwhere(taken)[random.permutation(taken.sum())]
    return TrainingData(
        {"user": np.arange(3, USERS + 3, dtype=np.int32)[:, None]},
        {"film": np.arange(3, ITEMS + 3, dtype=np.int32)[:, None]},
        rows[:, 0].astype(np.int32),
        rows[:, 1].astype(np.int32),
    )


def vectors(model, data):
    return embed(model.query_encoder, data.users), embed(model.candidate_encoder, data.items)


def own_colour(data):
    """Validation metric: share of the catalogue's pairs that the sign of the score gets right."""
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0

    def validate(model):
        users, items = vectors(model, data)
        scores = users @ items.T
        return {"ndcg@10": float(((scores > np.median(scores)) == colour).mean())}

    return validate


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


def test_reloaded_predicts_the_same(fitted, data):
    tower, _, out = fitted
    reloaded = load(out)
    for ours, theirs in zip(vectors(reloaded.model, data), vectors(tower.model, data), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_saved_towers_predict_the_same(fitted, data):
    tower, _, out = fitted
    users, items = vectors(tower.model, data)
    for name, features, expected in (
        ("query_tower", data.users, users),
        ("candidate_tower", data.items, items),
    ):
        np.testing.assert_allclose(embed(load_tower(out / name), features), expected, atol=1e-6)


class Killed(Exception):
    """Stands for whatever ends a process in the middle of a fit."""


def interrupted(tower, data, config, folder, steps):
    """Fit until `steps` steps are done, then die at once."""
    import tensorflow as tf

    def kill_at(step, *_):
        if step == steps:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        # Every step is told, not four a second.
        patch.setattr("twotower.models.training.callbacks.TOLD_EVERY", 0.0)
        with pytest.raises(Killed):
            fit(tower, data, config, own_colour(data), folder, progress=kill_at)
    tf.keras.backend.clear_session()


STEPS = 9  # of an epoch


@pytest.mark.parametrize(
    ("optimizer", "moments", "changes"),
    [
        # Within an epoch, at the end of one, within the same epoch as before.
        ("lazy_adam", [4, STEPS, 2 * STEPS + 3, 2 * STEPS + 5], {}),
        ("adam", [STEPS + 1], {"objective": {"negatives": "cross_batch", "drawn": 100}}),
        ("adagrad", [STEPS + 1], {"learn_temperature": True, "logq_estimate": "streaming"}),
        ("rowwise_adagrad", [STEPS + 1], {"objective": {"loss": "bpr", "negatives": "mined"}}),
    ],
)
def test_interrupted_anywhere_it_ends_as_if_it_had_not_been(
    schema, data, tmp_path, optimizer, moments, changes
):
    assert len(data.user_rows) // TRAINING.batch_size == STEPS
    settings = {"epochs": 3, "optimizer": optimizer, "checkpoint_seconds": 1e-9, "warmup": 12}
    config = TRAINING.copy(update=settings)
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


def test_more_epochs_go_on_as_if_there_had_been_as_many_at_once(schema, data, tmp_path):
    def fitted_for(epochs, folder):
        tower = create(schema, data, CONFIG, seed=1)
        config = TRAINING.copy(update={"epochs": epochs})
        fit(tower, data, config, own_colour(data), tmp_path / folder)
        return vectors(tower.model, data)[0]

    fitted_for(2, "state")
    np.testing.assert_array_equal(fitted_for(5, "state"), fitted_for(5, "at once"))


def test_a_finished_fit_is_not_begun_again(fitted, data):
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


def test_same_seed_same_weights(schema, data, tmp_path):
    def run(seed, name):
        tower = create(schema, data, CONFIG, seed)
        config = TRAINING.copy(update={"epochs": 2, "seed": seed})
        fit(tower, data, config, own_colour(data), tmp_path / name)
        return vectors(tower.model, data)[0]

    first = run(5, "first")
    np.testing.assert_array_equal(run(5, "again"), first)
    assert np.abs(run(6, "other") - first).max() > 1e-3


def test_the_learning_rate_rises_in_the_warm_up_and_falls_with_the_epochs():
    """Epochs of 3 steps, a warm-up of 4; the second epoch is gone on with after its first step."""
    import tensorflow as tf

    from twotower.models.training.callbacks import LearningRate

    model = tf.keras.Sequential()
    model.optimizer = tf.keras.optimizers.Adam()
    callback = LearningRate(0.8, 0.5, warmup=4)
    callback.set_model(model)
    rates = []
    for epoch, batches in ((0, 3), (1, 1), (1, 2)):
        callback.on_epoch_begin(epoch)
        for batch in range(batches):
            callback.on_train_batch_begin(batch)
            rates.append(float(model.optimizer.learning_rate))
            model.optimizer.iterations.assign_add(1)
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.4, 0.4, 0.4])


def test_what_a_sample_leaves_out_is_no_negative(schema, data, tmp_path, monkeypatch):
    seen = []

    def told(users, items, user_rows, *more):
        seen.append(len(user_rows))
        raise Killed

    monkeypatch.setattr("twotower.models.training.mining.MinedNegatives", told)
    config = TwoTowerConfig(dim=8, objective={"loss": "bpr", "negatives": "mined"})
    sample = replace(data, user_rows=data.user_rows[:100], item_rows=data.item_rows[:100])
    tower = create(schema, data, config, seed=1)
    with pytest.raises(Killed):
        fit(tower, sample, TRAINING, own_colour(data), tmp_path, known=data)
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


def test_loading_a_folder_without_a_model_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="no saved model here; run `twotower train` first"):
        load(tmp_path)


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


def told_apart_by(kind, schema, data):
    """The checkerboard when no user id is known: one more column says which colour a user takes.

    number: even users about 1, odd ones about -1. list: of the values 3 to 6 even users have two of
    the even ones, or one, and odd users of the odd ones.
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


def with_lists_of_one(schema, data):
    """Each user's latest item, and one genre per item: lists that hold one value at most."""
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, cardinality, *tags):
        return ColumnSchema(
            name,
            dtype=np.int32,
            is_list=True,
            is_ragged=False,
            tags=[Tags.CATEGORICAL, *tags],
            properties={
                "domain": {"min": 0, "max": cardinality - 1, "name": name},
                "value_count": {"min": 1, "max": 1},
            },
        )

    latest = np.zeros((USERS, 1), np.int32)
    latest[data.user_rows, 0] = data.items["film"][data.item_rows, 0]
    genres = np.random.default_rng(2).integers(3, 9, (ITEMS, 1)).astype(np.int32)
    added = [column("seen", ITEMS + 3, Tags.USER, Tags.SEQUENCE), column("genres", 9, Tags.ITEM)]
    return schema + Schema(added), replace(
        data, users={**data.users, "seen": latest}, items={**data.items, "genres": genres}
    )


@pytest.fixture
def batches(monkeypatch):
    """What the towers see of each step of training from now on, by column."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

    seen, call = [], FeatureLookup.call

    def told(self, inputs, training=False):
        features = call(self, inputs, training=training)

        def tell(*values):
            seen.append(dict(zip(features, values, strict=True)))
            return np.int32(0)

        tf.numpy_function(tell, list(features.values()), tf.int32)
        return features

    monkeypatch.setattr(FeatureLookup, "call", told)
    return seen


def test_a_list_of_one_value_is_a_list(schema, data, batches, tmp_path):
    """The target is in no history, others are left out at their own rate, genres never are."""
    schema, data = with_lists_of_one(schema, data)
    settings = {"history_dropout": 0.4, "feature_dropout": 0.2, "cold_count": 1e-9}
    views = {"self_supervised": {"dropout": 0.5, "items": 64, "masking": "random"}}
    tower = create(schema, data, TwoTowerConfig(dim=8, **settings, **views), seed=1)
    fit(tower, data, TRAINING, lambda model: {"ndcg@10": 0.0}, tmp_path)
    histories, users, genres, viewed = [], [], [], []
    for batch in batches:
        history, films = batch["seen"][batch["_query_of"], 0], batch["film"][batch["_positive_of"]]
        assert (history != films[:, 0]).all()
        histories.append(batch["seen"])
        users.append(batch["user"])
        genres.append(batch["genres"])
        viewed.append(batch["_view:genres"])
    histories, users, genres, viewed = map(np.concatenate, (histories, users, genres, viewed))
    assert (histories == 0).sum() > 50, "a target's place is empty"
    assert (histories == 2).mean() == pytest.approx(0.4, abs=0.02)
    assert (users == 2).mean() == pytest.approx(0.2, abs=0.02)
    assert genres.min() == 3
    # Half of the views hide the genres; of the other half's values half are left out.
    assert (viewed == 2).mean() == pytest.approx(0.75, abs=0.03)


def held_out(data):
    """(relevant, seen): of a user's colour what is not trained on, and what is."""
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0
    pairs = (np.ones(len(data.user_rows)), (data.user_rows, data.item_rows))
    seen = csr_matrix(pairs, shape=colour.shape)
    return csr_matrix(colour & ~(seen.toarray() > 0)), seen


@pytest.mark.parametrize("hidden", [[], [16]])
@pytest.mark.parametrize("kind", ["number", "list"])
def test_a_feature_that_alone_tells_users_apart_is_learnt(kind, hidden, schema, data, tmp_path):

    schema, data = told_apart_by(kind, schema, data)
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
