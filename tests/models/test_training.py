"""Fit, early stopping on the catalogue, save, reload, continue, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from models.baselines import Popularity
from models.errors import ModelError
from models.evaluation import evaluate
from models.training import TrainingConfig, TrainingData, create, fit, load, save
from models.two_tower import TowerScorer, TwoTowerConfig, embed

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
    history = fit(tower, data, TRAINING, own_colour(data), out)
    save(tower, history, out)
    return tower, history, out


def test_a_planted_pattern_is_learnt(fitted):
    _, history, _ = fitted
    assert history["loss"][-1] < history["loss"][0]
    assert max(history["val_ndcg@10"]) > 0.98


def test_reloaded_predicts_the_same(fitted, data):
    tower, _, out = fitted
    reloaded = load(out, TRAINING)
    for ours, theirs in zip(vectors(reloaded.model, data), vectors(tower.model, data), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_saved_towers_predict_the_same(fitted, data):
    import tensorflow as tf

    tower, _, out = fitted
    users, items = vectors(tower.model, data)
    for name, features, expected in (
        ("query_tower", data.users, users),
        ("candidate_tower", data.items, items),
    ):
        saved = tf.keras.models.load_model(str(out / name), compile=False)
        np.testing.assert_allclose(embed(saved, features), expected, atol=1e-6)


def test_continuing_goes_on_from_the_saved_state(fitted, data, tmp_path):
    _, history, out = fitted
    reloaded = load(out, TRAINING)
    more = fit(reloaded, data, TRAINING.copy(update={"epochs": 1}), own_colour(data), tmp_path)
    assert more["loss"][:-1] == history["loss"], "the history goes on"
    assert more["loss"][-1] < history["loss"][1], "a fresh model would start at its first loss"
    assert int(reloaded.model.optimizer.iterations) > len(data.user_rows) // TRAINING.batch_size


def test_continuing_never_replaces_a_model_by_a_worse_one(fitted, data, tmp_path):
    _, _, out = fitted
    reloaded = load(out, TRAINING)
    before = vectors(reloaded.model, data)[0]
    scores = iter([0.9, 0.5, 0.4])  # as loaded, then after each epoch
    config = TRAINING.copy(update={"epochs": 2})
    fit(reloaded, data, config, lambda model: {"ndcg@10": next(scores)}, tmp_path)
    np.testing.assert_array_equal(vectors(reloaded.model, data)[0], before)


def test_another_optimizer_cannot_go_on(fitted):
    _, _, out = fitted
    adagrad = TRAINING.copy(update={"optimizer": "adagrad"})
    with pytest.raises(ModelError, match=r"does not fit training\.optimizer=adagrad"):
        load(out, adagrad)


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
    def run(seed):
        tower = create(schema, data, CONFIG, seed)
        config = TRAINING.copy(update={"epochs": 2, "seed": seed})
        fit(tower, data, config, own_colour(data), tmp_path)
        return vectors(tower.model, data)[0]

    first = run(5)
    np.testing.assert_array_equal(run(5), first)
    assert np.abs(run(6) - first).max() > 1e-3


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
        load(tmp_path, TRAINING)


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


def held_out(data):
    """(relevant, seen): of a user's colour what is not trained on, and what is."""
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0
    pairs = (np.ones(len(data.user_rows)), (data.user_rows, data.item_rows))
    seen = csr_matrix(pairs, shape=colour.shape)
    return csr_matrix(colour & ~(seen.toarray() > 0)), seen


@pytest.mark.parametrize("hidden", [[], [16]])
@pytest.mark.parametrize("kind", ["number", "list"])
def test_a_feature_that_alone_tells_users_apart_is_learnt(kind, hidden, schema, data, tmp_path):
    import tensorflow as tf

    schema, data = told_apart_by(kind, schema, data)
    relevant, seen = held_out(data)

    def precision(scorer):
        return evaluate(scorer, relevant, seen, [3]).values["precision@3"]

    def validate(model):
        return {"ndcg@10": precision(TowerScorer.of(model, data.users, data.items))}

    tower = create(schema, data, CONFIG.copy(update={"hidden": hidden}), seed=1)
    history = fit(tower, data, TRAINING, validate, tmp_path)
    assert precision(Popularity().fit(seen)) < 0.7
    assert max(history["val_ndcg@10"]) > 0.95

    save(tower, history, tmp_path)
    ours = vectors(tower.model, data)
    for array, again in zip(ours, vectors(load(tmp_path, TRAINING).model, data), strict=True):
        np.testing.assert_array_equal(array, again)
    saved = tf.keras.models.load_model(str(tmp_path / "query_tower"), compile=False)
    np.testing.assert_allclose(embed(saved, data.users), ours[0], atol=1e-6)
