"""One file of a table: its columns, read one by one, and the places of its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.paths import BROKEN, DataFile
from twotower.workflows.tables import UNREADABLE


class Part(ABC):
    """One file of a table.

    Attributes
    ----------
    file : DataFile
    names : list of str
        Its columns, in order.
    num_rows : int
    has_plain_text : bool
        Whether its columns are text that may stand for numbers.
    may_lack_columns : bool
        Whether a column that another part has may be missing without a remark.
    """

    has_plain_text: ClassVar[bool] = False
    may_lack_columns: ClassVar[bool] = False
    file: DataFile
    names: list[str]
    num_rows: int

    @property
    def columns(self) -> list[str]:
        """Its columns and those that its folders name, such as year in year=2024/."""
        return [*self.names, *(name for name in self.file.partitions if name not in self.names)]

    def kind(self, name: str) -> pa.DataType:
        """The type of a column of the file or its folders."""
        return self.type(name) if name in self.names else pa.string()

    def values(self, name: str) -> pa.ChunkedArray:
        """Read a column of the file or its folders."""
        if name in self.names:
            return self.read(name)
        value = pa.scalar(self.file.partitions[name], pa.string())
        return pa.chunked_array([pa.repeat(value, self.num_rows)])

    def is_plain_text(self, name: str) -> bool:
        """Whether a column is text that may stand for numbers."""
        return self.has_plain_text if name in self.names else True

    @abstractmethod
    def type(self, name: str) -> pa.DataType:
        """The type in which the file has a column."""

    @abstractmethod
    def read(self, name: str) -> pa.ChunkedArray:
        """Read a column, as the file has it."""

    @abstractmethod
    def place(self, row: int) -> str:
        """Describe a row for messages; `row` counts from 0."""


class ParquetPart(Part):
    """A parquet file, or the rows of a text file that were stored as one.

    Parameters
    ----------
    file : DataFile
        The file for messages, which is opened if there is no `source`.
    source : file object, optional
        The parquet file; it is kept open.
    """

    def __init__(self, file: DataFile, source: BinaryIO | None = None):
        self.file, self._source = file, source
        try:
            parquet = self._open()
            self._schema, self._metadata = parquet.schema_arrow, parquet.metadata
            self.names = self._schema.names  # raises if the names are damaged
            parquet.close()
        except (*UNREADABLE, *BROKEN) as error:
            raise DataError(f"{self.file}: not a readable parquet file ({error})") from error
        self.num_rows = self._metadata.num_rows

    def _open(self, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
        if self._source is not None:
            # By its path: Arrow's threads abort the process if they hold a Python file when it
            # ends.
            source: object = f"/dev/fd/{self._source.fileno()}"
        elif self.file.member:
            source = pa.BufferReader(self.file.open().read())
        else:
            source = self.file.path
        return pq.ParquetFile(source, metadata=metadata)

    def type(self, name: str) -> pa.DataType:
        """The type in which the file has a column."""
        return self._schema.field(name).type

    def read(self, name: str) -> pa.ChunkedArray:
        """Read a column, as the file has it."""
        # Not kept open, because a table may have more files than a process may open.
        with self._open(self._metadata) as parquet:
            # Arrow reads "item.id" as well if it is asked for "item".
            return parquet.read(columns=[name]).column(name)

    def place(self, row: int) -> str:
        """Describe a row for messages: its file, and its number in it from 1."""
        return f"{self.file}, row {row + 1}"
