"""Pretrained vectors in .npy files beside the data, joined to the users and items by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.ids import WORDS, Ids, plain_type
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import StoredTables
from twotower.workflows.tables import Tables
from twotower.workflows.vectors import VECTOR, as_column, checked


class VectorFiles:
    """The files of `ingest.vectors`.

    Parameters
    ----------
    files : mapping of str to Path
        The file of each column.
    folder : Path or None
        The folder or file with the data; paths are relative to a folder.
    wanted : Wanted or None
        The columns that the settings of the run name.

    Attributes
    ----------
    sides : dict of str to list of str
        The columns by table, users or items.
    """

    def __init__(self, files: Mapping[str, Path], folder: Path | None, wanted: Wanted | None):
        self._files, self._folder, self._wanted = files, folder, wanted or Wanted()
        tables = {"users": self._wanted.users, "items": self._wanted.items}
        columns = {side: [n for n in files if n in names] for side, names in tables.items()}
        self.sides = {side: names for side, names in columns.items() if names}

    def add_to(self, raw: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Add the vectors to users and items.

        Parameters
        ----------
        raw : mapping of str to Table
            The tables by name, with ids as given.

        Returns
        -------
        dict of str to Table
            The tables that have vectors.

        Raises
        ------
        DataError
            If a file is missing or wrong.
        """
        found = {}
        for side, names in self.sides.items():
            table, key = raw[side], f"{side[:-1]}_id"
            for name in names:
                path = place_of(self._folder, self._files[name])
                table = self._joined(table, key, name, path)
            found[side] = table
        return found

    def add_to_update(
        self, raw: Mapping[str, pa.Table], before: StoredTables, types: Mapping[str, pa.DataType]
    ) -> dict[str, pa.Table]:
        """Add the vectors of an update, which may have only some of the files and tables.

        Parameters
        ----------
        raw : mapping of str to Table
            The tables that the update has.
        before : StoredTables
            The tidy tables before.
        types : mapping of str to DataType
            The types of the ids as given.
        """
        found = {}
        for side, names in self.sides.items():
            table, key = raw.get(side), f"{side[:-1]}_id"
            for name in names:
                path = place_of(self._folder, Path(self._files[name].name))
                if path.is_file():
                    if table is None:
                        table = _no_rows(getattr(before, side), key, types[key]).drop([name])
                    table = self._joined(table, key, name, path)
                elif table is not None and name not in table.column_names:
                    nulls = pa.chunked_array([pa.nulls(len(table), VECTOR)])
                    table = table.append_column(name, nulls)
            if table is not None:
                found[side] = table
        return found

    def _joined(self, table: pa.Table, key: str, name: str, path: Path) -> pa.Table:
        kind = plain_type(table[key].type)
        ids, vectors = read_file(path, self._wanted.vectors[name], kind, key)
        return with_vectors(table, key, name, ids, vectors)


def place_of(folder: Path | None, path: Path) -> Path:
    """Return where a file of `ingest.vectors` is."""
    return (folder if folder is not None and folder.is_dir() else Path()) / path


def _no_rows(before: pa.Table, key: str, kind: pa.DataType) -> pa.Table:
    """A table of users or items with ids as given, without rows."""
    empty = before.slice(0, 0)
    return empty.set_column(empty.schema.get_field_index(key), key, pa.chunked_array([], kind))


def note_missing(tables: Tables, wanted: Wanted | None, findings: Findings) -> None:
    """Report how many users and items have no vector."""
    for name in (wanted or Wanted()).vectors:
        for side in ("users", "items"):
            table = getattr(tables, side)
            if name not in table.column_names or not (missing := table[name].null_count):
                continue
            findings.note(
                "missing_vectors",
                missing,
                f"{missing:,} of {len(table):,} {side} have no vector in the column {name}; they "
                "are described by their other features",
            )


def read_file(path: Path, dim: int, kind: pa.DataType, key: str) -> tuple[pa.Array, np.ndarray]:
    """Read vectors from a .npy file, and the ids of its rows from a file beside it.

    Parameters
    ----------
    path : Path
        Numbers of shape (n, dim). For `image.npy`, the ids are in `image.ids.npy` (whole numbers or
        text), or in `image.ids.txt`, one per line.
    dim : int
    kind : DataType
        The type of the ids of the users or items.
    key : str
        "user_id" or "item_id", for messages.

    Returns
    -------
    ids : Array
        Of type `kind`.
    vectors : ndarray of float32, shape (n, dim)

    Raises
    ------
    DataError
    """
    matrix = _load(path)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: expected an array of numbers [rows, {dim}], found {matrix.dtype} "
            f"{list(matrix.shape)}"
        )
    if matrix.shape[1] != dim:
        raise DataError(
            f"{path}: vectors of {matrix.shape[1]:,} numbers, but the settings say {dim:,}; "
            "correct the number under features"
        )
    ids = _read_ids(path, kind)
    if len(ids) != len(matrix):
        raise DataError(
            f"{path}: {len(matrix):,} vectors, but {len(ids):,} ids beside it; give each vector an "
            "id"
        )
    codes = Ids.of(ids).encode(ids)
    if len(np.unique(codes)) < len(codes):
        order = np.argsort(codes, kind="stable")
        row = int(np.sort(order[1:][codes[order][1:] == codes[order][:-1]])[0])
        raise DataError(
            f"{path}, row {row + 1}: {key} {ids[row].as_py()!r} has a vector already; keep one"
        )
    with np.errstate(over="ignore"):
        vectors = np.array(matrix, np.float32)

    def place(row: int) -> str:
        return f"{path}, row {row + 1}, {key} {ids[row].as_py()!r}"

    return ids, checked(vectors, path.name, place)


def file_facts(path: Path) -> tuple[set[str], int]:
    """Return the ids of a .npy file as text, and the length of its vectors.

    Raises
    ------
    DataError
        If it has no ids beside it, or no vectors.
    """
    ids = _given_ids(ids_file(path))
    matrix = _load(path)
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise DataError(f"{path}: {matrix.dtype} {list(matrix.shape)}, which are no vectors")
    return set(map(str, ids.to_pylist())), matrix.shape[1]


def ids_file(path: Path) -> Path:
    """Return the file with the ids of the rows of a .npy file.

    Raises
    ------
    DataError
        If there is none.
    """
    names = [path.with_suffix(".ids.npy"), path.with_suffix(".ids.txt")]
    found = next((each for each in names if each.is_file()), None)
    if found is None:
        raise DataError(
            f"{path}: the ids of its rows are missing; write them to {names[0].name}, or one per "
            f"line to {names[1].name}, beside it"
        )
    return found


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file (ingest.vectors)")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy file of numbers ({error})") from error


def _read_ids(path: Path, kind: pa.DataType) -> pa.Array:
    source = ids_file(path)
    ids = _given_ids(source)
    try:
        return ids.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{source}: the ids of the data are {WORDS[kind]}, these are not: {error}"
        ) from error


def _given_ids(source: Path) -> pa.Array:
    if source.suffix == ".npy":
        values = _load(source)
        return pa.array(values.ravel().tolist() if values.dtype.kind in "US" else values.ravel())
    return pa.array(source.read_text(encoding="utf-8").splitlines(), pa.string())


def with_vectors(
    table: pa.Table, key: str, name: str, ids: pa.Array, vectors: np.ndarray
) -> pa.Table:
    """Add a column of vectors to a table of users or items with ids as given.

    Parameters
    ----------
    table : Table
        Its column `key` has the ids, each once.
    key, name : str
        The column of the ids, and the new one.
    ids : Array, shape (n,)
    vectors : ndarray of float32, shape (n, dim)

    Returns
    -------
    Table
        The rows of `table`, then a row for each other id, without other values.
    """
    known = table[key]
    codes = Ids.of(ids, known)
    ours, theirs = codes.encode(known), codes.encode(ids)
    new = ~np.isin(theirs, ours)
    order = np.argsort(theirs)
    places = order[np.minimum(np.searchsorted(theirs[order], ours), len(order) - 1)]
    found = theirs[places] == ours
    matrix = np.zeros((len(table) + int(new.sum()), vectors.shape[1]), np.float32)
    matrix[: len(table)][found] = vectors[places[found]]
    matrix[len(table) :] = vectors[new]
    added = ids.filter(pa.array(new))
    columns = {}
    for field in table.schema:
        if field.name == key:
            plain = known.cast(ids.type)
            columns[key] = pa.chunked_array([*plain.chunks, added], ids.type)
        elif field.name != name:
            nulls = pa.nulls(len(added), field.type)
            columns[field.name] = pa.chunked_array([*table[field.name].chunks, nulls], field.type)
    return pa.table({**columns, name: as_column(matrix)})
