"""What the feature graph learns from the training part, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.encoding.counts import Counts, count_table, occurrences
from twotower.workflows.encoding.table import (
    SideRows,
    in_one_piece,
    in_parts,
    is_list,
    list_lengths,
    side_rows,
    side_table,
    with_words,
)
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.sides import Side


class CountedSide(NamedTuple):
    """The values of one side in the training part, by internal names of columns.

    Attributes
    ----------
    side : Side
        With the names in the data.
    counts : dict of str to Counts
        Of the categories and lists.
    numbers : dict of str to ndarray of float64, shape (n,)
        The numeric columns' values in the pairs, without nulls.
    nullable : set of str
        Columns of whole numbers beside nulls.
    sample : DataFrame
        A few rows in which each column has a value.
    """

    side: Side
    counts: dict[str, Counts]
    numbers: dict[str, np.ndarray]
    nullable: set[str]
    sample: pd.DataFrame

    @property
    def informative(self) -> dict[str, int]:
        """The number of different values of each column, see `check_training`."""
        side, found = self.side.internal, {}
        for name, counts in self.counts.items():
            nulls = 0 if name in side.multi_hot else counts.values.null_count
            found[name] = len(counts.values) - nulls
        return found | {name: len(np.unique(values)) for name, values in self.numbers.items()}


def count_sides(
    train: pd.DataFrame,
    users: pd.DataFrame | pa.Table | SideRows,
    items: pd.DataFrame | pa.Table | SideRows,
    config: FeaturesConfig,
    folder: Path,
    run: RunTasks = map,
) -> list[CountedSide]:
    """Count the values of the users, the items and the context in the training part.

    See `fit_features` for the parameters; `folder` is where tables are put for other processes.
    """
    user, item = config.sides
    counted = [
        count_side(side_rows(table, side, folder, run), side, train[side.id], run)
        for side, table in zip((user, item), (users, items), strict=True)
    ]
    if user.history is not None:
        ids = pd.Series(train[item.id].to_numpy())
        found = ids.value_counts()
        sizes = Counts(pa.array(found.index.to_numpy()), found.to_numpy(np.int64))
        counted[0].counts[user.history] = sizes
    if config.context_columns:
        context = config.of_interaction
        rows = side_table(train, context)
        place = pd.Series(np.arange(len(rows)))
        rows = rows.set_column(0, rows.column_names[0], pa.array(place.to_numpy()))
        found_in = count_side(SideRows(rows, in_parts(rows, folder, map)), context, place)
        found_in.counts.pop(context.id, None)
        counted.append(found_in._replace(sample=found_in.sample.drop(columns=context.id)))
    return counted


def count_side(rows: SideRows, side: Side, of_pairs: pd.Series, run: RunTasks = map) -> CountedSide:
    """Count the values of one side.

    Parameters
    ----------
    rows : SideRows
    side : Side
        With the names in the data.
    of_pairs : Series of int64
        The id of each pair in the training part.
    run : callable
        See `RunTasks`.
    """
    table, parts = rows
    inner = side.internal
    names = [
        name for name in [inner.id, *inner.categorical, *inner.multi_hot] if name != side.history
    ]
    row_counts = occurrences(in_one_piece(table[inner.id]).to_numpy(), of_pairs)
    counts = count_table(parts, row_counts, names, list(inner.multi_hot), run)
    places = None
    numbers = {}
    for name in inner.numeric:
        if places is None:
            ids = pd.Index(in_one_piece(table[inner.id]).to_numpy())
            places = ids.get_indexer(of_pairs.to_numpy())
        column = in_one_piece(table[name]).cast(pa.float64(), safe=False)
        values = column.to_numpy(zero_copy_only=False)[places]
        numbers[name] = values[~np.isnan(values)]
    nullable = {
        field.name
        for field in table.schema
        if pa.types.is_int64(field.type) and table[field.name].null_count
    } - set(inner.numeric)
    return CountedSide(side, counts, numbers, nullable, _sample(table, inner, row_counts, nullable))


def _sample(
    table: pa.Table, side: Side, row_counts: np.ndarray, nullable: set[str]
) -> pd.DataFrame:
    """Return rows of the training part such that each column has a value in one of them."""
    occurs = row_counts > 0
    rows = {int(occurs.argmax())}
    for name in table.column_names:
        column = in_one_piece(table[name])
        filled = occurs & column.is_valid().to_numpy(zero_copy_only=False)
        if is_list(column):
            filled &= list_lengths(column) > 0
        if filled.any():
            rows.add(int(filled.argmax()))
    sample = table.take(pa.array(sorted(rows)))
    columns = {}
    for name in table.column_names:
        column = in_one_piece(sample[name])
        if name in side.multi_hot:
            column = with_words(column)
            lists = [[] if each is None else each for each in column.to_pylist()]
            if name == side.history:  # its codes are those of the item ids
                lists = [each or [0] for each in lists]
            columns[name] = pd.Series(lists)
        elif name in side.numeric:
            columns[name] = column.cast(pa.float64(), safe=False).to_pandas()
        elif name in nullable:
            columns[name] = pd.Series(column.to_pylist(), dtype="Int64")
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)


def joint_sample(counted: list[CountedSide]) -> pd.DataFrame:
    """Return a few rows, with a value in each column, in which NVTabular finds the types.

    NVTabular transforms them about a dozen times, and fails if a list column or a column of whole
    numbers beside nulls has no value.
    """
    samples = [each.sample for each in counted]
    size = max(len(each) for each in samples)
    rows = [each.iloc[np.arange(size) % len(each)].reset_index(drop=True) for each in samples]
    return pd.concat(rows, axis=1)
