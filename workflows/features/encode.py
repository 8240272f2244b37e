"""Encode tables with a fitted feature graph, and turn the result into arrays of fixed width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

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
    import nvtabular as nvt
    from merlin.schema import Tags

    graph = workflow.get_subworkflow(side)
    if left_out := [internal_name(column) for column in without]:
        # On a copy, because the nodes are those of `workflow`.
        graph = deepcopy(graph).remove_inputs(left_out)
    table = table.rename(columns=internal_name)
    rows = typed(
        table[graph.input_schema.column_names].reset_index(drop=True),
        lists=[column.name for column in graph.output_schema if column.is_list],
        numbers=graph.output_schema.select_by_tag(Tags.CONTINUOUS).column_names,
    )
    encoded = graph.transform(nvt.Dataset(rows)).compute()
    encoded = encoded.to_pandas() if hasattr(encoded, "to_pandas") else encoded
    return encoded.reset_index(drop=True)


def as_arrays(encoded: pd.DataFrame, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Convert an encoded table to one array per column.

    Parameters
    ----------
    encoded : DataFrame
        A result of `encode`.
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
    arrays = {}
    for column in encoded:
        if column in lengths:
            arrays[column] = _pad(encoded[column].tolist(), lengths[column])
        else:
            dtype = np.float32 if encoded[column].dtype.kind == "f" else np.int32
            arrays[column] = encoded[column].to_numpy(dtype=dtype)[:, None]
    return arrays


def _pad(rows: list, length: int) -> np.ndarray:
    counts = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    padded = np.zeros((len(rows), length), dtype=np.int32)
    padded[np.arange(length) < np.minimum(counts, length)[:, None]] = np.concatenate(
        [np.asarray(row[:length], dtype=np.int32) for row in rows] or [np.zeros(0, np.int32)]
    )
    return padded
