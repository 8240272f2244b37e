"""A small log of interactions as parquet, for the tests of columns and of parquet files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.sources.parquet.config import ParquetConfig
from twotower.workflows.sources.parquet.source import ParquetSource


def read(folder, log: pd.DataFrame, **settings):
    """The tables of `log` as interactions.parquet, and the messages."""
    pq.write_table(pa.Table.from_pandas(log, preserve_index=False), folder / "log.parquet")
    messages = []
    config = ParquetConfig(interactions="log.parquet", **settings)
    return ParquetSource(folder, config).read(on_message=messages.append), messages


PAIRS = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [10, 10, 11]})


SECONDS = np.array([1577836800, 1609459199, 1577836801])


DATES = [pd.Timestamp(second, unit="s") for second in SECONDS]


def column(values, kind=None) -> pa.Table:
    return pa.table({"user_id": [1, 2], "item_id": [1, 2], "x": pa.array(values, kind)})
