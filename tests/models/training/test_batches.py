"""Shuffled batches: each epoch is a permutation, and any step can be computed anew."""

from __future__ import annotations

import numpy as np

USERS = np.arange(103, dtype=np.int32)


def take(steps, batch_size=10, seed=7, first_step=0):
    """The user rows of some steps, whose item rows are to be their thousandfold."""
    from twotower.models.training.batches import shuffled_batches

    batches = shuffled_batches(USERS, USERS * 1000, batch_size, seed, first_step)
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


def test_epochs_and_seeds_have_their_own_order():
    orders = [np.concatenate(take(10, first_step=first)) for first in (0, 10)]
    orders.append(np.concatenate(take(10, seed=8)))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (orders[one] != orders[other]).mean() > 0.9
    assert abs(np.corrcoef(orders[0], np.arange(100))[0, 1]) < 0.3


def test_a_step_follows_from_its_number():
    whole = take(25)
    for ours, known in zip(take(8, first_step=17), whole[17:], strict=True):
        np.testing.assert_array_equal(ours, known)


def test_rows_of_a_file_are_those_in_memory(tmp_path):
    from twotower.models.training.batches import shuffled_batches
    from twotower.models.training.data import memory_map_rows

    np.stack([USERS, USERS * 1000], axis=1).tofile(tmp_path / "rows")
    batches = shuffled_batches(*memory_map_rows(tmp_path / "rows"), 10, seed=7)
    for ours, known in zip(batches.take(12).as_numpy_iterator(), take(12), strict=True):
        np.testing.assert_array_equal(ours["user_row"], known)
        np.testing.assert_array_equal(ours["item_row"], known * 1000)


def test_a_file_larger_than_the_memory_stays_on_disk(tmp_path):
    import psutil

    from twotower.models.training.batches import shuffled_batches
    from twotower.models.training.data import memory_map_rows

    interactions = 2 * psutil.virtual_memory().total // 8  # of 8 bytes: twice what there is
    with (tmp_path / "rows").open("wb") as file:
        file.truncate((interactions - 1) * 8)  # a hole: takes no room, reads as zeros
        file.seek(0, 2)
        file.write(np.array([3, 5], np.int32).tobytes())
    users, items = memory_map_rows(tmp_path / "rows")
    assert (len(users), users[-1], items[-1]) == (interactions, 3, 5)
    before = psutil.Process().memory_info().rss
    for batch in shuffled_batches(users, items, 4096, seed=1).take(10).as_numpy_iterator():
        assert batch["user_row"].shape == (4096,)
    assert psutil.Process().memory_info().rss - before < 1 << 30
