"""What tests of several modules compare with."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


class Table:
    """Scores written down beforehand."""

    def __init__(self, scores):
        self.scores = np.asarray(scores)

    def score(self, users):
        return self.scores[users]


def matrix(rows: list[set[int]], n_items: int) -> csr_matrix:
    dense = np.zeros((len(rows), n_items), dtype=bool)
    for row, items in zip(dense, rows, strict=True):
        row[list(items)] = True
    return csr_matrix(dense)


def differences(of, values, step=1e-6):
    """Central differences of the scalar `of` at a float64 array."""
    slopes = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        up, down = values.copy(), values.copy()
        up[place] += step
        down[place] -= step
        slopes[place] = (of(up) - of(down)) / (2 * step)
    return slopes
