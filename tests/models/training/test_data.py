"""Training data that stays on disk."""

from __future__ import annotations

import numpy as np


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
