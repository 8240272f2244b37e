"""Batches: each epoch is a permutation, any step can be recomputed, lists are looked up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.checkerboard import ITEMS, TRAINING, USERS
from twotower.models.config import TwoTowerConfig
from twotower.models.training.fit import fit
from twotower.models.training.model import create

ROWS = np.arange(103, dtype=np.int32)
COLUMNS = {"user_row": ROWS, "item_row": ROWS * 1000}


def take(steps, batch_size=10, seed=7, first_step=0):
    """The user rows of some steps; the item rows must be 1000 times as large."""
    from twotower.models.training.batches import shuffled_batches

    batches = shuffled_batches(COLUMNS, batch_size, seed, first_step)
    taken = list(batches.take(steps).as_numpy_iterator())
    for rows in taken:
        np.testing.assert_array_equal(rows["item_row"], rows["user_row"] * 1000)
    return [rows["user_row"] for rows in taken]


def test_an_epoch_holds_every_row_at_most_once_and_drops_less_than_a_batch():
    steps = take(30)
    for epoch in range(3):
        rows = np.concatenate(steps[10 * epoch : 10 * epoch + 10])
        assert len(np.unique(rows)) == 100
    assert {len(rows) for rows in steps} == {10}


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [np.concatenate(take(10, first_step=first)) for first in (0, 10)]
    orders.append(np.concatenate(take(10, seed=8)))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (orders[one] != orders[other]).mean() > 0.9
    assert abs(np.corrcoef(orders[0], np.arange(100))[0, 1]) < 0.3


def test_a_step_depends_only_on_its_number():
    whole = take(25)
    for ours, known in zip(take(8, first_step=17), whole[17:], strict=True):
        np.testing.assert_array_equal(ours, known)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("n", [60, 61, 103])
@pytest.mark.parametrize("order", ["shuffled", "by_user"])
def test_workers_train_on_every_positive_once_per_epoch_in_equally_many_steps(workers, n, order):
    """A step of all workers begins as the batch of one process with as many positives."""
    from twotower.models.batch_keys import WEIGHT
    from twotower.models.training.batches import count_steps, shuffled_batches

    columns = {"user_row": ROWS[:n] // 5, "item_row": ROWS[:n]}
    steps = count_steps(n, 10, workers)
    assert steps == -(-n // (10 * workers))

    def epoch(batch_size, steps, **place):
        batches = shuffled_batches(columns, batch_size, 7, steps, order, **place)
        return list(batches.take(steps).as_numpy_iterator())

    parts = [epoch(10, steps, worker=worker, workers=workers) for worker in range(workers)]
    together = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][0]}
        for step in range(steps)
    ]
    weight = [batch.get(WEIGHT, np.ones(10 * workers)) for batch in together]
    trained = [batch["item_row"][own == 1] for batch, own in zip(together, weight, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(trained)), ROWS[:n])
    assert set(np.concatenate(weight)) <= {0, 1}
    alone = epoch(10 * workers, n // (10 * workers))
    for ours, expected in zip(trained, alone):  # noqa: B905 - one process drops the last
        np.testing.assert_array_equal(ours, expected["item_row"])


def test_weights_of_positives_are_kept_where_batches_are_filled_up():
    from twotower.models.batch_keys import WEIGHT
    from twotower.models.training.batches import shuffled_batches

    weights = np.linspace(0.5, 1.5, 23).astype(np.float32)
    columns = {"user_row": ROWS[:23], "item_row": ROWS[:23], WEIGHT: weights}
    for worker in range(2):
        batches = shuffled_batches(columns, 5, 7, worker=worker, workers=2)
        for batch in batches.take(2).as_numpy_iterator():
            np.testing.assert_array_equal(batch[WEIGHT], weights[batch["item_row"]])
    last = next(shuffled_batches(columns, 5, 7, 2, worker=0, workers=2).as_numpy_iterator())
    expected = np.where(np.arange(5) < 3, weights[last["item_row"]], 0)
    np.testing.assert_array_equal(last[WEIGHT], expected)


def test_by_user_the_positives_of_a_user_are_side_by_side_and_users_are_shuffled():
    from twotower.models.training.batches import shuffled_batches

    users = np.random.default_rng(0).integers(0, 12, 100).astype(np.int32)
    columns = {"user_row": users, "item_row": np.arange(100, dtype=np.int32)}

    def epoch(number, seed=7):
        batches = shuffled_batches(columns, 10, seed, 10 * number, order="by_user")
        read = list(batches.take(10).as_numpy_iterator())
        rows = np.concatenate([each["item_row"] for each in read])
        np.testing.assert_array_equal(users[rows], np.concatenate([b["user_row"] for b in read]))
        return rows

    first = epoch(0)
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    changes = np.flatnonzero(np.diff(users[first])) + 1
    assert len(changes) == len(set(users)) - 1
    orders = [
        users[rows][[0, *(np.flatnonzero(np.diff(users[rows])) + 1)]].tolist()
        for rows in (first, epoch(1), epoch(0, seed=8))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    batches = shuffled_batches(columns, 10, 7, 4, order="by_user")
    resumed = np.concatenate([b["item_row"] for b in batches.take(6).as_numpy_iterator()])
    np.testing.assert_array_equal(resumed, first[40:])


def test_rows_of_a_file_are_those_in_memory(tmp_path):
    from twotower.models.training.batches import shuffled_batches
    from twotower.models.training.data import memory_map_rows

    np.stack([ROWS, ROWS * 1000], axis=1).tofile(tmp_path / "rows")
    columns = dict(zip(COLUMNS, memory_map_rows(tmp_path / "rows"), strict=True))
    batches = shuffled_batches(columns, 10, seed=7)
    for ours, known in zip(batches.take(12).as_numpy_iterator(), take(12), strict=True):
        np.testing.assert_array_equal(ours["user_row"], known)
        np.testing.assert_array_equal(ours["item_row"], known * 1000)


def with_lists_of_one(schema, data):
    """Add lists with at most one value: each user's latest item, and one genre per item."""
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
    """The columns that the towers get in each training step from now on."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

    seen, call = [], FeatureLookup.call

    def recorded(self, inputs, training=False):
        features = call(self, inputs, training=training)

        def record(*values):
            seen.append(dict(zip(features, values, strict=True)))
            return np.int32(0)

        tf.numpy_function(record, list(features.values()), tf.int32)
        return features

    monkeypatch.setattr(FeatureLookup, "call", recorded)
    return seen


def test_a_list_of_one_value_is_a_list(schema, data, batches, tmp_path):
    """No history contains the target; dropout hides other items at its own rate, genres never."""
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
    assert (histories == 0).sum() > 50, "the target is removed"
    assert (histories == 2).mean() == pytest.approx(0.4, abs=0.02)
    assert (users == 2).mean() == pytest.approx(0.2, abs=0.02)
    assert genres.min() == 3
    # Half of the views hide the genres; the others drop half of the values.
    assert (viewed == 2).mean() == pytest.approx(0.75, abs=0.03)
