"""A small world with tastes, which the solutions in closed form are compared on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix


@pytest.fixture(scope="module")
def train() -> csr_matrix:
    draw = np.random.default_rng(0)
    taste, kind = draw.normal(size=(50, 3)), draw.normal(size=(12, 3))
    return csr_matrix(taste @ kind.T + draw.normal(size=(50, 12)) > 0.7)
