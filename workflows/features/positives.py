"""Which interactions are positives, and each user's history of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from twotower.workflows.errors import DataError
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig

if TYPE_CHECKING:
    import nvtabular as nvt


def is_positive(interactions: pd.DataFrame, config: PositivesConfig) -> pd.Series:
    """Compare each interaction with the threshold.

    Returns
    -------
    Series of bool, one per row; a missing value is not a positive
    """
    return interactions[config.column] >= config.at_least


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
        If the column is missing or not numeric, or no row is a positive.
    """
    if config.column is None:
        return interactions
    check_positives_column(interactions, config)
    check_any_positive(interactions, config)
    import nvtabular as nvt

    workflow = positives_workflow(config, list(interactions.columns))
    kept = workflow.transform(nvt.Dataset(interactions)).compute().reset_index(drop=True)
    return kept.to_pandas() if hasattr(kept, "to_pandas") else kept


def check_positives_column(interactions: pd.DataFrame, config: PositivesConfig) -> None:
    """Raise DataError if the interactions have no numeric column `config.column`."""
    if config.column is None:
        return
    if config.column not in interactions:
        raise DataError(
            f"positives.column: the interactions have no column {config.column!r}; "
            f"they have {', '.join(interactions.columns)}"
        )
    if not pd.api.types.is_numeric_dtype(interactions[config.column]):
        raise DataError(
            f"positives.column: column {config.column!r} has no numbers, but positives.at_least "
            "needs them; store a column that has 1 for positives and 0 for other rows, add it to "
            "ingest.parquet.keep and name it in positives.column"
        )


def check_any_positive(interactions: pd.DataFrame, config: PositivesConfig) -> None:
    """Raise DataError if no row is a positive."""
    if config.column is None or is_positive(interactions, config).any():
        return
    raise DataError(
        f"positives: no row has {config.column} >= {config.at_least:g} "
        f"(its largest value is {interactions[config.column].max():g}); "
        "lower positives.at_least"
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
        The pairs of the training part, with the columns user_id and item_id.
    positives : DataFrame
        All positives. If they have the column timestamp, histories are ordered by it; a repeated
        pair has the time of its last row, as in the split. Pairs with equal times are in the
        reverse order of `train`.
    config : FeaturesConfig

    Returns
    -------
    DataFrame
        `users` with a column of lists of item ids, the latest first, at most `config.history`
        long, and empty for a user without positives. `users` itself if there is no history.
    """
    if not config.history:
        return users
    keys = [config.user_id, config.item_id]
    rows = train[keys]
    if "timestamp" in positives:
        times = positives[[*keys, "timestamp"]].drop_duplicates(keys, keep="last")
        rows = rows.merge(times, on=keys, how="left").sort_values("timestamp", kind="stable")
    latest = rows.iloc[::-1].groupby(config.user_id, sort=False)[config.item_id]
    lists = latest.agg(lambda items: items.to_numpy()[: config.history].tolist())
    column = users[config.user_id].map(lists)
    column = column.where(column.notna(), pd.Series([[]] * len(users), users.index))
    return users.assign(**{config.history_column: column})
