"""A small log of interactions as parquet, for the tests of columns and of files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.source import FilesSource
from twotower.workflows.sources.wanted import Wanted


def read(folder, log: pd.DataFrame, **settings):
    """The tables of `log` as log.parquet, and the messages."""
    pq.write_table(pa.Table.from_pandas(log, preserve_index=False), folder / "log.parquet")
    messages = []
    source = files_source(folder, **{"interactions": "log.parquet", **settings})
    return source.read(on_message=messages.append), messages


def files_source(folder, user_features=(), item_features=(), categories=(), **settings):
    """The source of files in a folder, with wanted features."""
    wanted = Wanted((), tuple(user_features), tuple(item_features), frozenset(categories))
    return FilesSource(folder, FilesConfig(**settings), wanted)


PAIRS = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [10, 10, 11]})


SECONDS = np.array([1577836800, 1609459199, 1577836801])


DATES = [pd.Timestamp(second, unit="s") for second in SECONDS]


def column(values, kind=None) -> pa.Table:
    return pa.table({"user_id": [1, 2], "item_id": [1, 2], "x": pa.array(values, kind)})
