"""Columns of Arrow from what the compiled parser has found."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower.workflows.sources.ali_ccp.conversion.blocks import Parsed


def numbers(values: np.ndarray) -> pa.Array:
    """Make a column of whole numbers: -1 becomes null."""
    missing = values < 0
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def lists(counts: np.ndarray, values: np.ndarray) -> pa.ListArray:
    """Make a column of lists from their lengths and values; a list without values becomes null."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    missing = np.append(counts == 0, False)
    return pa.ListArray.from_arrays(
        pa.array(offsets, mask=missing) if missing.any() else offsets, values
    )


def weights_of(name: str) -> str:
    """The name of the column with the values of a column of lists."""
    return f"{name}_weights"


def list_columns(parsed: Parsed, name: str) -> dict[str, pa.Array]:
    """Make the two columns of a field with lists, with a row per line."""
    counts = parsed.counts[name]
    return {
        name: lists(counts, parsed.features[name]),
        weights_of(name): lists(counts, parsed.weights[name]),
    }
