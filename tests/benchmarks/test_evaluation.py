"""The ranking benchmark on a tiny world, and today's metrics of ML-1M beside the reference."""

from __future__ import annotations

import numpy as np

from benchmarks.evaluation import World, compare_with_reference, measure

TINY = World("tiny", users=60, items=40, interactions=900, baselines=("popularity",), timed=30)


def test_the_parts_of_a_made_up_world_are_disjoint_and_always_the_same():
    train, seen, test = TINY.parts()
    assert train.shape == seen.shape == test.shape == (60, 40)
    assert not seen.multiply(test).nnz and train.multiply(seen).nnz == train.nnz
    assert seen.nnz == (seen.nnz + test.nnz) * 9 // 10
    for one, again in zip((train, seen, test), TINY.parts(), strict=True):
        assert not (one != again).nnz


def test_what_is_measured_is_named():
    told = []
    row = measure(TINY, told.append)
    _, _, test = TINY.parts()
    users = int(np.count_nonzero(np.diff(test.indptr)))
    assert row["popularity"]["users ranked"] == users
    assert 0 < row["towers"]["users ranked"] <= 30
    assert row["towers"]["times faiss.knn"] > 0
    assert len(told) == 2


def test_movielens_1m_is_ranked_to_the_last_digit_as_before(data_dir):
    split = data_dir / "ml-1m" / "recbole_split.parquet"
    found = compare_with_reference(split, lambda text: None)
    assert found["compared"] == 5 * 30
    assert found["differing"] == {}
