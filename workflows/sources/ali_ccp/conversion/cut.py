"""Order lists by their weights and cut them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower.workflows.sources.ali_ccp.compiled import compiled
from twotower.workflows.sources.ali_ccp.conversion.columns import lists

_PLACE = np.uint64(2**32 - 1)
_SIGN = np.uint32(2**31)


@compiled
def _cut(features, weights, falling, ends, length, kept_features, kept_weights):
    start = kept = 0
    for end in ends:
        size = end - start
        keys = np.empty(size, dtype=np.uint64)
        for place in range(size):
            keys[place] = (np.uint64(falling[start + place]) << np.uint64(32)) | np.uint64(place)
        keys.sort()
        ordered = np.empty(size, dtype=np.int64)
        values = np.empty(size, dtype=np.float32)
        for place in range(size):
            at = start + np.int64(keys[place] & _PLACE)
            ordered[place], values[place] = features[at], weights[at]
        first = 0
        for place in range(1, size + 1):
            if place == size or values[place] != values[first]:
                if place - first > 1:
                    ordered[first:place].sort()
                if place >= length:
                    break
                first = place
        for place in range(min(size, length)):
            kept_features[kept], kept_weights[kept] = ordered[place], values[place]
            kept += 1
        start = end


def cut_lists(features: pa.Array, weights: pa.Array, length: int) -> tuple[pa.Array, pa.Array]:
    """Order lists by their weights, descending, then by feature; keep the first `length`.

    Parameters
    ----------
    features, weights : ListArray, shape (n,)
    length : int

    Returns
    -------
    features, weights : ListArray, shape (n,)
    """
    sizes = features.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    kept = np.minimum(sizes, length)
    kept_features = np.empty(kept.sum(), dtype=np.int64)
    kept_weights = np.empty(kept.sum(), dtype=np.float32)
    flat, heavy = features.flatten().to_numpy(), weights.flatten().to_numpy()
    bits = heavy.view(np.uint32)
    falling = np.where(bits & _SIGN, bits, ~(bits | _SIGN))  # when the weight rises
    _cut(flat, heavy, falling, np.cumsum(sizes), length, kept_features, kept_weights)
    return lists(kept, kept_features), lists(kept, kept_weights)
