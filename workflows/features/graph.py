"""The NVTabular graph that encodes features: how it is built, fitted and saved.

Two graphs are used, because only one of them is served. `positives_workflow` filters on a column
such as the rating; in the served graph, every request would need that column. `feature_workflow`
has one Subgraph per side, "user" and "item". The server evaluates the user side for each request;
the item side encodes the catalogue.

Codes follow NVTabular's Categorify: 0 is padding, 1 is null, 2 is out of vocabulary, and the
vocabulary follows, by descending frequency in the training part. Inside a list, a null is encoded
as out of vocabulary; a null list is an empty list. A text is encoded as the list of its words.
Numbers become float32 with mean 0 and variance 1 in the training part; a null becomes the mean, 0.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from twotower.workflows.features.checks import check_training
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import load_workflow
from twotower.workflows.features.rows import side_rows
from twotower.workflows.features.sides import Side

if TYPE_CHECKING:
    import nvtabular as nvt
    from dask.dataframe.core import DataFrame


def feature_workflow(config: FeaturesConfig, categories: Path) -> nvt.Workflow:
    """Build the unfitted feature graph with the Subgraphs "user" and "item".

    Parameters
    ----------
    config : FeaturesConfig
    categories : Path
        The folder where NVTabular keeps the vocabularies until the workflow is saved.

    Notes
    -----
    Columns are tagged USER_ID, ITEM_ID, USER and ITEM, those of the context USER and CONTEXT.
    Categorify adds the tag CATEGORICAL, Normalize adds CONTINUOUS.
    """
    import nvtabular as nvt
    from merlin.dag.ops.subgraph import Subgraph
    from merlin.schema import Tags
    from nvtabular import ops

    def categorify(columns: list[str], tags: list[Any]) -> nvt.WorkflowNode:
        encoded = columns >> ops.Categorify(
            out_path=str(categories), freq_threshold=config.min_frequency, dtype="int32"
        )
        return encoded >> ops.AddMetadata(tags=tags)

    def numeric(columns: list[str], tags: list[Any]) -> nvt.WorkflowNode:
        # Nulls are filled after Normalize, which ignores them: before it, they would shift the
        # mean.
        scaled = columns >> ops.Normalize(out_dtype="float32") >> ops.FillMissing(0)
        return scaled >> ops.AddMetadata(tags=tags)

    def nodes_of(side: Side, id_tag: Tags, tag: Tags) -> nvt.WorkflowNode:
        nodes = categorify([side.id], [id_tag, tag])
        if side.categorical:
            nodes += categorify(side.categorical, [tag])
        for column, length in side.multi_hot.items():
            # Merlin's tag for an ordered list of items. The towers find the history by it.
            tags = [tag, Tags.SEQUENCE] if column == side.history else [tag]
            nodes += categorify([column], tags) >> ops.ListSlice(0, length)
        if side.numeric:
            nodes += numeric(side.numeric, [tag])
        return nodes

    user, item = (side.internal for side in config.sides)
    query = nodes_of(user, Tags.USER_ID, Tags.USER)
    context = config.of_interaction.internal
    # The tag by which the context is told from the user's features.
    tags = [Tags.USER, Tags.CONTEXT]
    if context.categorical:
        query += categorify(context.categorical, tags)
    if context.numeric:
        query += numeric(context.numeric, tags)
    candidate = nodes_of(item, Tags.ITEM_ID, Tags.ITEM)
    return nvt.Workflow(Subgraph(user.name, query) + Subgraph(item.name, candidate))


def fit_features(
    train: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    config: FeaturesConfig,
    out: Path,
) -> nvt.Workflow:
    """Fit the feature graph on the training part and save it.

    Parameters
    ----------
    train : DataFrame
        The pairs of the training part, with the columns user_id, item_id and the context.
    users, items : DataFrame
        The tidy tables, `users` with its history (see `add_history`). They are joined to `train`,
        so a value is counted once per pair.
    config : FeaturesConfig
    out : Path
        The folder to save to.

    Returns
    -------
    nvtabular.Workflow

    Raises
    ------
    DataError
        If a column is missing, has values of another kind than its setting requires, or has no
        information in the training part. The message names the column.

    Notes
    -----
    The vocabulary of the history is counted from the item ids of `train`, so that an item has the
    same code in both.
    """
    import nvtabular as nvt

    wide = train[[config.user_id, config.item_id]]
    if config.context_columns:
        of_rows = side_rows(train, config.of_interaction).drop(columns=config.user_id)
        wide = wide.join(of_rows)
    for side, table in zip(config.sides, (users, items), strict=True):
        rows = side_rows(table, side).drop(columns=side.history or [])
        wide = wide.merge(rows, on=side.id)
    if config.history:
        wide[config.history_column] = wide[[config.item_id]].to_numpy().tolist()
    for side in (*config.sides, config.of_interaction):
        check_training(wide, side)
    lists = [column for side in config.sides for column in side.internal.multi_hot]
    # This name must not be a substring of any file name: NVTabular replaces the path inside the
    # saved graph.
    fitted = out / "fit.tmp"
    workflow = feature_workflow(config, fitted)
    workflow.fit(nvt.Dataset(_with_small_first_partition(wide, lists)))
    _set_moments(workflow, wide)
    workflow.save(str(out))
    shutil.rmtree(fitted, ignore_errors=True)
    return load_workflow(out)


def _with_small_first_partition(wide: pd.DataFrame, lists: list[str]) -> DataFrame:
    """Split `wide` into two Dask partitions, the first one as small as possible.

    NVTabular transforms the first partition about a dozen times to find the output types, and
    needs a value in every list column of a partition, and in every column of whole numbers beside
    nulls. If two partitions cannot both have one, there is one partition.
    """
    from dask.dataframe.io.io import from_pandas
    from dask.dataframe.multi import concat

    filled = [np.flatnonzero(wide[column].str.len()) for column in lists]
    nullable = [column for column in wide if wide[column].dtype == "Int64"]
    filled += [np.flatnonzero(wide[column].notna()) for column in nullable]
    start = max((rows[0] + 1 for rows in filled), default=1)
    parts = [wide.iloc[:start], wide.iloc[start:]]
    if start == len(wide) or any(rows[-1] < start for rows in filled):
        parts = [wide]
    return concat([from_pandas(part, npartitions=1) for part in parts])


def _set_moments(workflow: nvt.Workflow, wide: pd.DataFrame) -> None:
    """Replace the means and deviations of Normalize by exact ones.

    NVTabular computes the variance as the difference of two sums of squares, which loses all
    digits if the deviation is below 1e-8 of the mean. Here the mean is subtracted first.
    """
    from merlin.dag import iter_nodes
    from nvtabular import ops

    for node in iter_nodes([workflow.output_node], flatten_subgraphs=True):
        if isinstance(node.op, ops.Normalize):
            for column in node.op.means:
                values = wide[column].dropna().to_numpy(np.float64)
                mean = values.mean()
                mean += (values - mean).mean()  # corrects the rounding of the first mean
                node.op.means[column] = float(mean)
                node.op.stds[column] = float((values - mean).std(ddof=1))
