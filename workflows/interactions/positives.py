"""Read the positives among the interactions, whose other rows need not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.positives import (
    check_any_positive,
    check_positives_columns,
    check_weights,
    filter_positives,
    is_positive,
)
from twotower.workflows.interactions.reading import Partition, as_pandas, partitions
from twotower.workflows.order import ORDER
from twotower.workflows.stored import StoredRows

OnRows = Callable[[int, int], None]
"""Is told the number of rows that have been read, and of all."""
_ROW = "row"


def ignore(done: int, total: int) -> None:
    """No-op callback."""


class Positives(NamedTuple):
    """The positives of stored interactions.

    Attributes
    ----------
    rows : DataFrame
        In file order, by a RangeIndex.
    without_value : int
        The number of interactions that have no value in `positives.column`.
    """

    rows: pd.DataFrame
    without_value: int


def columns_for(path: Path, positives: PositivesConfig, features: FeaturesConfig) -> list[str]:
    """Return the columns of the interactions in `path` that preprocessing uses."""
    wanted = {
        features.user_id,
        features.item_id,
        features.time_column,
        ORDER,
        "part",
        *positives.columns,
        *features.stored_context,
    }
    return [name for name in pq.read_schema(path).names if name in wanted]


def read_positives(
    path: Path,
    config: PositivesConfig,
    columns: Sequence[str],
    whole_numbers: Iterable[str] = (),
    with_nvtabular: bool = True,
    run: RunTasks = map,
    on_rows: OnRows = ignore,
) -> Positives:
    """Read the positives, a partition at a time.

    Parameters
    ----------
    path : Path
        interactions.parquet.
    config : PositivesConfig
        Has been checked with `check_stored`.
    columns : sequence of str
        The columns to read.
    whole_numbers : iterable of str
        See `as_pandas`.
    with_nvtabular : bool
        Whether NVTabular's Filter chooses the rows; without it, NVTabular is not imported.
    run : callable
        Runs the tasks, one per partition.
    on_rows : callable
        Is told how far it is.

    Returns
    -------
    Positives
    """
    parts = partitions(path)
    total, done = sum(part.rows for part in parts), 0
    task = partial(
        _positives_of, config=config, columns=list(columns), with_nvtabular=with_nvtabular
    )
    kept, nullable, without_value = [], set(), 0
    for part, (rows, nulls, unknown) in zip(parts, run(task, parts), strict=True):
        kept.append(rows)
        nullable |= nulls
        without_value += unknown
        done += part.rows
        on_rows(done, total)
    schema = pa.schema([pq.read_schema(path).field(name) for name in columns]).remove_metadata()
    table = pa.concat_tables(kept or [schema.empty_table()])
    return Positives(as_pandas(table, nullable, whole_numbers), without_value)


def _positives_of(
    part: Partition, config: PositivesConfig, columns: list[str], with_nvtabular: bool
) -> tuple[pa.Table, set[str], int]:
    """The positives of a partition, the columns with nulls in any row, and `without_value`."""
    name = config.column
    read = columns if name is None or name in columns else [*columns, name]
    kept, nullable, without_value = [], set(), 0
    for batch in part.batches(read):
        nullable |= {each for each in columns if batch[each].null_count}
        if name is not None:
            without_value += batch[name].null_count
            batch = batch.take(pa.array(_rows_of_positives(batch, config, with_nvtabular)))
        kept.append(batch.select(columns))
    schema = pa.schema([pq.read_schema(part.path).field(each) for each in columns])
    empty = schema.remove_metadata().empty_table()
    return pa.concat_tables(kept or [empty]).combine_chunks(), nullable, without_value


def _rows_of_positives(
    batch: pa.Table, config: PositivesConfig, with_nvtabular: bool
) -> np.ndarray:
    """The numbers of the positive rows."""
    assert config.column is not None
    values = pd.DataFrame({config.column: batch[config.column].to_pandas()})
    if not with_nvtabular:
        return np.flatnonzero(is_positive(values, config))
    number = _ROW if config.column != _ROW else f"{_ROW}_"
    values[number] = np.arange(len(values))
    return filter_positives(values, config)[number].to_numpy()


def check_stored(path: Path, config: PositivesConfig, features: FeaturesConfig) -> None:
    """Check the columns of stored interactions that the settings name, without NVTabular.

    Raises
    ------
    DataError
        If a column is missing or has values of another kind, no row is a positive, a value of
        `positives.values` does not occur, or a positive has no weight above 0.
    """
    check_positives_columns(pq.read_schema(path).names, config)
    if config.column is not None:
        check_any_positive(count_column(path, config), config)
    if config.weight is not None:
        wanted = list(dict.fromkeys([features.user_id, features.item_id, *config.columns]))
        check_weights(read_positives(path, config, wanted, with_nvtabular=False).rows, config)


def count_column(path: Path, config: PositivesConfig) -> pd.Series:
    """Count the values of `positives.column`, or find the largest one if it has a threshold.

    Returns
    -------
    Series of int64
        See `check_any_positive`.
    """
    assert config.column is not None
    kind = pq.read_schema(path).field(config.column).type
    found: pd.Series | None = None
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    for batch in StoredRows((path,)).batches([config.column]):
        values = batch[config.column].drop_null()
        if is_number and not config.values:  # there may be as many values as rows
            values = pa.array([pc.max(values).as_py()] if len(values) else [], kind)
        counts = values.to_pandas().value_counts()
        found = counts if found is None else found.add(counts, fill_value=0)
    if found is None:
        found = pa.array([], kind).to_pandas().value_counts()
    order = np.argsort(-found.to_numpy(), kind="stable")
    return found.iloc[order].astype(np.int64).rename(config.column)
