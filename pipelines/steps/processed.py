"""The files in processed/: the encoded tables, and the rows of the training part in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from twotower.workflows.order import add_positions, is_next_item

if TYPE_CHECKING:
    import nvtabular as nvt

    from twotower.workflows.features.config import FeaturesConfig

INTERACTIONS, USERS, ITEMS = "interactions.parquet", "users.parquet", "items.parquet"
PARTS = ("train", "valid", "test")
SPLIT, SCHEMA = "split.parquet", "schema.pbtxt"
RAW_USERS = "raw_users.parquet"
TRAIN_ROWS = "train_rows.bin"  # int32 [n, 2], see `memory_map_rows`
WEIGHT = "weight"  # the column of split.parquet with the weights
CONTEXTS = "contexts.parquet"
TIMES = "times.json"  # in workflow/: arguments of `TimeFeatures`, only with features of the time
TRAIN_CONTEXTS = "train_contexts.bin"  # int32 [n], only if there are features of the context
TRAIN_POSITIONS = "train_positions.bin"  # int32 [n], only if there is a history
TRAIN_WEIGHTS = "train_weights.bin"  # float32 [n], only if positives have weights


def write_tables(
    workflow: nvt.Workflow,
    parts: pd.DataFrame,
    pairs: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    names: FeaturesConfig,
    processed: Path,
) -> dict[str, Any]:
    """Encode the tables, add their row numbers to the split `parts`, and write everything.

    `pairs` has the context of each row of `parts`. The weights of the training part are written
    with a mean of 1.

    Returns
    -------
    dict
        The sizes of the parts, see `split_report`.
    """
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.workflows.features import context
    from twotower.workflows.features.encode import encode
    from twotower.workflows.split import split_report
    from twotower.workflows.vectors import vector_schema

    parts["user_row"] = rows_of(parts[names.user_id], users[names.user_id])
    parts["item_row"] = rows_of(parts[names.item_id], items[names.item_id])
    encoded_users = encode(workflow, "user", users, without=names.context_columns)
    context.add_unknown_context(encoded_users, names).to_parquet(processed / USERS)
    encode(workflow, "item", items).to_parquet(processed / ITEMS)
    if names.context_columns:
        parts["context_row"], contexts = context.distinct_contexts(pairs, names)
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


def write_vectors(data: Path, names: FeaturesConfig, processed: Path) -> None:
    """Write the pretrained vectors of the tidy tables in the folder `data` as arrays."""
    from twotower.workflows.vectors import save_vectors

    for side in names.sides:
        save_vectors(data / f"{side.name}s.parquet", side, processed)


def with_history(
    users: pd.DataFrame,
    parts: pd.DataFrame,
    positives: pd.DataFrame,
    names: FeaturesConfig,
    method: str,
    processed: Path,
) -> pd.DataFrame:
    """Add the history in training to the users; write the one that the server reads, and the order.

    Parameters
    ----------
    users : DataFrame
        The user table.
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
    DataFrame
    """
    from twotower.workflows.features.positives import add_history

    train, is_next = parts[parts["part"] == "train"], is_next_item(method, names.history)
    served = add_history(users, parts if is_next else train, positives, names)
    served[names.sides[0].columns].to_parquet(processed / RAW_USERS, index=False)
    if names.history:
        add_positions(parts, positives).tofile(processed / TRAIN_POSITIONS)
    return add_history(users, train, positives, names) if is_next else served


def rows_of(ids: pd.Series, table_ids: pd.Series) -> np.ndarray:
    """The row numbers (int32) of `ids` in a table sorted by id that has all of them."""
    return np.searchsorted(table_ids.to_numpy(), ids.to_numpy()).astype(np.int32)
