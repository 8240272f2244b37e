"""How to read the files of one table, where the files themselves do not say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Format = Literal["auto", "parquet", "csv", "json"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read the files of one table.

    Attributes
    ----------
    format : str
        "parquet", "csv" (text with any separator), "json" (one JSON object per line), or "auto":
        as the name or else the content of a file says.
    separator : str or None
        Text between two fields of a CSV file, of one or more characters; None to find it.
    header : bool or None
        Whether the first line of a CSV file has the column names; None to find it.
    column_names : tuple of str
        The columns of CSV files without a header, in order.
    encoding : str or None
        The encoding of text files; None to find it.
    quotes : bool or None
        Whether a field of a CSV file may be in double quotes, within which separators and line
        breaks belong to the value; None for all files whose separator is one character.
    types : mapping of str to DataType
        Known types of columns of text files, by their names in the files. Other columns get the
        type that all of their values allow (see `text_types`).
    wanted : frozenset of str or None
        The columns of text files that may be read, by their names in the files; None for all.
        Others are not stored, which saves time and memory.
    """

    format: Format = "auto"
    separator: str | None = None
    header: bool | None = None
    column_names: tuple[str, ...] = ()
    encoding: str | None = None
    quotes: bool | None = None
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    wanted: frozenset[str] | None = None
