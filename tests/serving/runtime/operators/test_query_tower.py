"""The ONNX tower equals TensorFlow's, and reads lists in blocks."""

from __future__ import annotations

import numpy as np

from tests.serving.conftest import dirty_rows
from twotower.serving.runtime.contract import count_of


def test_tower_equals_tensorflow(world, engine):
    rows = dirty_rows(world, 500)
    # Beyond what requests may hold, the square of a vector overflows in both.
    codes = world.encode(rows.assign(spend=rows["spend"].clip(-1e9, 1e9)))
    columns = {}
    for name, values in world.arrays(codes).items():
        if name in world.lists:
            columns[count_of(name)] = (values != 0).sum(axis=1)
            values = values[values != 0]
        columns[name] = values.ravel().astype(np.float32 if name == "spend" else np.int64)
    vectors = engine.tower.run(columns)["query_vector"]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, world.tower(codes), atol=1e-5)


def test_a_tower_reads_lists_as_wide_as_a_block_of_rows_needs(monkeypatch):
    from twotower.serving.runtime.operators import query_tower

    columns = {
        "id": np.array([7, 8, 9]),
        **{"tags": np.array([1, 2, 3, 4, 5, 6]), count_of("tags"): np.array([1, 5, 0])},
    }
    monkeypatch.setattr(query_tower, "VALUES_AT_ONCE", 10)
    first, second = query_tower.padded_blocks(columns, {"id": None, "tags": None})
    assert (first["id"].tolist(), second["id"].tolist()) == ([7, 8], [9])
    assert first["tags"].tolist() == [[1, 0, 0, 0, 0], [2, 3, 4, 5, 6]]
    assert second["tags"].tolist() == [[0]]
    blocks = query_tower.padded_blocks(columns, {"tags": 6})
    assert [block["tags"].shape for block in blocks] == [(1, 6)] * 3
