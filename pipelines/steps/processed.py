"""The files in processed/: the encoded tables, and the rows of the training part in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.order import add_positions, is_next_item

if TYPE_CHECKING:
    import nvtabular as nvt

    from twotower.workflows.cluster.tasks import RunTasks
    from twotower.workflows.encoding.table import SideRows
    from twotower.workflows.features.config import FeaturesConfig
    from twotower.workflows.features.sides import Side

INTERACTIONS, USERS, ITEMS = "interactions.parquet", "users.parquet", "items.parquet"
PARTS = ("train", "valid", "test")
SPLIT, SCHEMA = "split.parquet", "schema.pbtxt"
RAW_USERS = "raw_users.parquet"
SHARED = "shared.tmp"  # the rows that other processes read during the step
TRAIN_ROWS = "train_rows.bin"  # int32 [n, 2], see `memory_map_rows`
WEIGHT = "weight"  # the column of split.parquet with the weights
CONTEXTS = "contexts.parquet"
TIMES = "times.json"  # in workflow/: arguments of `TimeFeatures`, only with features of the time
TRAIN_CONTEXTS = "train_contexts.bin"  # int32 [n], only if there are features of the context
TRAIN_POSITIONS = "train_positions.bin"  # int32 [n], only if there is a history
TRAIN_WEIGHTS = "train_weights.bin"  # float32 [n], only if positives have weights


class Tables(NamedTuple):
    """What is encoded.

    Attributes
    ----------
    parts : DataFrame
        The split.
    pairs : DataFrame
        The context of each row of `parts`.
    users, items : SideRows
        The features of the tidy tables, `users` with the history in training.
    """

    parts: pd.DataFrame
    pairs: pd.DataFrame
    users: SideRows
    items: SideRows


def share_rows(
    users: pa.Table, items: pa.Table, names: FeaturesConfig, processed: Path, run_tasks: RunTasks
) -> tuple[SideRows, SideRows]:
    """Return both tables in parts for `run_tasks`, whose files `write_tables` removes."""
    from twotower.workflows.encoding.table import side_rows

    user, item = names.sides
    return (
        side_rows(users, user, processed / SHARED, run_tasks),
        side_rows(items, item, processed / SHARED, run_tasks),
    )


def write_tables(
    workflow: nvt.Workflow,
    tables: Tables,
    names: FeaturesConfig,
    processed: Path,
    run: RunTasks,
    progress: Callable[..., None],
) -> dict[str, Any]:
    """Encode the tables, add their row numbers to the split, and write everything.

    The weights of the training part are written with a mean of 1.

    Returns
    -------
    dict
        The sizes of the parts, see `split_report`.
    """
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.workflows.features import context
    from twotower.workflows.split import split_report
    from twotower.workflows.vectors import vector_schema

    parts, users, items = tables.parts, tables.users, tables.items
    user, item = names.sides
    parts["user_row"] = rows_of(parts[user.id], users.table[user.internal.id].to_numpy())
    parts["item_row"] = rows_of(parts[item.id], items.table[item.internal.id].to_numpy())
    encode_side(workflow, users, user, names, processed / USERS, run, progress)
    encode_side(workflow, items, item, names, processed / ITEMS, run, progress)
    shutil.rmtree(processed / SHARED, ignore_errors=True)
    if names.context_columns:
        parts["context_row"], contexts = context.distinct_contexts(tables.pairs, names)
        context.encode_context(workflow, contexts, names).to_parquet(processed / CONTEXTS)
    parts.to_parquet(processed / SPLIT, index=False)
    train = parts[parts["part"] == "train"]
    train[["user_row", "item_row"]].to_numpy(np.int32).tofile(processed / TRAIN_ROWS)
    if names.context_columns:
        train["context_row"].to_numpy(np.int32).tofile(processed / TRAIN_CONTEXTS)
    if WEIGHT in parts:
        weights = train[WEIGHT].to_numpy(np.float64)
        (weights / weights.mean()).astype(np.float32).tofile(processed / TRAIN_WEIGHTS)
    schema = workflow.output_schema + vector_schema(names.sides)
    TensorflowMetadata.from_merlin_schema(schema).to_proto_text_file(str(processed), SCHEMA)
    counts = split_report(parts)
    (processed / "split.json").write_text(json.dumps(counts, indent=1) + "\n")
    return counts


def encode_side(
    workflow: nvt.Workflow,
    rows: SideRows,
    side: Side,
    names: FeaturesConfig,
    out: Path,
    run: RunTasks,
    progress: Callable[..., None],
) -> None:
    """Encode the users or the items, and write them to `out` part by part."""
    from twotower.workflows.encoding.encoder import Encoder, encode_parts
    from twotower.workflows.features.context import add_unknown_context
    from twotower.workflows.features.names import internal_name

    without = [internal_name(name) for name in names.context_columns]
    encoder = Encoder.of(workflow, side.name, without)
    done, writer = 0, None
    try:
        for part in encode_parts(encoder, rows.parts, run):
            if side.name == "user":
                part = add_unknown_context(part, names)
            writer = writer or pq.ParquetWriter(out, part.schema)
            writer.write_table(part)
            done += len(part)
            progress(detail=f"{done:,} of {len(rows.table):,} {side.name}s encoded")
    finally:
        if writer is not None:
            writer.close()


def write_vectors(data: Path, names: FeaturesConfig, processed: Path) -> None:
    """Write the pretrained vectors of the tidy tables in the folder `data` as arrays."""
    from twotower.workflows.vectors import save_vectors

    for side in names.sides:
        save_vectors(data / f"{side.name}s.parquet", side, processed)


def with_history(
    users: pa.Table,
    parts: pd.DataFrame,
    positives: pd.DataFrame,
    names: FeaturesConfig,
    method: str,
    processed: Path,
) -> pa.Table:
    """Add the history in training to the users; write the one that the server reads, and the order.

    Parameters
    ----------
    users : Table
        The features of the user table.
    parts : DataFrame
        The split, to which the column `POSITION` is added.
    positives : DataFrame
        All positives.
    names : FeaturesConfig
    method : str
        The setting `split.method`. If the next item is predicted, the server's histories have the
        items of all parts, because a request is about what comes after them.
    processed : Path
        The folder to write to.

    Returns
    -------
    Table
    """
    from twotower.workflows.features.positives import add_history

    train, is_next = parts[parts["part"] == "train"], is_next_item(method, names.history)
    served = add_history(users, parts if is_next else train, positives, names)
    pq.write_table(served.select(names.sides[0].columns), processed / RAW_USERS)
    if names.history:
        add_positions(parts, positives).tofile(processed / TRAIN_POSITIONS)
    return add_history(users, train, positives, names) if is_next else served


def rows_of(ids: pd.Series, table_ids: np.ndarray) -> np.ndarray:
    """The row numbers (int32) of `ids` in a table sorted by id that has all of them."""
    return np.searchsorted(table_ids, ids.to_numpy()).astype(np.int32)
