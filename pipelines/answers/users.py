"""The users to answer: all users of a version, or those in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from twotower.pipelines.errors import ConfigError
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.manifest import sha256

ALL = "all"
ARROW = {"INT64": pa.int64(), "FP32": pa.float64(), "FP64": pa.float64(), "BYTES": pa.string()}
"""The types of features in a CSV file, by their Triton data type."""


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
        "all" for all users of the version, or the path of a parquet, CSV or JSON lines file. Its
        user ids are in the column with the model's name for them, or else in the first column.
        Columns that are named like a feature of the version give its values.
    version : LocalVersion

    Raises
    ------
    ConfigError
        If the file cannot be read, has no rows, or has a wrong id; the message names the row.
    """
    if source == ALL:
        return Users(version.user_ids, ALL)
    path = Path(source)
    where = f"--users {path}"
    if not path.is_file():
        raise ConfigError(f"{where}: no such file; name one, or `all` for all users")
    try:
        table = _read(path, version)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from error
    name = _id_column(table.column_names, version)
    if not len(table):
        raise ConfigError(f"{where}: no users")
    known = [each for each in version.contract.features if each != name]
    features = {each: table[each].to_pylist() for each in known if each in table.column_names}
    unused = [each for each in table.column_names if each != name and each not in features]
    return Users(
        _ids(table[name], version, f"{where}, column {name}"), sha256(path), features, unused
    )


def _read(path: Path, version: LocalVersion) -> pa.Table:
    """Read a parquet, CSV or JSON lines file, by its suffix."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return pyarrow.json.read_json(path)
    if path.suffix != ".csv":
        raise ConfigError(f"--users {path}: expected a file named .parquet, .csv or .jsonl")
    with pyarrow.csv.open_csv(path) as reader:
        names = reader.schema.names
    contract = version.contract
    if lists := [name for name in contract.lists if name in names]:
        raise ConfigError(
            f"--users {path}, column {lists[0]}: CSV cannot hold lists; use parquet or JSON lines"
        )
    types = {name: ARROW[kind] for name, kind in contract.features.items()}
    types[_id_column(names, version)] = _id_type(version)
    convert = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    return pyarrow.csv.read_csv(path, convert_options=convert)


def _id_column(names: Sequence[str], version: LocalVersion) -> str:
    own = version.contract.user_id
    return own if own in names else names[0]


def _id_type(version: LocalVersion) -> pa.DataType:
    return pa.array(version.user_ids[:1]).type


def _ids(column: pa.ChunkedArray, version: LocalVersion, where: str) -> np.ndarray:
    """The user ids in the type of the version's ids."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy())) + 1
        raise ConfigError(f"{where}, row {row}: no user id; leave such rows out")
    kind = _id_type(version)
    if pa.types.is_floating(column.type) or pa.types.is_string(column.type) != pa.types.is_string(
        kind
    ):
        raise ConfigError(f"{where}: ids are {column.type}, but those of the model are {kind}")
    try:
        return column.cast(kind).to_numpy()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{where}: {error}") from error
