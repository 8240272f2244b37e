"""A training result with known figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.training.process import TrainingResult


@pytest.fixture(scope="session")
def trained() -> Callable[[float], TrainingResult]:
    """A function that makes a result of a given speed in rows/s."""
    return _trained


def _trained(rows_per_s: float) -> TrainingResult:
    """Three epochs of 1,000 rows; the first one has 7 s of warm-up."""
    seconds = 1_000 / rows_per_s
    return TrainingResult(
        rows=1_000,
        seconds=[seconds + 7, seconds, seconds],
        losses=[3.0, 2.0, 1.0],
        scores=[],
        baseline_gb=0.7,
        peak_gb=1.5,
        tables_gb=0.01,
    )
