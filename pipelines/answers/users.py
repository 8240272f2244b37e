"""The users to answer: all users of a version, or those in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.pipelines.console import say
from twotower.pipelines.errors import ConfigError
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.manifest import sha256
from twotower.workflows.sources.columns import as_ids
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.table import FileTable, open_table
from twotower.workflows.sources.times import as_seconds

ALL = "all"
TEXT_SUFFIXES, SEPARATORS = (".csv", ".tsv", ".txt"), (b",", b";", b"\t", b"|")


@dataclass(frozen=True)
class Users:
    """Users, in the order in which they are answered.

    Attributes
    ----------
    ids : ndarray, shape (n,)
        Raw user ids.
    digest : str
        A hash of the ids and the features, to recognise the same users again.
    features : mapping of str to list
        The features that the file gives, one value per user.
    unused : sequence of str
        The columns of the file that are no feature of the version.
    """

    ids: np.ndarray
    digest: str
    features: Mapping[str, list] = field(default_factory=dict)
    unused: Sequence[str] = ()

    def batch(self, first: int, last: int) -> tuple[np.ndarray, dict[str, list]]:
        """The ids and the features of the users from `first` up to `last`."""
        return self.ids[first:last], {
            name: values[first:last] for name, values in self.features.items()
        }


def read_users(source: str, version: LocalVersion) -> Users:
    """Read the users to answer.

    Parameters
    ----------
    source : str
        "all" for all users of the version, or the path of a file in a format that `open_table`
        reads. Its user ids are in the column with the model's name for them, or else in the first
        column. Columns that are named like a feature of the version give its values; times may be
        written as in interactions.
    version : LocalVersion

    Raises
    ------
    ConfigError
        If there is no such file.
    DataError
        If it cannot be read, has no rows, or has a wrong id; the message names the row.
    """
    if source == ALL:
        return Users(version.user_ids, ALL)
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"--users {path}: no such file; name one, or `all` for all users")
    kind = pa.array(version.user_ids[:1]).type
    table, name = open_ids(path, version.contract.user_id, kind, version.user_ids)
    known = [each for each in version.contract.features if each != name and each in table]
    features = {each: table.column(each).values.to_pylist() for each in known}
    time = version.time_input
    if time is not None and time in features:
        features[time] = as_seconds(table.column(time), say).to_pylist()
    unused = [each for each in table.names if each != name and each not in features]
    return Users(ids_of(table, name, kind), sha256(path), features, unused)


def open_ids(path: Path, own: str, kind: pa.DataType, known: np.ndarray) -> tuple[FileTable, str]:
    """Open a file of ids.

    Parameters
    ----------
    path : Path
    own : str
        The name of the column of ids; if there is none, the ids are in the first column.
    kind : DataType
        The type of the ids.
    known : ndarray
        Ids, by which a file without a header is recognised.

    Returns
    -------
    table : FileTable
    name : str
        The name of the column with the ids.
    """
    options = ReadOptions(header=True, separator=_separator(path))
    table = open_table(path, options)
    if own not in table and _is_id(table.names[0], known):
        options = replace(options, header=False)
        table = open_table(path, options)
    name = own if own in table else table.names[0]
    if name != own:
        header = "" if options.header else "; it has no header"
        say(f"{path}: the ids are in the first column{header}")
    if pa.types.is_string(kind):  # ids that look like numbers are text, too
        table = open_table(path, replace(options, types={name: kind}))
    return table, name


def ids_of(table: FileTable, name: str, kind: pa.DataType) -> np.ndarray:
    """Read the ids from a column of a table that `open_ids` opened."""
    ids = as_ids(table.column(name, keep_unsigned=True), kind)
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(kind)
    return ids.to_numpy(zero_copy_only=False)


def _separator(path: Path) -> str | None:
    """Any separator for a text file that has one column; None to find it."""
    if path.suffix not in TEXT_SUFFIXES:
        return None
    with path.open("rb") as file:
        line = file.readline()
    return None if any(mark in line for mark in SEPARATORS) else ","


def _is_id(name: str, ids: np.ndarray) -> bool:
    """Whether the name of a column is an id, so that the file has no header."""
    return name in set(ids.tolist()) if ids.dtype == object else name.lstrip("-").isdigit()
