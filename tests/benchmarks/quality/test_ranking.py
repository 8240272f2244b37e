"""The ranking benchmark on tiny data, and the present metrics of ML-1M beside the reference."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.ranking import SyntheticData, compare_with_reference, measure

TINY = SyntheticData(
    name="tiny",
    users=60,
    items=40,
    interactions=900,
    baselines=("popularity",),
    ranked_users=30,
)


def test_the_parts_of_synthetic_data_are_disjoint_and_reproducible():
    train, seen, test = TINY.parts()
    assert train.shape == seen.shape == test.shape == (60, 40)
    assert not seen.multiply(test).nnz and train.multiply(seen).nnz == train.nnz
    assert seen.nnz == (seen.nnz + test.nnz) * 9 // 10
    for one, again in zip((train, seen, test), TINY.parts(), strict=True):
        assert not (one != again).nnz


def test_figures_and_messages_of_a_measurement():
    messages = []
    row = measure(TINY, messages.append)
    _, _, test = TINY.parts()
    users = int(np.count_nonzero(np.diff(test.indptr)))
    assert row["popularity"]["users ranked"] == users
    assert 0 < row["towers"]["users ranked"] <= 30
    assert row["towers"]["times faiss.knn"] > 0
    assert len(messages) == 2


@pytest.mark.slow
def test_the_metrics_of_movielens_1m_equal_the_reference_to_the_last_digit(data_dir):
    split = data_dir / "ml-1m" / "recbole_split.parquet"
    found = compare_with_reference(split, lambda message: None)
    assert found["compared"] == 5 * 30
    assert found["differing"] == {}
