"""Which interactions are positives, what they weigh, and each user's history of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.features.config import WEIGHTS, FeaturesConfig, PositivesConfig
from twotower.workflows.order import keys, positions, time_order

if TYPE_CHECKING:
    import nvtabular as nvt

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": np.asarray,
    "sqrt": np.sqrt,
    "log1p": np.log1p,
}
"""The values of the setting `positives.weight_transform`."""
SHOWN = 8
"""Number of values that a message names."""
LEFT_OUT = {
    "repeated_pairs": "positives left out because a later row has the same user and item",
    "dropped_by_k_core": "positives left out by k-core",
    "not_in_split_file": "positives left out because the split file does not list them",
}
"""What the counts of `split` mean."""


def is_positive(interactions: pd.DataFrame, config: PositivesConfig) -> pd.Series:
    """Compare each interaction with the threshold or the values.

    Returns
    -------
    Series of bool, one per row; a missing value is not a positive
    """
    values = interactions[config.column]
    if config.values:
        return values.isin(list(values_like(values, config.values)))
    return values >= config.threshold


def values_like(
    column: pd.Series, values: Iterable[str | int | float], counts: pd.Series | None = None
) -> dict[Any, Any]:
    """Convert each of `values` to the kind of the column, numbers or texts.

    Parameters
    ----------
    column : Series
    values : iterable of str, int or float
    counts : Series of int64, optional
        The number of rows by value, the most frequent first, for the message of an error. By
        default the rows of `column` are counted.

    Returns
    -------
    dict
        The converted values, each with the value in `values`.

    Raises
    ------
    DataError
        If a value cannot be of that kind.
    """
    if not pd.api.types.is_numeric_dtype(column):
        numbers = [value for value in values if not isinstance(value, str)]
        if numbers:
            raise DataError(
                f"positives.values: column {column.name!r} has texts, so put {numbers[0]!r} in "
                "quotes"
            )
        return {value: value for value in values}
    converted: dict[Any, Any] = {}
    for value in values:
        try:
            converted[float(value) if isinstance(value, str) else value] = value
        except ValueError:
            raise DataError(
                f"positives.values: column {column.name!r} has numbers, but {value!r} is none"
                f"{_found(column.value_counts() if counts is None else counts)}"
            ) from None
    return converted


def positives_workflow(config: PositivesConfig, columns: list[str]) -> nvt.Workflow:
    """Make the NVTabular graph that keeps the positive rows of a table with `columns`."""
    import nvtabular as nvt
    from nvtabular import ops

    nodes = nvt.ColumnSelector(columns)
    if config.column is not None:
        nodes = nodes >> ops.Filter(f=partial(is_positive, config=config))
    return nvt.Workflow(nodes)


def filter_positives(interactions: pd.DataFrame, config: PositivesConfig) -> pd.DataFrame:
    """Keep the positive rows, in their order, with NVTabular's Filter."""
    if config.column is None:
        return interactions
    from merlin.dag.executors import LocalExecutor
    from merlin.schema import Schema

    columns = list(interactions.columns)
    workflow = positives_workflow(config, columns).fit_schema(Schema(columns))
    return LocalExecutor().transform(interactions, workflow.graph)


def check_positives_columns(names: Collection[str], config: PositivesConfig) -> None:
    """Raise DataError if the interactions, which have the columns `names`, lack a named one."""
    for setting, name in (("column", config.column), ("weight", config.weight)):
        if name is not None and name not in names:
            raise DataError(
                f"positives.{setting}: the interactions have no column {name!r}; "
                f"they have {', '.join(names)}. If the files have it, run `twotower ingest` again"
            )


def check_any_positive(counts: pd.Series, config: PositivesConfig) -> None:
    """Check the values of `positives.column`.

    Parameters
    ----------
    counts : Series of int64
        The number of rows by value, nulls excluded, the most frequent first; the column's name.
    config : PositivesConfig

    Raises
    ------
    DataError
        If the column has the wrong kind of values, or no row is a positive.
    """
    column = pd.Series(counts.index, name=counts.name)
    if config.values:
        there = set(column)
        for value, given in values_like(column, config.values, counts).items():
            if value not in there:
                raise DataError(
                    f"positives.values: no row has {given!r} in column {config.column!r}"
                    f"{_found(counts)}; correct it or remove it"
                )
        return
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"positives.column: column {config.column!r} has no numbers, but positives.at_least "
            f"needs them{_found(counts)}; name the values that are positives in positives.values"
        )
    if not (column >= config.threshold).any():
        raise DataError(
            f"positives: no row has {config.column} >= {config.threshold:g} "
            f"(its largest value is {column.max():g}); lower positives.at_least"
        )


def _found(counts: pd.Series) -> str:
    """Name the most frequent values of a column, for messages."""
    names = [repr(value) for value in counts.index[:SHOWN].tolist()]
    if not names:
        return ""
    more = f" and {len(counts) - SHOWN:,} other values" if len(counts) > SHOWN else ""
    return f" (it has {', '.join(names)}{more})"


def check_weights(positives: pd.DataFrame, config: PositivesConfig) -> None:
    """Check the column of weights of the positive rows.

    Raises
    ------
    DataError
        If it has no numbers, or one outside `WEIGHTS`. The message names the row.
    """
    if config.weight is None:
        return
    column = positives[config.weight]
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"positives.weight: column {config.weight!r} has {column.iloc[0]!r}, not a number; "
            "give the weights of texts as a mapping in positives.values"
        )
    weights = column.to_numpy(np.float64, na_value=np.nan)
    low, high = WEIGHTS
    wrong = ~((weights >= low) & (weights <= high))
    if wrong.any():
        row = int(wrong.argmax())
        user, item = positives[["user_id", "item_id"]].iloc[row]
        found = "no value" if np.isnan(weights[row]) else f"{weights[row]:g}"
        raise DataError(
            f"positives.weight: column {config.weight!r} has {found} for user_id {user} and "
            f"item_id {item} ({int(wrong.sum()):,} such positives); a weight is a number from "
            f"{low:g} to {high:g}. Correct these rows, or exclude them with positives.column and "
            "positives.at_least"
        )


def pair_weights(
    pairs: pd.DataFrame, positives: pd.DataFrame, config: PositivesConfig
) -> np.ndarray | None:
    """Compute the weight of each pair: the sum over its positive rows, then transformed.

    Parameters
    ----------
    pairs : DataFrame
        The columns `keys`, each combination once.
    positives : DataFrame
        The positive rows, among them all of `pairs`.
    config : PositivesConfig

    Returns
    -------
    ndarray of float32, shape (n,), or None
        Above 0; None if positives have no weights.
    """
    if not config.has_weights:
        return None
    if config.weight is not None:
        weights = positives[config.weight].astype(np.float64)
    else:
        weights = _weights_of_values(positives[config.column], config)
    by = keys(pairs)
    totals = weights.groupby([positives[name] for name in by], sort=False).sum()
    found = pairs[by].merge(totals.rename("weight").reset_index(), on=by, how="left")
    transform = TRANSFORMS[config.weight_transform]
    return transform(found["weight"].to_numpy(np.float64)).astype(np.float32)


def _weights_of_values(column: pd.Series, config: PositivesConfig) -> pd.Series:
    """The weight that `positives.values` gives to each row."""
    assert isinstance(config.values, dict)
    known = values_like(column, config.values)
    return column.map({value: config.values[given] for value, given in known.items()}).astype(
        np.float64
    )


def add_history(
    users: pa.Table, train: pd.DataFrame, positives: pd.DataFrame, config: FeaturesConfig
) -> pa.Table:
    """Add the column of each user's latest positives in the training part.

    Parameters
    ----------
    users : Table
        The user table.
    train : DataFrame
        The pairs of the training part, with the columns `keys`.
    positives : DataFrame
        All positives, whose times order the histories, see `time_order`. Pairs with equal times are
        in the reverse order of `train`.
    config : FeaturesConfig

    Returns
    -------
    Table
        `users` with a column of lists of item ids, the latest first, at most `config.history`
        long, and empty for a user without positives. `users` itself if there is no history.
    """
    if not config.history:
        return users
    order = time_order(train, positives)[::-1]
    age, _ = positions(train[config.user_id].to_numpy(), order)
    kept = np.flatnonzero(age < config.history)
    ids = pd.Index(users[config.user_id].to_numpy())
    rows = ids.get_indexer(train[config.user_id].to_numpy()[kept])
    by_row = np.lexsort((age[kept], rows))
    by_row = by_row[rows[by_row] >= 0]
    offsets = np.append(0, np.cumsum(np.bincount(rows[by_row], minlength=len(ids))))
    items = train[config.item_id].to_numpy(np.int64)[kept[by_row]]
    lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(items))
    return users.append_column(config.history_column, lists)


def remarks(
    without_value: int, config: PositivesConfig, assumed_order: bool, counts: dict[str, Any]
) -> Iterator[str]:
    """Say what was assumed about the rows, and which were left out.

    Parameters
    ----------
    without_value : int
        The number of interactions without a value in `positives.column`.
    config : PositivesConfig
    assumed_order : bool
        Whether the order of the rows in time matters, but the interactions have none.
    counts : dict
        The report on the split, see `split_report`.

    Yields
    ------
    str
        A line.
    """
    if assumed_order:
        yield "the interactions have no timestamp: their order in the file is used as time"
    if without_value:
        yield f"{without_value:,} rows without a value in {config.column} are not positives"
    for name, reason in LEFT_OUT.items():
        if counts[name]:
            yield f"{counts[name]:,} {reason}"
