"""Prepare the rows of a table for NVTabular: the columns of one side, in the types it needs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twotower.workflows.features.checks import check_table
from twotower.workflows.features.names import internal_name
from twotower.workflows.features.sides import Side
from twotower.workflows.features.text import words


def side_rows(table: pd.DataFrame, side: Side) -> pd.DataFrame:
    """Check a table, and return the columns of its side by internal names, converted by `typed`.

    Raises DataError (see `check_table`).
    """
    check_table(table, side)
    rows = typed(table[side.columns], lists=list(side.multi_hot), numbers=side.numeric)
    return rows.rename(columns=internal_name)


def typed(table: pd.DataFrame, lists: list[str], numbers: list[str]) -> pd.DataFrame:
    """Convert columns to the types that NVTabular needs.

    Parameters
    ----------
    table : DataFrame
        Rows that `check_table` has accepted.
    lists : list of str
        Columns in which a text becomes the list of its words and a null an empty list.
    numbers : list of str
        Columns that become float64.
    """
    table = table.copy()
    for column in numbers:
        table[column] = table[column].astype(np.float64)
    for column in lists:
        values = table[column]
        if any(isinstance(value, str) for value in values):
            values = values.map(words, na_action="ignore")
        null = values.isna()
        if null.any():
            values = values.where(~null, pd.Series([[]] * len(table), table.index))
        table[column] = values
    return table
