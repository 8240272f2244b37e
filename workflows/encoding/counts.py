"""Count the values of features over the pairs of user and item, without joining them to the pairs.

A user's values occur once per pair of the user. So a value's frequency is the sum, over the rows
of the user table that have it, of the number of the row's pairs. NVTabular orders and writes the
vocabulary of these frequencies, as if it had counted the joined rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.encoding.table import (
    Part,
    in_one_piece,
    in_tasks,
    is_list,
    list_lengths,
    part_rows,
    read_part,
    with_words,
)

if TYPE_CHECKING:
    from nvtabular import ops

TASK_PARTS = 16
"""Parts of a task: its counts, which are sent to the command, are few beside its rows."""


class Counts(NamedTuple):
    """How often each value of a column occurs.

    Attributes
    ----------
    values : Array
        The values. One may be null.
    sizes : ndarray of int64, shape (n,)
    """

    values: pa.Array
    sizes: np.ndarray


def occurrences(ids: np.ndarray, of_pairs: pd.Series) -> np.ndarray:
    """Count the pairs of each row of a table.

    Parameters
    ----------
    ids : ndarray of int64, shape (n,)
        The id of each row.
    of_pairs : Series of int64
        The id of each pair.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    return of_pairs.value_counts().reindex(ids, fill_value=0).to_numpy(np.int64)


def count_table(
    parts: list[Part],
    row_counts: np.ndarray,
    columns: Collection[str],
    lists: Collection[str],
    run: RunTasks = map,
) -> dict[str, Counts]:
    """Count the values of columns.

    Parameters
    ----------
    parts : list of Part
        The rows.
    row_counts : ndarray of int64, shape (n,)
        How often each row occurs.
    columns : collection of str
        The columns to count.
    lists : collection of str
        Those of them in which a text is the list of its words.
    run : callable
        Runs the tasks, one per `TASK_PARTS` parts.

    Returns
    -------
    dict of str to Counts
    """
    if not columns:
        return {}
    tasks, start = [], 0
    for group in in_tasks(parts, TASK_PARTS):
        end = start + sum(part_rows(part) for part in group)
        tasks.append((group, row_counts[start:end]))
        start = end
    counted = list(run(partial(_count_parts, columns=columns, lists=lists), tasks))
    return {name: merge_counts(each[name] for each in counted) for name in columns}


def _count_parts(
    task: tuple[list[Part], np.ndarray], columns: Collection[str], lists: Collection[str]
) -> dict[str, Counts]:
    parts, row_counts = task
    found: dict[str, list[Counts]] = {name: [] for name in columns}
    start = 0
    for part in parts:
        table = read_part(part)
        of_part = row_counts[start : start + len(table)]
        for name in columns:
            column = in_one_piece(table[name])
            values = with_words(column) if name in lists else column
            found[name].append(count_values(values, of_part))
        start += len(table)
    return {name: merge_counts(counts) for name, counts in found.items()}


def count_values(column: pa.Array, row_counts: np.ndarray) -> Counts:
    """Count the values of a column, or the values in its lists, nulls among them.

    Parameters
    ----------
    column : Array
    row_counts : ndarray of int64, shape (n,)
        How often each row occurs.

    Returns
    -------
    Counts
        Of the rows that occur at all.
    """
    occurs = row_counts > 0
    if not occurs.all():
        column, row_counts = column.filter(pa.array(occurs)), row_counts[occurs]
    if is_list(column):
        row_counts = np.repeat(row_counts, list_lengths(column))
        column = column.flatten()
    if pa.types.is_null(column.type):
        size = int(row_counts.sum())
        return Counts(column[:1], np.array([size] if len(column) else [], np.int64))
    encoded = column.dictionary_encode(null_encoding="encode")
    # Exact, because float64 has every whole number below 2**53.
    sizes = np.bincount(
        encoded.indices.to_numpy(zero_copy_only=False),
        weights=row_counts,
        minlength=len(encoded.dictionary),
    )
    return Counts(encoded.dictionary, sizes.astype(np.int64))


def merge_counts(counts: Iterable[Counts]) -> Counts:
    """Add up counts of parts of a column."""
    each = list(counts)
    kinds = [one.values.type for one in each if not pa.types.is_null(one.values.type)]
    kind = kinds[0] if kinds else pa.null()
    values = pa.concat_arrays([one.values.cast(kind) for one in each])
    return count_values(values, np.concatenate([one.sizes for one in each]))


def as_series(counts: Counts, nullable: bool) -> pd.Series:
    """Return counts as a Series, of the types that NVTabular finds in the joined rows.

    Parameters
    ----------
    counts : Counts
    nullable : bool
        Whether the column has whole numbers beside nulls, so that pandas has it as Int64.

    Returns
    -------
    Series of int64
        The values are its index.
    """
    values: pd.Series = counts.values.to_pandas()
    if nullable and pa.types.is_int64(counts.values.type):
        numbers = counts.values.fill_null(0).to_numpy()
        values = pd.Series(
            pd.arrays.IntegerArray(numbers, counts.values.is_null().to_numpy(zero_copy_only=False))
        )
    sizes = pd.Series(counts.sizes, index=pd.Index(values))
    if pa.types.is_floating(counts.values.type):  # 0.0 and -0.0 are one value
        sizes = sizes.groupby(level=0, sort=False, dropna=False).sum()
    return sizes


def write_vocabulary(
    op: ops.Categorify, column: str, counts: Counts, nullable: bool = False
) -> None:
    """Have NVTabular write the vocabulary of a column, in the files of a fitted Categorify.

    Parameters
    ----------
    op : nvtabular.ops.Categorify
        Fitted. Its files for the column are replaced.
    column : str
    counts : Counts
    nullable : bool
        See `as_series`.
    """
    from merlin.dag import ColumnSelector
    from nvtabular.ops import categorify

    sizes = as_series(counts, nullable)
    rows = sizes.rename(f"{column}_size").rename_axis(column).reset_index()
    categorify._write_uniques(
        [rows],
        str(Path(op.categories[column]).parent),
        ColumnSelector([column]),
        op._create_fit_options_from_columns([column]),
        cpu=True,
    )
