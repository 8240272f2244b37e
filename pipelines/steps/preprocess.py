"""Positives, split, fitted feature graph, encoded tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from twotower.pipelines.console import stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.libraries import are_loaded
from twotower.pipelines.run import Run, writes

if TYPE_CHECKING:
    import nvtabular as nvt

    from twotower.models.training.data import TrainingData
    from twotower.pipelines.config import Config
    from twotower.workflows.features import FeaturesConfig
    from twotower.workflows.split import SplitConfig

INTERACTIONS, USERS, ITEMS = "interactions.parquet", "users.parquet", "items.parquet"
PARTS = ("train", "valid", "test")
SPLIT, SCHEMA = "split.parquet", "schema.pbtxt"
RAW_USERS = "raw_users.parquet"
_LEFT_OUT = {
    "repeated_pairs": "positives left out that a later row of the same user and item replaces",
    "dropped_by_k_core": "left out by k-core",
    "not_in_split_file": "left out that the split file does not have",
}
TRAIN_ROWS = "train_rows.bin"  # int32 [n, 2], see `map_rows`


@writes
def preprocess(run: Run) -> dict:
    """Filter positives, split them, fit NVTabular on train, encode both tables.

    Writes workflow/ (the fitted graph) and processed/: split.parquet with raw ids and rows of the
    two tables, train_rows.bin with the rows of its training part, users.parquet and items.parquet
    encoded, raw_users.parquet with what the first was encoded from (the history included), the
    schema, and split.json.
    """
    run.verified("ingest")
    from twotower.workflows.features import add_history, check_data, filter_positives, fit_features
    from twotower.workflows.split import split

    names = run.config.features
    # What is wrong with names and files is told before TensorFlow is imported.
    check_data(run.path / "data", run.config.positives, names)
    if not are_loaded():
        split_ahead(run)
    with stage("preprocess") as (report, result), run.step("preprocess") as (out, notes):
        report(0, 5, "positives")
        interactions, users, items = _read_data(run)
        positives = filter_positives(interactions, run.config.positives)
        report(1, 5, "split")
        parts = split(positives, run.config.split)
        _check_parts(parts, run.config.split)
        report(2, 5, "fit the feature graph")
        train = parts[parts["part"] == "train"]
        users = add_history(users, train, positives, names)
        workflow = fit_features(train, users, items, names, out / "workflow")
        report(4, 5, "encode users and items")
        notes |= {"positives": len(positives)}
        notes |= {"split": _write(workflow, parts, users, items, names, out / "processed")}
        counts = notes["split"]
        result(
            f"{len(positives):,} positives; {counts['protocol']}: "
            + ", ".join(f"{part} {counts[part]['rows']:,}" for part in ("train", "valid", "test"))
        )
        for remark in _remarks(run.config, interactions, counts):
            result(remark)
    return notes


def _remarks(config: Config, interactions: pd.DataFrame, counts: dict) -> Iterator[str]:
    """What people should know of how the rows were read."""
    column, ordered = config.positives.column, config.split.method == "leave_last_out"
    if "timestamp" not in interactions and (ordered or config.features.history):
        yield "no timestamp in the interactions: the order of their rows is taken for time"
    if column and (unknown := int(interactions[column].isna().sum())):
        yield f"{unknown:,} rows without a value of {column} are no positives"
    for name, reason in _LEFT_OUT.items():
        if counts[name]:
            yield f"{counts[name]:,} {reason}"


def split_ahead(run: Run) -> pd.DataFrame:
    """What `split` will make of the run's data, seen without the slow import of NVTabular.

    Raises DataError or ConfigError where a part will be empty.
    """
    from twotower.workflows.features import AtLeast, check_any_positive
    from twotower.workflows.split import split

    names, positives = run.config.features, run.config.positives
    path = run.path / "data" / INTERACTIONS
    wanted = [names.user_id, names.item_id, "timestamp", positives.column]
    there = pq.read_schema(path).names
    rows = pd.read_parquet(path, columns=[name for name in there if name in wanted])
    if positives.column is not None:
        check_any_positive(rows, positives)
        rows = rows[AtLeast(positives.column, positives.at_least)(rows)]
    parts = split(rows, run.config.split)
    _check_parts(parts, run.config.split)
    return parts


def _check_parts(parts: pd.DataFrame, config: SplitConfig) -> None:
    """Refuse a split that leaves nothing to fit on, to choose an epoch on, or to measure on."""
    sizes = parts["part"].value_counts()
    if empty := [part for part in PARTS if not sizes.get(part)]:
        ways = {
            "random": "test takes one of a user with 2 positives, valid of one with 3, and there "
            "are no such users; use split.method temporal or file",
            "leave_last_out": "no user has 3 positives; use split.method random, temporal or file",
            "temporal": "split.ratios leave it no time of its own; give it more, or use "
            "split.method random",
            "file": f"{config.path} names none for it; add some",
        }
        raise ConfigError(
            f"split.method {config.method}: the part {' and '.join(empty)} has no rows of "
            f"{len(parts)} positives: {ways[config.method]}"
        )


def preprocess_more(run: Run, out: Path, appended: int, notes: dict[str, Any]) -> int:
    """The same after an update, in the staging folder `out`: what is there keeps part and codes.

    The run has the split and the graph, `out` the data, of which the last `appended` interactions
    are new. Returns how many rows of train are new: the last ones.
    """
    from twotower.workflows.features import add_history, filter_positives, grow_features
    from twotower.workflows.split import extend_split

    names = run.config.features
    with stage("preprocess") as (report, result):
        report(0, 4, "positives, split")
        interactions, users, items = _read_data(run.within(out))
        positives = filter_positives(interactions, run.config.positives)
        old = pd.read_parquet(run.path / "processed" / SPLIT)
        fresh = interactions.iloc[len(interactions) - appended :]
        parts = extend_split(old, positives, fresh, run.config.split)
        report(1, 4, "grow the vocabularies")
        train = parts[parts["part"] == "train"]
        users = add_history(users, train, positives, names)
        workflow = grow_features(
            run.path / "workflow", train, users, items, names, out / "workflow"
        )
        report(3, 4, "encode users and items")
        notes |= {"positives": len(positives)}
        notes |= {"split": _write(workflow, parts, users, items, names, out / "processed")}
        new = parts["part"].iloc[len(parts) - parts.attrs["updated"] :].value_counts()
        result(
            f"{new.sum():,} new positives: "
            + ", ".join(f"{part} {new[part]:,}" for part in ("train", "valid", "test"))
        )
    return int(new["train"])


def _read_data(run: Run) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    from twotower.workflows.tables import read_frame

    data = run.path / "data"
    return pd.read_parquet(data / INTERACTIONS), read_frame(data / USERS), read_frame(data / ITEMS)


def _write(
    workflow: nvt.Workflow,
    parts: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    names: FeaturesConfig,
    processed: Path,
) -> dict:
    """Encode both tables, add their rows to the split, write all of it; the split in figures."""
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.workflows.features import encode
    from twotower.workflows.split import split_report

    parts["user_row"] = rows_of(parts[names.user_id], users[names.user_id])
    parts["item_row"] = rows_of(parts[names.item_id], items[names.item_id])
    users[names.sides[0].columns].to_parquet(processed / RAW_USERS, index=False)
    encode(workflow, "user", users).to_parquet(processed / USERS)
    encode(workflow, "item", items).to_parquet(processed / ITEMS)
    parts.to_parquet(processed / SPLIT, index=False)
    train = parts[parts["part"] == "train"]
    train[["user_row", "item_row"]].to_numpy(np.int32).tofile(processed / TRAIN_ROWS)
    TensorflowMetadata.from_merlin_schema(workflow.output_schema).to_proto_text_file(
        str(processed), SCHEMA
    )
    counts = split_report(parts)
    (processed / "split.json").write_text(json.dumps(counts, indent=1) + "\n")
    return counts


def rows_of(ids: pd.Series, table_ids: pd.Series) -> np.ndarray:
    """Positions int32 of `ids` in the sorted ids of a table that has them all."""
    return np.searchsorted(table_ids.to_numpy(), ids.to_numpy()).astype(np.int32)


def load_split(processed: Path) -> dict[str, pd.DataFrame]:
    """Part -> its rows (user_row, item_row and the raw ids)."""
    parts = pd.read_parquet(processed / SPLIT)
    return {part: parts[parts["part"] == part] for part in PARTS}


def load_tables(run: Run) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The encoded user and item table as arrays (see `as_arrays`), a row per user and item."""
    from twotower.workflows.features import as_arrays

    users, items = (
        as_arrays(pd.read_parquet(run.path / "processed" / file), side.internal.multi_hot)
        for file, side in zip((USERS, ITEMS), run.config.features.sides, strict=True)
    )
    return users, items


def load_training_data(run: Run) -> TrainingData:
    """The training part as rows of the encoded tables; the rows stay on disk."""
    from twotower.models.training.data import TrainingData, memory_map_rows

    return TrainingData(*load_tables(run), *memory_map_rows(run.path / "processed" / TRAIN_ROWS))
