"""Positives, split, fitted feature graph, encoded tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipelines.console import stage
from pipelines.run import Run

if TYPE_CHECKING:
    from models.training import TrainingData

INTERACTIONS, USERS, ITEMS = "interactions.parquet", "users.parquet", "items.parquet"
SPLIT, SCHEMA = "split.parquet", "schema.pbtxt"


def preprocess(run: Run) -> dict:
    """Filter positives, split them, fit NVTabular on train, encode both tables.

    Writes workflow/ (the fitted graph) and processed/: split.parquet with raw ids and rows of the
    two tables, users.parquet and items.parquet encoded, the schema, and split.json.
    """
    run.verified("ingest")
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from workflows.features import encode, filter_positives, fit_features
    from workflows.split import split, split_report

    names = run.config.features
    data = run.path / "data"
    with stage("preprocess") as (report, result), run.step("preprocess") as (out, notes):
        report(0, 5, "positives")
        users, items = pd.read_parquet(data / USERS), pd.read_parquet(data / ITEMS)
        interactions = pd.read_parquet(data / INTERACTIONS)
        positives = filter_positives(interactions, run.config.positives)
        report(1, 5, "split")
        parts = split(positives, run.config.split)
        parts["user_row"] = rows_of(parts[names.user_id], users[names.user_id])
        parts["item_row"] = rows_of(parts[names.item_id], items[names.item_id])
        report(2, 5, "fit the feature graph")
        train = parts[parts["part"] == "train"]
        workflow = fit_features(train, users, items, names, out / "workflow")
        report(4, 5, "encode users and items")
        processed = out / "processed"
        encode(workflow, "user", users).to_parquet(processed / USERS)
        encode(workflow, "item", items).to_parquet(processed / ITEMS)
        parts.to_parquet(processed / SPLIT, index=False)
        TensorflowMetadata.from_merlin_schema(workflow.output_schema).to_proto_text_file(
            str(processed), SCHEMA
        )
        notes |= {"positives": len(positives), "split": split_report(parts)}
        (processed / "split.json").write_text(json.dumps(notes["split"], indent=1) + "\n")
        counts = notes["split"]
        result(
            f"{len(positives):,} positives; {counts['protocol']}: "
            + ", ".join(f"{part} {counts[part]['rows']:,}" for part in ("train", "valid", "test"))
        )
    return notes


def rows_of(ids: pd.Series, table_ids: pd.Series) -> np.ndarray:
    """Positions int32 of `ids` in the sorted ids of a table that has them all."""
    return np.searchsorted(table_ids.to_numpy(), ids.to_numpy()).astype(np.int32)


def load_split(processed: Path) -> dict[str, pd.DataFrame]:
    """Part -> its rows (user_row, item_row and the raw ids)."""
    parts = pd.read_parquet(processed / SPLIT)
    return {part: parts[parts["part"] == part] for part in ("train", "valid", "test")}


def load_tables(run: Run) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The encoded user and item table as arrays (see `as_arrays`), a row per user and item."""
    from workflows.features import as_arrays

    features, processed = run.config.features, run.path / "processed"
    return (
        as_arrays(pd.read_parquet(processed / USERS), features.user_multi_hot),
        as_arrays(pd.read_parquet(processed / ITEMS), features.item_multi_hot),
    )


def load_training_data(run: Run) -> TrainingData:
    """The training part as rows of the encoded tables."""
    from models.training import TrainingData

    users, items = load_tables(run)
    train = load_split(run.path / "processed")["train"]
    return TrainingData(
        users, items, train["user_row"].to_numpy(np.int32), train["item_row"].to_numpy(np.int32)
    )
