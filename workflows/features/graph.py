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

import pandas as pd
import pyarrow as pa

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.encoding.counts import write_vocabulary
from twotower.workflows.encoding.fit import CountedSide, count_sides, joint_sample
from twotower.workflows.encoding.table import SideRows
from twotower.workflows.features.checks import check_training
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import load_workflow
from twotower.workflows.features.sides import Side

if TYPE_CHECKING:
    import nvtabular as nvt


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
    users: pd.DataFrame | pa.Table | SideRows,
    items: pd.DataFrame | pa.Table | SideRows,
    config: FeaturesConfig,
    out: Path,
    run: RunTasks = map,
) -> nvt.Workflow:
    """Fit the feature graph on the training part and save it.

    Parameters
    ----------
    train : DataFrame
        The pairs of the training part, with the columns user_id, item_id and the context.
    users, items : DataFrame, Table or SideRows
        The tidy tables, `users` with its history (see `add_history`). A value of a row is counted
        once per pair of the row. A Table has been checked, see `side_table`.
    config : FeaturesConfig
    out : Path
        The folder to save to.
    run : callable
        Runs the tasks that count values, see `RunTasks`.

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
    The pairs are not joined to the tables, because lists of users would be repeated for each pair.
    NVTabular is fitted on a few rows, which tell it the types; then it writes the vocabularies of
    the values counted in all rows. The vocabulary of the history is counted from the item ids of
    `train`, so that an item has the same code in both.
    """
    import nvtabular as nvt

    # This name must not be a substring of any file name: NVTabular replaces the path inside the
    # saved graph.
    fitted = out / "fit.tmp"
    counted = count_sides(train, users, items, config, fitted, run)
    for each in counted:
        check_training(each.informative, each.side)
    workflow = feature_workflow(config, fitted)
    sample = joint_sample(counted)
    workflow.fit(nvt.Dataset(sample))
    _set_statistics(workflow, counted)
    _set_schema(workflow, sample)
    workflow.save(str(out))
    shutil.rmtree(fitted, ignore_errors=True)
    return load_workflow(out)


def _set_statistics(workflow: nvt.Workflow, counted: list[CountedSide]) -> None:
    """Replace the vocabularies of the sample by those of all rows, and the moments.

    NVTabular computes the variance as the difference of two sums of squares, which loses all
    digits if the deviation is below 1e-8 of the mean. Here the mean is subtracted first.
    """
    from merlin.dag import iter_nodes
    from nvtabular import ops

    for node in iter_nodes([workflow.output_node], flatten_subgraphs=True):
        for each in counted:
            if isinstance(node.op, ops.Categorify):
                for column in each.counts.keys() & node.op.categories.keys():
                    nullable = column in each.nullable
                    write_vocabulary(node.op, column, each.counts[column], nullable)
            elif isinstance(node.op, ops.Normalize):
                for column in each.numbers.keys() & node.op.means.keys():
                    values = each.numbers[column]
                    mean = values.mean()
                    mean += (values - mean).mean()  # corrects the rounding of the first mean
                    node.op.means[column] = float(mean)
                    node.op.stds[column] = float((values - mean).std(ddof=1))


def _set_schema(workflow: nvt.Workflow, sample: pd.DataFrame) -> None:
    """Have the schema describe the vocabularies of all rows."""
    import nvtabular as nvt
    from merlin.dag import Graph
    from merlin.dag.ops.subgraph import Subgraph

    schema = nvt.Dataset(sample).schema
    for node in Graph.get_nodes_by_op_type([workflow.output_node], Subgraph):
        # Otherwise the outer graph copies the domains of the sample from its subgraphs.
        node.op.graph.construct_schema(schema)
    workflow.fit_schema(schema)
