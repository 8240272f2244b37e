"""Tables as people have them: data frames, or paths of files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.sources.data_path import DataPath

Table: TypeAlias = pd.DataFrame | str | Path
"""A data frame, or the path of a file or folder: CSV, JSON lines or parquet."""


def as_table(name: str, given: Table) -> pa.Table | Path:
    """Return a data frame as an Arrow table, and a path as an absolute one."""
    if not isinstance(given, pd.DataFrame):
        return DataPath(given).absolute()
    try:
        return pa.Table.from_pandas(given, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{name}: {error}. Give the column values of one type, such as "
            'frame["column"].astype(str)'
        ) from error
