"""Item vectors in clusters, and query vectors beside them, as trained towers have them."""

from __future__ import annotations

import numpy as np


def clustered(items: int, dim: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return item vectors float32 [items, dim] and query vectors [queries, dim], of length 1."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(8, items // 100), dim))
    own = centres[draw.integers(0, len(centres), items + queries)]
    vectors = (own + 0.6 * draw.normal(size=own.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:items], vectors[items:]
