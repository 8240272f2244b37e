"""Select the positives, split them, fit the feature graph, and encode users and items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.pipelines.console import say, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.libraries import are_loaded
from twotower.pipelines.run import Run, writes
from twotower.pipelines.steps.processed import (
    CONTEXTS,
    INTERACTIONS,
    ITEMS,
    PARTS,
    SPLIT,
    TIMES,
    TRAIN_CONTEXTS,
    TRAIN_POSITIONS,
    TRAIN_ROWS,
    TRAIN_WEIGHTS,
    USERS,
    WEIGHT,
    Tables,
    share_rows,
    with_history,
    write_tables,
    write_vectors,
)
from twotower.serving.runtime.operators.times import TimeFeatures
from twotower.workflows import order
from twotower.workflows.cluster.cluster import check_cluster, opened_cluster

if TYPE_CHECKING:
    from twotower.models.training.data import TrainingData
    from twotower.workflows.cluster.tasks import RunTasks
    from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
    from twotower.workflows.ids import RunIds
    from twotower.workflows.interactions.positives import Positives
    from twotower.workflows.split import SplitConfig


@writes
def preprocess(run: Run) -> dict[str, Any]:
    """Filter positives, split them, fit NVTabular on the training part, encode both tables.

    Writes workflow/ (the fitted graph) and processed/:

    - split.parquet: the positives with their part, ids as codes, rows in the tables, weights, and
      with a history their places in time
    - train_rows.bin, train_contexts.bin, train_positions.bin and train_weights.bin: the rows of the
      training part in the tables, their places in time, and the weights
    - users.parquet, items.parquet and contexts.parquet: the encoded tables
    - vectors.<column>.npy: the pretrained vectors of the rows of these tables
    - raw_users.parquet: the user table before encoding, with the history that the server reads
    - schema.pbtxt and split.json: the schema of the encoded tables, and the sizes of the parts

    Returns
    -------
    dict
        The notes in the manifest.

    Raises
    ------
    DataError or ConfigError
        If the data does not fit the settings, or a part of the split is empty.
    """
    run.verified("ingest")
    check_cluster(run.config.dask, run.path)
    from twotower.workflows.features.checks import check_data
    from twotower.workflows.features.context import add_context
    from twotower.workflows.features.graph import fit_features
    from twotower.workflows.features.positives import remarks
    from twotower.workflows.split import split

    names = run.config.features
    # Wrong columns and files are found before TensorFlow is imported.
    check_data(run.path / "data", run.config.positives, names)
    if not are_loaded():
        split_ahead(run)
    with (
        opened_cluster(run.config.dask, run.path, say) as run_tasks,
        stage("preprocess") as (progress, result),
        run.step("preprocess") as (out, notes),
    ):
        positives = _read_positives(run, run_tasks, progress, of=5)
        users, items = _read_tables(run)
        found = order.number_repeats(positives.rows, run.config.split.repeats)
        progress(1, 5, "split")
        parts = split(found, run.config.split, read_ids(run))
        _check_parts(parts, run.config.split)
        progress(2, 5, "fit the feature graph")
        pairs = add_context(parts, found, names)
        times = _fit_times(pairs[parts["part"] == "train"], names)
        pairs = _add_times(pairs, parts, times, run.config.split)
        train = pairs[parts["part"] == "train"]
        processed, method = out / "processed", run.config.split.method
        users = with_history(users, parts, found, names, method, processed)
        user_rows, item_rows = share_rows(users, items, names, processed, run_tasks)
        workflow = fit_features(train, user_rows, item_rows, names, out / "workflow", run_tasks)
        _write_times(times, out / "workflow")
        progress(3, 5, "encode users and items")
        _add_weights(parts, found, run.config.positives)
        tables = Tables(parts, pairs, user_rows, item_rows)
        counts = write_tables(workflow, tables, names, processed, run_tasks, progress)
        notes |= {"positives": len(found), "split": counts}
        write_vectors(run.path / "data", names, processed)
        sizes = ", ".join(f"{part} {counts[part]['rows']:,}" for part in PARTS)
        result(f"{len(found):,} positives; {counts['protocol']}: {sizes}")
        assumed = not order.has_order(found) and (bool(names.history) or method == "leave_last_out")
        for remark in remarks(positives.without_value, run.config.positives, assumed, counts):
            result(remark)
    return notes


def split_ahead(run: Run) -> pd.DataFrame:
    """Split the run's data without importing NVTabular, which is slow.

    Returns
    -------
    DataFrame
        The rows of split.parquet, with ids, timestamps and parts only.

    Raises
    ------
    DataError or ConfigError
        If a part of the split is empty.
    """
    from twotower.workflows.interactions.positives import check_stored, read_positives
    from twotower.workflows.split import split

    names, positives = run.config.features, run.config.positives
    path = run.path / "data" / INTERACTIONS
    if positives.column is not None:
        check_stored(path, positives.copy(update={"weight": None}), names)
    wanted = [names.user_id, names.item_id, "timestamp", order.ORDER, "part"]
    columns = [name for name in pq.read_schema(path).names if name in wanted]
    rows = read_positives(path, positives, columns, with_nvtabular=False).rows
    rows = order.number_repeats(rows, run.config.split.repeats)
    parts = split(rows, run.config.split, read_ids(run))
    _check_parts(parts, run.config.split)
    return parts


def _check_parts(parts: pd.DataFrame, config: SplitConfig) -> None:
    """Raise ConfigError if a part of the split is empty."""
    sizes = parts["part"].value_counts()
    needed = [part for part in PARTS if part != "valid" or not config.train_on_valid]
    if empty := [part for part in needed if not sizes.get(part)]:
        advice = {
            "random": "test needs users with at least 2 positives, valid users with at least 3, "
            "and there are none; use split.method temporal or file",
            "leave_last_out": "no user has 3 positives; use split.method random, temporal or file",
            "temporal": "split.ratios give it too short a time; increase its share, or use "
            "split.method random",
            "file": f"{config.path} lists no rows for it; add some",
            "cold_items": "split.ratios give it no item; increase its share",
            "column": "no row names it in the column part; use another split.method",
        }
        raise ConfigError(
            f"split.method {config.method}: the part {' and '.join(empty)} has no rows of "
            f"{len(parts)} positives: {advice[config.method]}"
        )


def preprocess_more(run: Run, out: Path, appended: int, notes: dict[str, Any]) -> int:
    """Preprocess new interactions; earlier rows keep their part, and earlier values their codes.

    Parameters
    ----------
    run : Run
        Has the earlier split and feature graph.
    out : Path
        The staging folder. It has the merged data, and receives workflow/ and processed/.
    appended : int
        How many interactions are new: the last ones.
    notes : dict
        Receives the notes of the step.

    Returns
    -------
    int
        How many rows of the training part are new: the last ones.
    """
    from twotower.workflows.features.context import add_context
    from twotower.workflows.features.growth import grow_features
    from twotower.workflows.interactions.reading import read_last
    from twotower.workflows.split import extend_split

    names = run.config.features
    with (
        opened_cluster(run.config.dask, run.path, say) as run_tasks,
        stage("preprocess") as (progress, result),
    ):
        merged = run.within(out)
        positives = _read_positives(merged, run_tasks, progress, of=4).rows
        positives = order.number_repeats(positives, run.config.split.repeats)
        users, items = _read_tables(merged)
        old = pd.read_parquet(run.path / "processed" / SPLIT)
        path = merged.path / "data" / INTERACTIONS
        fresh = read_last(path, [names.user_id, names.item_id], appended)
        parts = extend_split(old, positives, fresh, run.config.split)
        progress(1, 4, "grow the vocabularies")
        pairs = add_context(parts, positives, names)
        # As they are, because the weights learned for them depend on them.
        pairs = _add_times(pairs, parts, load_times(run), run.config.split)
        train = pairs[parts["part"] == "train"]
        processed, method = out / "processed", run.config.split.method
        users = with_history(users, parts, positives, names, method, processed)
        user_rows, item_rows = share_rows(users, items, names, processed, run_tasks)
        workflow = grow_features(
            run.path / "workflow",
            train,
            user_rows,
            item_rows,
            names,
            out / "workflow",
            run_tasks,
        )
        progress(2, 4, "encode users and items")
        _add_weights(parts, positives, run.config.positives)
        tables = Tables(parts, pairs, user_rows, item_rows)
        counts = write_tables(workflow, tables, names, processed, run_tasks, progress)
        notes |= {"positives": len(positives), "split": counts}
        write_vectors(out / "data", names, processed)
        new = parts["part"].iloc[len(parts) - parts.attrs["updated"] :].value_counts()
        result(
            f"{new.sum():,} new positives: " + ", ".join(f"{part} {new[part]:,}" for part in PARTS)
        )
    return int(new["train"])


def _read_positives(
    run: Run, run_tasks: RunTasks, progress: Callable[..., None], of: int
) -> Positives:
    """Read the positives with NVTabular's Filter, and show how far it is: the first of `of` parts.

    Whole numbers beside nulls stay whole where they are features.
    """
    from twotower.workflows.interactions.positives import columns_for, read_positives

    path, config = run.path / "data" / INTERACTIONS, run.config

    def on_rows(done: int, total: int) -> None:
        progress(done / max(total, 1), of, "positives", f"{done:,} of {total:,} interactions read")

    progress(0, of, "positives")
    return read_positives(
        path,
        config.positives,
        columns_for(path, config.positives, config.features),
        whole_numbers=config.features.stored_context,
        run=run_tasks,
        on_rows=on_rows,
    )


def _read_tables(run: Run) -> tuple[pa.Table, pa.Table]:
    """The columns of the tidy users and items that are features, without vectors and history."""
    users, items = (
        pq.read_table(
            run.path / "data" / file,
            columns=[name for name in side.columns if name != side.history],
        ).replace_schema_metadata()
        for file, side in zip((USERS, ITEMS), run.config.features.sides, strict=True)
    )
    return users, items


def _add_weights(parts: pd.DataFrame, positives: pd.DataFrame, config: PositivesConfig) -> None:
    """Add the column `WEIGHT` to the split, if positives have weights."""
    from twotower.workflows.features.positives import pair_weights

    if (weights := pair_weights(parts, positives, config)) is not None:
        parts[WEIGHT] = weights


def _fit_times(train: pd.DataFrame, names: FeaturesConfig) -> dict[str, Any] | None:
    """Learn the features of the time, see `fit_times`; None if there are none."""
    from twotower.workflows.features.times import fit_times

    return fit_times(train[names.time_column].to_numpy(), names) if names.time else None


def _write_times(times: dict[str, Any] | None, workflow: Path) -> None:
    if times is not None:
        (workflow / TIMES).write_text(json.dumps(times))


def _add_times(
    pairs: pd.DataFrame, parts: pd.DataFrame, times: dict[str, Any] | None, split: SplitConfig
) -> pd.DataFrame:
    """Add the features of the time to pairs with timestamps, as the served model makes them."""
    from twotower.workflows.features.times import query_times

    if times is None:
        return pairs
    seconds = query_times(pairs, parts["part"], split.method)
    return pairs.assign(**TimeFeatures(**times).encode(seconds))


def load_split(processed: Path) -> dict[str, pd.DataFrame]:
    """The rows of each part of the split: user_row, item_row and the codes of both."""
    parts = pd.read_parquet(processed / SPLIT)
    return {part: parts[parts["part"] == part] for part in PARTS}


def load_ids(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The codes (int64, ascending) of users and items: those of the rows of both tables.

    `read_ids` converts them to ids as given.
    """
    user_ids, item_ids = (
        pd.read_parquet(run.path / "data" / file, columns=[side.id])[side.id].to_numpy(np.int64)
        for file, side in zip((USERS, ITEMS), run.config.features.sides, strict=True)
    )
    return user_ids, item_ids


def read_ids(run: Run) -> RunIds:
    """The ids as given, with their codes."""
    from twotower.workflows.ids import RunIds

    return RunIds.read(run.path / "data")


def load_tables(run: Run) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The encoded tables of users and items as arrays, see `as_arrays`; one row per id.

    Pretrained vectors are memory-mapped.
    """
    from twotower.workflows.features.encode import as_arrays
    from twotower.workflows.vectors import load_vectors

    processed = run.path / "processed"
    users, items = (
        as_arrays(pq.read_table(processed / file), side.internal.multi_hot)
        | load_vectors(processed, side)
        for file, side in zip((USERS, ITEMS), run.config.features.sides, strict=True)
    )
    return users, items


def load_contexts(run: Run) -> dict[str, np.ndarray]:
    """The encoded contexts as arrays, see `as_arrays`; empty without features of the context."""
    from twotower.workflows.features.encode import as_arrays

    if not run.config.features.context_columns:
        return {}
    return as_arrays(pq.read_table(run.path / "processed" / CONTEXTS), {})


def load_times(run: Run) -> dict[str, Any] | None:
    """The arguments of `TimeFeatures`; None without features of the time."""
    if not run.config.features.time:
        return None
    return json.loads((run.path / "workflow" / TIMES).read_text())


def load_training_data(run: Run) -> TrainingData:
    """The training part: rows of the encoded tables and weights, both of which stay on the disk."""
    from twotower.models.training.data import TrainingData, memory_map, memory_map_rows

    users, items = load_tables(run)
    config, processed = run.config, run.path / "processed"

    def mapped(file: str, dtype: type[np.generic]) -> np.ndarray:
        return memory_map(processed / file, dtype)

    user_rows, item_rows = memory_map_rows(processed / TRAIN_ROWS)
    has_positions = (processed / TRAIN_POSITIONS).exists()  # earlier versions did not write it
    return TrainingData(
        users=users,
        items=items,
        user_rows=user_rows,
        item_rows=item_rows,
        weights=mapped(TRAIN_WEIGHTS, np.float32) if config.positives.has_weights else None,
        contexts=load_contexts(run),
        context_rows=mapped(TRAIN_CONTEXTS, np.int32) if config.features.context_columns else None,
        positions=mapped(TRAIN_POSITIONS, np.int32) if has_positions else None,
    )
