"""The self-supervised task in training: its part of the loss, whom it teaches, what it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.checkerboard import CONFIG, ITEMS, TRAINING
from tests.models.objective.test_self_supervised import hides, info_nce
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.objective.config import ObjectiveConfig, SelfSupervisedConfig
from twotower.models.training.fit import fit
from twotower.models.training.model import create
from twotower.models.two_tower import embedding_tables

POSITIVES = 20  # items before this row are the ones with positives
LISTS = ["genres"]
OWN_SEED = (1 << 20) + 2  # FeatureLookup's fold of a step's seed


@pytest.fixture(scope="module")
def catalogue(schema, data):
    """(schema, data): half of the items without positives; a code, a list and a number of each."""
    from merlin.schema import ColumnSchema, Schema, Tags

    draw = np.random.default_rng(0)
    categorical, codes = [Tags.CATEGORICAL, Tags.ITEM], {"min": 0, "max": 8}
    added = [
        ColumnSchema(
            "era",
            dtype=np.int32,
            tags=categorical,
            properties={"domain": {**codes, "name": "era"}},
        ),
        ColumnSchema(
            "genres",
            dtype=np.int32,
            tags=categorical,
            is_list=True,
            is_ragged=False,
            properties={
                "domain": {**codes, "name": "genres"},
                "value_count": {"min": 4, "max": 4},
            },
        ),
        ColumnSchema("length", dtype=np.float32, tags=[Tags.CONTINUOUS, Tags.ITEM]),
    ]
    columns = {
        "era": draw.integers(3, 9, (ITEMS, 1)).astype(np.int32),
        "genres": draw.integers(3, 9, (ITEMS, 4)).astype(np.int32),
        "length": draw.uniform(1, 2, (ITEMS, 1)).astype(np.float32),
    }
    some = data.item_rows < POSITIVES
    rows = {"user_rows": data.user_rows[some], "item_rows": data.item_rows[some]}
    return schema + Schema(added), replace(data, items={**data.items, **columns}, **rows)


def lookup_of(data, views, step, objective=None):
    """The features of a training batch in step `step`."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup
    from twotower.models.objective.sampling import known_pairs

    settings = {}
    if objective is not None:
        settings["sampler"] = objective.sampler(data.positives_per_item)
        settings["known"] = known_pairs(data.user_rows, data.item_rows, ITEMS)
    hide = np.full(ITEMS, 0.3, np.float32)
    lookup = FeatureLookup(
        *(data.users, data.items, "film", hide, 0.3, 3, lambda: tf.constant(step)),
        lists=LISTS,
        views=views,
        **settings,
    )
    rows = {"user_row": data.user_rows[:32], "item_row": data.item_rows[:32]}
    return lookup({name: tf.constant(value) for name, value in rows.items()}, training=True)


@pytest.mark.parametrize("masking", ["correlated", "random"])
def test_the_views_of_a_step_never_show_the_same_feature(catalogue, masking):
    import tensorflow as tf

    from twotower.models.objective.self_supervised import correlated_sets, item_views

    data = catalogue[1]
    views, seen = item_views(SelfSupervisedConfig(masking=masking, items=30), data.items), []
    for step in range(12):
        features = lookup_of(data, views, step)
        drawn = features["_viewed"].numpy()
        given = {name: tf.constant(values[drawn]) for name, values in data.items.items()}
        halves = {name: tf.split(features[f"_view:{name}"], 2) for name in given}
        first, second = (
            hides({name: halves[name][which] for name in given}, given) for which in (0, 1)
        )
        assert second == [not hidden for hidden in first]
        seen.append((tuple(first), tuple(drawn)))
    hidden, rows = zip(*seen, strict=True)
    if masking == "correlated":
        assert set(hidden) <= {tuple(each) for each in correlated_sets(data.items).tolist()}
    assert len(set(hidden)) > 1 and len(set(rows)) == 12
    # of 360 draws 9 are expected of each item, with or without positives
    times = np.bincount(np.concatenate(rows), minlength=ITEMS)
    assert times.min() > 0 and times.max() < 27


def test_the_batch_is_as_without_the_task(catalogue):
    from twotower.models.objective.self_supervised import item_views

    data = catalogue[1]
    plain = lookup_of(data, None, 7)
    more = lookup_of(data, item_views(SelfSupervisedConfig(), data.items), 7)
    for name, values in plain.items():
        np.testing.assert_array_equal(more[name], values, err_msg=name)
    assert set(more) - set(plain) == {"_viewed", *(f"_view:{name}" for name in data.items)}
    assert not item_views(None, data.items)


@pytest.mark.parametrize("most", [10**6, 200])
def test_a_number_tells_what_its_tenth_does(monkeypatch, most):
    """Of 4 eras the colour is a function; the length of an item is its own, and tells nothing."""
    from twotower.models.objective.self_supervised import correlated_sets

    monkeypatch.setattr("twotower.models.objective.self_supervised.MAX_COUNTED_ITEMS", most)
    draw = np.random.default_rng(2)
    era = draw.integers(3, 7, (5000, 1))
    length = draw.normal(size=(5000, 1)).astype(np.float32)
    sets = correlated_sets({"era": era, "colour": era % 2, "length": length})
    np.testing.assert_array_equal(sets[:2], [[True, True, False]] * 2)
    # a length that follows from the era is hidden with it
    sets = correlated_sets({"era": era, "colour": era % 2, "length": era + length / 10})
    np.testing.assert_array_equal(sets[[0, 2]], [[True, False, True]] * 2)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (ObjectiveConfig(), {"weight": 0.25, "temperature": 0.3}),
        (
            ObjectiveConfig(negatives="uniform", drawn=8, mask_known=True),
            {"weight": 0.75, "masking": "random", "dropout": 0.5},
        ),
    ],
)
def test_a_step_adds_the_weight_times_the_loss_of_its_views(
    catalogue, monkeypatch, objective, settings
):
    import tensorflow as tf
    from tensorflow.random.experimental import stateless_fold_in, stateless_split

    from twotower.models.objective.self_supervised import correlated_sets, item_views, two_views

    schema, data = catalogue
    task = SelfSupervisedConfig(items=24, **settings)
    config = CONFIG.copy(update={"self_supervised": task, "objective": objective})
    model = create(schema, data, config, seed=1).model
    features = lookup_of(data, item_views(task, data.items, LISTS), 4, objective)
    loss = float(model(features, training=True).outputs)
    with monkeypatch.context() as patch:
        patch.setattr(model.last, "added", None)
        retrieval = float(model(features, training=True).outputs)

    seed = stateless_fold_in(stateless_fold_in([3, 0], 4), OWN_SEED)
    of_rows, of_views = tf.unstack(stateless_split(seed, 2))
    rows = tf.random.stateless_uniform([24], of_rows, 0, ITEMS, tf.int32).numpy()
    assert len(set(rows)) < 24, "an item drawn twice is no negative of itself"
    given = {name: tf.constant(values[rows]) for name, values in data.items.items()}
    sets = correlated_sets(data.items) if task.masking == "correlated" else None
    views = two_views(given, sets, of_views, dropout=task.dropout, lists=LISTS)
    vectors = (model.candidate_encoder(view).numpy().astype(np.float64) for view in views)
    expected = info_nce(*vectors, task.temperature, rows)
    assert expected > 0.5
    assert loss - retrieval == pytest.approx(task.weight * expected, rel=1e-4)


def fitted(catalogue, config, epochs, folder):
    """The item ids' embeddings [codes, dim] before and after."""
    schema, data = catalogue
    tower = create(schema, data, config, seed=1)
    table = embedding_tables(tower.model)["film"].table.embeddings
    before = table.numpy()
    training = TRAINING.copy(update={"epochs": epochs})
    # Every epoch is the best so far.
    fit(tower, data, training, lambda m: {"ndcg@10": float(m.optimizer.iterations)}, folder)
    return before, table.numpy()


@pytest.mark.slow
def test_items_without_positives_learn_and_training_goes_on_as_if_not_stopped(catalogue, tmp_path):
    task = SelfSupervisedConfig(items=64)
    config = CONFIG.copy(update={"self_supervised": task, "hidden": [16], "dropout": 0.3})
    before, after = fitted(catalogue, config, 2, tmp_path / "at once")
    moved = np.abs(after - before).max(axis=1)
    # Padding and null are no item's code.
    assert (moved[:2] == 0).all() and moved[3:].min() > 1e-3
    fitted(catalogue, config, 1, tmp_path / "state")
    _, again = fitted(catalogue, config, 2, tmp_path / "state")
    np.testing.assert_array_equal(again, after)


def test_a_table_of_ids_alone_is_refused(schema, data, tmp_path):
    tower = create(schema, data, CONFIG.copy(update={"self_supervised": SelfSupervisedConfig()}), 1)
    with pytest.raises(ModelError, match=r"there is only film; add one to features\.item,"):
        fit(tower, data, TRAINING, lambda model: {}, tmp_path)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"self_supervised": {"weight": 0}}, "greater than 0"),
        ({"self_supervised": {"masking": "half"}}, "unexpected value"),
        (
            {"self_supervised": {}, "embedding_l2": 1e-5},
            "set embedding_l2 to 0 or remove self_supervised",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(**values)
