"""The compiled encoding equals NVTabular's."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.serving.conftest import DIRTY, dirty_rows
from twotower.serving.runtime.arrays import expand
from twotower.serving.runtime.contract import count_of


def test_encoding_equals_nvtabular(world, engine):
    from twotower.serving.operators.user_features import UserFeatures

    rows = pd.concat([world.users, dirty_rows(world, 10_000)], ignore_index=True)
    rows = rows.astype(world.users.dtypes)
    columns = {"user_id": rows["user_id"].to_numpy()}
    stored = UserFeatures(rows.assign(user_id=range(len(rows))), "user_id", [*DIRTY], world.lists)
    for feature in stored.stored.values():
        columns.update(feature)
    encoded = engine.encoding.run(columns)
    encoded |= {name: dense(encoded, name, length) for name, length in world.lists.items()}
    expected = world.arrays(world.encode(rows))
    for name in world.users:
        codes = expected[name].reshape(encoded[name].shape)
        np.testing.assert_array_equal(encoded[name], codes, err_msg=name)
        if name != "spend":
            assert encoded[name].dtype == np.int64
            assert set(encoded[name].flat) >= {2, 3}, f"{name}: unknown and known were not both met"
    assert 1 in encoded["city"]
    assert 1 in encoded["income"]
    assert encoded["spend"].dtype == expected["spend"].dtype == np.float32
    assert len(np.unique(encoded["spend"])) > 100


def dense(columns, name, length):
    """A list column as [n, length], filled up with zeros."""
    return expand(columns[name], columns[count_of(name)], length, 0)
