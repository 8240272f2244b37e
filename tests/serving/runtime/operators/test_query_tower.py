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
        "id": np.array([7, 8, 9, 10]),
        **{"tags": np.arange(1, 9), count_of("tags"): np.array([1, 5, 0, 2])},
    }
    blocks = []

    def compute(block):
        blocks.append(block)
        return np.stack([block["id"] * 2.0, block["tags"].sum(axis=1)], axis=1)

    monkeypatch.setattr(query_tower, "VALUES_AT_ONCE", 10)
    vectors = query_tower.in_blocks(columns, {"id": None, "tags": None}, compute)
    # The rows with the longest lists come first, so the second block is not as wide as the first.
    assert [block["id"].tolist() for block in blocks] == [[8, 10], [7, 9]]
    assert blocks[0]["tags"].tolist() == [[2, 3, 4, 5, 6], [7, 8, 0, 0, 0]]
    assert blocks[1]["tags"].tolist() == [[1], [0]]
    # The vectors are in the order of the rows.
    assert vectors.tolist() == [[14, 1], [16, 20], [18, 0], [20, 15]]
    blocks.clear()
    fixed = query_tower.in_blocks(columns, {"id": None, "tags": 6}, compute)
    assert [block["tags"].shape for block in blocks] == [(1, 6)] * 4
    assert fixed.tolist() == vectors.tolist()
