"""The benchmark of the item index on a small catalogue, alone and by a real Triton."""

from __future__ import annotations

import pytest

from benchmarks.scale.index import measure_index, measure_served_index


def test_an_index_is_measured(tmp_path):
    found = measure_index(3_000, 16, tmp_path / "work")
    assert found["recall@100"] >= 0.95
    assert 0 < found["memory over float vectors"] < 1
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_triton_answers_as_the_index_itself(tmp_path):
    found = measure_served_index(5_000, tmp_path / "work")
    assert found["equal to the index directly"] == found["answers"] == 350
