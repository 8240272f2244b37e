"""Add new values to the vocabularies of a fitted feature graph without changing known codes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.encoding.counts import as_series
from twotower.workflows.encoding.fit import count_sides, joint_sample
from twotower.workflows.encoding.table import SideRows
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import load_workflow

if TYPE_CHECKING:
    import nvtabular as nvt


def grow_features(
    fitted: Path,
    train: pd.DataFrame,
    users: pd.DataFrame | pa.Table | SideRows,
    items: pd.DataFrame | pa.Table | SideRows,
    config: FeaturesConfig,
    out: Path,
    run: RunTasks = map,
) -> nvt.Workflow:
    """Copy the feature graph saved in `fitted` to `out` with larger vocabularies.

    Known values keep their codes. New values that are frequent enough in the training part are
    appended by descending frequency, and by value where frequencies are equal. The mean and
    deviation of numbers stay as they are, because the weights learned for them depend on both.

    See `fit_features` for the other parameters, the result and the errors.
    """
    import nvtabular as nvt
    from merlin.dag import Graph
    from merlin.dag.ops.subgraph import Subgraph

    shutil.copytree(fitted, out, dirs_exist_ok=True)
    counted = count_sides(train, users, items, config, out / "fit.tmp", run)
    for each in counted:
        for column, counts in each.counts.items():
            sizes = as_series(counts, column in each.nullable)
            _grow_file(out, column, sizes[sizes.index.notna()], config)
    shutil.rmtree(out / "fit.tmp", ignore_errors=True)
    schema = nvt.Dataset(joint_sample(counted)).schema
    workflow = load_workflow(out)
    for node in Graph.get_nodes_by_op_type([workflow.output_node], Subgraph):
        # Otherwise the outer graph copies the old, smaller domains from its subgraphs.
        node.op.graph.construct_schema(schema)
    workflow.fit_schema(schema).save(str(out))
    return workflow


def _grow_file(out: Path, column: str, counts: pd.Series, config: FeaturesConfig) -> None:
    """Append the new frequent values of `counts` to the vocabulary of a column of the graph."""
    path = out / "categories" / f"unique.{column}.parquet"
    _grow_vocabulary(pd.read_parquet(path), counts, config.min_frequency).to_parquet(path)


def _grow_vocabulary(old: pd.DataFrame, counts: pd.Series, min_frequency: int) -> pd.DataFrame:
    """Append the new frequent values of `counts` to a vocabulary file of Categorify.

    `old` has the values in order of their codes, and their counts.
    """
    column, size = old.columns
    frequent = counts[counts >= min_frequency].drop(old[column], errors="ignore")
    # A stable sort keeps equal counts in order of their values.
    new = frequent.sort_index().sort_values(ascending=False, kind="stable")
    # Built from a list instead of concatenated, because an empty part may have any type. pandas
    # infers float64 for whole numbers mixed with floats, as in the table.
    known = [*old[column], *new.index]
    values = pd.Series(known, dtype=None if known else old[column].dtype)
    if counts.index.dtype.kind == "f":
        values = values.astype(np.float64)  # lists of whole numbers with nulls
    elif values.dtype == np.int64:
        values = values.astype("Int64")  # encodes a column that has nulls now, too
    sizes = counts.reindex(values).fillna(0).astype(np.int64).to_numpy()
    first = old.index.start
    return pd.DataFrame({column: values, size: sizes}).set_index(
        pd.RangeIndex(first, first + len(values))
    )
