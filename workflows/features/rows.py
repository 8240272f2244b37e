"""Convert the rows of a table to the types that NVTabular needs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twotower.workflows.features.text import words


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
