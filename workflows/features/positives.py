"""Which interactions are positives, what they weigh, and each user's history of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from twotower.workflows.errors import DataError
from twotower.workflows.features.config import WEIGHTS, FeaturesConfig, PositivesConfig
from twotower.workflows.order import has_order, keys, time_order

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


def values_like(column: pd.Series, values: Iterable[str | int | float]) -> dict[Any, Any]:
    """Convert each of `values` to the kind of the column, numbers or texts.

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
                f"{_found(column)}"
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
    """Keep the positive rows, in their order, with NVTabular's Filter.

    Raises
    ------
    DataError
        See `check_positives`.
    """
    check_positives(interactions, config)
    if config.column is None:
        return interactions
    import nvtabular as nvt

    workflow = positives_workflow(config, list(interactions.columns))
    kept = workflow.transform(nvt.Dataset(interactions)).compute().reset_index(drop=True)
    return kept.to_pandas() if hasattr(kept, "to_pandas") else kept


def check_positives(interactions: pd.DataFrame, config: PositivesConfig) -> None:
    """Check the columns that the settings name.

    Raises
    ------
    DataError
        If a column is missing or has values of another kind, no row is a positive, a value of
        `positives.values` does not occur, or a positive has no weight above 0.
    """
    check_positives_columns(interactions.columns, config)
    if config.column is not None:
        check_any_positive(interactions, config)
        interactions = interactions[is_positive(interactions, config)]
    check_weights(interactions, config)


def check_positives_columns(names: Collection[str], config: PositivesConfig) -> None:
    """Raise DataError if the interactions, which have the columns `names`, lack a named one."""
    for setting, name in (("column", config.column), ("weight", config.weight)):
        if name is not None and name not in names:
            raise DataError(
                f"positives.{setting}: the interactions have no column {name!r}; "
                f"they have {', '.join(names)}. If the files have it, run `twotower ingest` again"
            )


def check_any_positive(interactions: pd.DataFrame, config: PositivesConfig) -> None:
    """Raise DataError if the column has the wrong kind of values, or no row is a positive."""
    if config.column is None:
        return
    column = interactions[config.column]
    if config.values:
        there = set(column.unique())
        for value, given in values_like(column, config.values).items():
            if value not in there:
                raise DataError(
                    f"positives.values: no row has {given!r} in column {config.column!r}"
                    f"{_found(column)}; correct it or remove it"
                )
        return
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"positives.column: column {config.column!r} has no numbers, but positives.at_least "
            f"needs them{_found(column)}; name the values that are positives in positives.values"
        )
    if not is_positive(interactions, config).any():
        raise DataError(
            f"positives: no row has {config.column} >= {config.threshold:g} "
            f"(its largest value is {column.max():g}); lower positives.at_least"
        )


def _found(column: pd.Series) -> str:
    """Name the most frequent values of a column, for messages."""
    counts = column.value_counts()
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
    users: pd.DataFrame, train: pd.DataFrame, positives: pd.DataFrame, config: FeaturesConfig
) -> pd.DataFrame:
    """Add the column of each user's latest positives in the training part.

    Parameters
    ----------
    users : DataFrame
        The user table.
    train : DataFrame
        The pairs of the training part, with the columns `keys`.
    positives : DataFrame
        All positives, whose times order the histories, see `time_order`. Pairs with equal times are
        in the reverse order of `train`.
    config : FeaturesConfig

    Returns
    -------
    DataFrame
        `users` with a column of lists of item ids, the latest first, at most `config.history`
        long, and empty for a user without positives. `users` itself if there is no history.
    """
    if not config.history:
        return users
    rows = train[keys(train)].iloc[time_order(train, positives)[::-1]]
    latest = rows.groupby(config.user_id, sort=False)[config.item_id]
    lists = latest.agg(lambda items: items.to_numpy()[: config.history].tolist())
    column = users[config.user_id].map(lists)
    column = column.where(column.notna(), pd.Series([[]] * len(users), users.index))
    return users.assign(**{config.history_column: column})


def remarks(
    interactions: pd.DataFrame, config: PositivesConfig, ordered: bool, counts: dict[str, Any]
) -> Iterator[str]:
    """Say what was assumed about the rows, and which were left out.

    Parameters
    ----------
    interactions : DataFrame
    config : PositivesConfig
    ordered : bool
        Whether the order of the rows in time matters.
    counts : dict
        The report on the split, see `split_report`.

    Yields
    ------
    str
        A line.
    """
    if ordered and not has_order(interactions):
        yield "the interactions have no timestamp: their order in the file is used as time"
    if config.column and (unknown := int(interactions[config.column].isna().sum())):
        yield f"{unknown:,} rows without a value in {config.column} are not positives"
    for name, reason in LEFT_OUT.items():
        if counts[name]:
            yield f"{counts[name]:,} {reason}"
