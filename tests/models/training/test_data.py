"""Training data that stays on disk, and the users' sequences."""

from __future__ import annotations

import numpy as np
import pytest


def test_a_file_larger_than_the_memory_stays_on_disk(tmp_path):
    import psutil

    from twotower.models.training.batches import shuffled_batches
    from twotower.models.training.data import memory_map_rows

    interactions = 2 * psutil.virtual_memory().total // 8  # 8 bytes each: twice the memory
    with (tmp_path / "rows").open("wb") as file:
        file.truncate((interactions - 1) * 8)  # a hole takes no space and reads as zeros
        file.seek(0, 2)
        file.write(np.array([3, 5], np.int32).tobytes())
    users, items = memory_map_rows(tmp_path / "rows")
    assert (len(users), users[-1], items[-1]) == (interactions, 3, 5)
    before = psutil.Process().memory_info().rss
    batches = shuffled_batches({"user_row": users, "item_row": items}, 4096, seed=1)
    for batch in batches.take(10).as_numpy_iterator():
        assert batch["user_row"].shape == (4096,)
    assert psutil.Process().memory_info().rss - before < 1 << 30


def test_sequences_are_in_the_order_of_time_also_of_a_sample():
    from twotower.models.training.data import TrainingData

    random = np.random.default_rng(0)
    sizes = np.array([4, 0, 7, 1])
    items = random.integers(0, 50, sizes.sum())
    users = np.repeat(np.arange(4), sizes)
    positions = np.concatenate([np.arange(size) for size in sizes])
    shuffled = random.permutation(sizes.sum())
    data = TrainingData(
        users={"user": np.zeros((4, 1), np.int32)},
        items={"item": np.zeros((50, 1), np.int32)},
        user_rows=users[shuffled].astype(np.int32),
        item_rows=items[shuffled].astype(np.int32),
        positions=positions[shuffled].astype(np.int32),
    )
    found, offsets = data.sequences()
    assert found.tolist() == items.tolist() and offsets.tolist() == [0, 4, 4, 11, 12]
    kept = random.permutation(12)[:6]
    found, offsets = data.take(kept).sequences()
    rows = np.sort(shuffled[kept])  # rows of the ordered arrays
    assert found.tolist() == items[rows].tolist()
    assert np.diff(offsets).tolist() == np.bincount(users[rows], minlength=4).tolist()


def test_positives_without_an_order_have_no_sequences():
    from twotower.models.errors import ModelError
    from twotower.models.training.data import TrainingData

    data = TrainingData(users={}, items={}, user_rows=np.zeros(1), item_rows=np.zeros(1))
    with pytest.raises(ModelError, match=r"set features\.history"):
        data.sequences()
