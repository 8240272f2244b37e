"""Encode tables with a fitted feature graph, and turn the result into arrays of fixed width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.encoding.encoder import Encoder, first_values
from twotower.workflows.encoding.table import in_one_piece, to_arrow
from twotower.workflows.features.names import internal_name
from twotower.workflows.features.rows import typed

if TYPE_CHECKING:
    import nvtabular as nvt


def load_workflow(path: Path) -> nvt.Workflow:
    """Load a saved workflow.

    Notes
    -----
    Loading unpickles, which can execute code: check the files against the run's manifest first.
    """
    import nvtabular as nvt

    return nvt.Workflow.load(str(path))


def encode(
    workflow: nvt.Workflow, side: str, table: pd.DataFrame, without: Iterable[str] = ()
) -> pd.DataFrame:
    """Encode the rows of one side, keeping their order.

    Parameters
    ----------
    workflow : nvtabular.Workflow
        A fitted feature graph.
    side : str
        The Subgraph to use: "user" or "item".
    table : DataFrame
        Rows with the column names of the data.
    without : iterable of str
        Columns of the side, by the names of the data, that are not encoded. The table need not have
        them.

    Returns
    -------
    DataFrame
        The encoded columns, by internal names (see `internal_name`).
    """
    encoder = Encoder.of(workflow, side, [internal_name(column) for column in without])
    table = table.rename(columns=internal_name)[list(encoder.columns)]
    rows = typed(table, lists=list(encoder.lengths), numbers=list(encoder.moments))
    return encoder.encode(to_arrow(rows)).to_pandas()


def as_arrays(
    encoded: pa.Table | pd.DataFrame, lengths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Convert an encoded table to one array per column.

    Parameters
    ----------
    encoded : Table or DataFrame
        An encoded table, see `Encoder.encode` and `encode`.
    lengths : mapping of str to int
        The width of each list column.

    Returns
    -------
    dict of str to ndarray
        Shape (n, length) for list columns, (n, 1) for others; int32 for codes, float32 for numbers.

    Notes
    -----
    Lists are padded with 0 to a fixed length because ragged lists in a batch make Merlin's loader
    60 times slower, and because the mean over a padded row is a dense operation.
    """
    if isinstance(encoded, pd.DataFrame):
        encoded = pa.Table.from_pandas(encoded, preserve_index=False)
    arrays = {}
    for name in encoded.column_names:
        column = in_one_piece(encoded[name])
        if name in lengths:
            arrays[name] = _pad(column, lengths[name])
        else:
            dtype = np.float32 if pa.types.is_floating(column.type) else np.int32
            arrays[name] = column.to_numpy(zero_copy_only=False).astype(dtype)[:, None]
    return arrays


def _pad(lists: pa.Array, length: int) -> np.ndarray:
    values, offsets = first_values(lists, length)
    padded = np.zeros((len(lists), length), dtype=np.int32)
    padded[np.arange(length) < np.diff(offsets)[:, None]] = values.to_numpy(zero_copy_only=False)
    return padded
