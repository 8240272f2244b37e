"""The data of the scale benchmark, and its evaluation on a small catalogue."""

from __future__ import annotations

import numpy as np

from benchmarks.scale import evaluation
from benchmarks.scale.training import ITEM_FEATURES, synthetic


def test_spread_interactions_have_as_many_users_items_and_features():
    sizes = {"users": 300, "items": 600, "rows": 20_000}
    (schema, small), (wide_schema, wide) = (
        synthetic(**sizes),
        synthetic(**sizes, spread=10),
    )
    assert (wide.n_users, wide.n_items) == (3000, 6000)
    for rows, wide_rows, size in (
        (small.user_rows, wide.user_rows, 300),
        (small.item_rows, wide.item_rows, 600),
    ):
        assert len(np.unique(rows)) == len(np.unique(wide_rows)) == size
    assert wide.item_rows.max() > 5000  # they are spread over the whole table
    for name, share in ITEM_FEATURES.items():
        column = wide.items[name][:, 0]
        used = column[np.unique(wide.item_rows)]
        assert len(np.unique(used)) <= int(share * 600) < len(np.unique(column))
        assert column.max() <= wide_schema[name].int_domain.max
        assert wide_schema[name].int_domain.max - 2 == 10 * (schema[name].int_domain.max - 2)


def test_the_evaluation_finds_what_faiss_finds():
    sent = []
    row = evaluation._measure(sent.append, users=600, items=3000, dim=8)
    assert row["equal ids"] > 0.99  # another order of summing may swap scores that are nearly equal
    assert (row["users"], row["items"], row["k"]) == (600, 3000, 100)
    assert row["ratio"] > 0 and sent == ["0 of 600 users"]
