"""The interface that every data source implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import StoredTables
from twotower.workflows.tables import Tables

IdTypes = Mapping[str, pa.DataType]
"""The types of the columns user_id and item_id: int64, uint64 or string."""
Progress = Callable[[int, int], None]
"""Called with (units done, units in total)."""
OnMessage = Callable[[str], None]
"""Called with one line about the data that people should know, such as a count of repeated rows."""


def ignore(message: str) -> None:
    """No-op callback."""


class Source(ABC):
    """A data format that `ingest` can read.

    To add a format, derive one class and register it in `workflows.ingest`: in `SOURCES` and, if
    it has settings, as a field of `IngestConfig` that is named like the source, with "_" for "-".

    Parameters
    ----------
    path : Path or None
        The setting `ingest.path`.
    settings : BaseModel or None
        The source's section of the ingest settings; None for a source without settings.
    wanted : Wanted, optional
        The columns that the settings of the run name, for a source that does not read all.

    Attributes
    ----------
    name : str
        The value of the setting `ingest.source` for this format.
    contents : str
        The name of the data set and its files, for messages, if `recognise` can find it.
    names_files : bool
        Whether the source's settings name files relative to `ingest.path`, or to the working
        directory if there is no such path.
    work : Path or None
        A folder for files that an interrupted `read` finds again, set by `ingest`.
    """

    name: ClassVar[str]
    contents: ClassVar[str] = ""
    names_files: ClassVar[bool] = False

    def __init__(self, path: Path | None, settings: Any = None, wanted: Wanted | None = None):
        self.path = path
        self.settings = settings
        self.wanted = wanted or Wanted()
        self.work: Path | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the data is made up, so that metrics say nothing about real users."""
        return False

    @property
    def keeps_repeats(self) -> bool:
        """Whether interactions may repeat a (user_id, item_id) pair."""
        return False

    @property
    def mixed(self) -> Collection[str]:
        """The tables of users or items whose rows come from two files that were just read.

        A row of an update may lack the values of one of them, which stay as they were.
        """
        return ()

    @property
    def lists_all_items(self) -> bool:
        """Whether the items of an update are the whole catalogue; others are then withdrawn.

        It holds for rows that have the column `AVAILABLE` of `workflows.availability`.
        """
        return False

    @classmethod
    def recognise(cls, path: Path) -> Path | None:
        """Find data in this format without any settings.

        Parameters
        ----------
        path : Path
            A folder or a file, which need not exist.

        Returns
        -------
        Path or None
            The folder or file with the data: `path` or something in it. One file of the format is
            enough; `read` reports missing ones. None if there is no such data, or if the format
            cannot be recognised without settings.

        Raises
        ------
        DataError
            If a file that must be opened for this is damaged.
        """
        return None

    @classmethod
    def shipped_config(cls, path: Path) -> str:
        """Return the name of the shipped configuration for the data that `recognise` finds."""
        return cls.name

    @abstractmethod
    def files(self) -> list[Path]:
        """List the files that `read` reads, in a fixed order. Empty if there are none."""

    @abstractmethod
    def read(
        self, progress: Progress | None = None, on_message: OnMessage = ignore
    ) -> Tables | StoredTables:
        """Read and check the data; ids are as given.

        StoredTables are for data that may not fit in memory; their files are in `work`.

        Raises
        ------
        DataError
            The message names the file, the place in it, the value and what to do.
        """

    @abstractmethod
    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read and check new data from `folder`, which has the same format as `path`.

        Without interactions, `folder` may have only users or only items.

        Parameters
        ----------
        folder : Path
        id_types : mapping of str to DataType
            The types of the ids before, which those in `folder` must have.
        progress, on_message : callable, optional

        Returns
        -------
        dict of str to Table
            The new rows by the name of the table, a field of `Tables`. A table without new rows may
            be missing.

        Raises
        ------
        DataError
            If the data is wrong, or there is no row at all.
        """


class ProgressCounter:
    """Counts units of work and reports each to a callback.

    Parameters
    ----------
    progress : callable or None
        Called with (units done, units in total) after each unit.
    total : int
    """

    def __init__(self, progress: Progress | None, total: int):
        self._progress, self._total, self._done = progress, total, 0

    def advance(self, units: int = 1) -> None:
        """Count units as done."""
        self._done += units
        if self._progress:
            self._progress(self._done, self._total)
