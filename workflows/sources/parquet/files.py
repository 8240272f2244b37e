"""One table in one or more parquet files, read column by column to limit the memory."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.sources.arrow_types import is_time, is_untyped, tidy
from twotower.workflows.sources.base import ProgressCounter
from twotower.workflows.sources.columns import Column, Rows, Stored, as_ids
from twotower.workflows.tables import UNREADABLE


class ParquetFiles:
    """The parquet files of one table.

    Parameters
    ----------
    path : Path
        File, folder or glob pattern.
    names : mapping of str to str
        Column names of the tidy tables -> names in the files, where they differ.
    counter : ProgressCounter
        Advanced once per column.
    need_values : bool
        Whether a column without any value is an error; otherwise it has only nulls.

    Raises
    ------
    DataError
        If there is no file, a file cannot be read, or there is no row.
    """

    def __init__(
        self,
        path: Path,
        names: Mapping[str, str],
        counter: ProgressCounter,
        need_values: bool = True,
    ):
        paths = expand(path)
        self._names, self._counter, self._need_values = names, counter, need_values
        self._files = [open_parquet(path) for path in paths]
        self._paths = paths
        places = [partial(_place, path) for path in paths]
        self.rows = Rows(places, [file.metadata.num_rows for file in self._files])
        if not len(self.rows):
            raise DataError(f"{paths[0]}: no rows")

    def ids(self, name: str, kind: pa.DataType | None = None) -> pa.Array:
        """Read a column of ids as given, and check it (see `as_ids`)."""
        return as_ids(self.column(name, keep_unsigned=True), kind)

    def column(self, name: str, keep_unsigned: bool = False) -> Column:
        """Read a column, in its tidy type; uint64 stays as it is with `keep_unsigned`.

        Raises
        ------
        DataError
            If a file has no such column, or two; if it cannot be read; if the files have different
            types for it; or if it has no value at all (see `need_values`).
        """
        parts, stored = [], []
        for index, file in enumerate(self._files):
            place = self._stored(name, index)
            try:
                parts.append(tidy(file.read(columns=[place.name]).column(0), keep_unsigned))
            except pa.ArrowNotImplementedError as error:
                raise DataError(f"{place}: {error}") from error
            except UNREADABLE as error:
                raise DataError(f"{place}: cannot be read: {error}") from error
            stored.append(place)
        self._counter.advance()
        return Column(name, self._joined(name, parts, stored), stored, self.rows)

    def _joined(
        self, name: str, parts: list[pa.ChunkedArray], stored: list[Stored]
    ) -> pa.ChunkedArray:
        """Concatenate the parts of a column, one per file, if their types agree."""
        kinds = {
            "times" if is_time(place.type) else str(part.type)
            for part, place in zip(parts, stored, strict=True)
            if not is_untyped(part.type)
        }
        if not kinds and self._need_values:
            raise DataError(f"{stored[0]}: no value in any row; leave the column out")
        if kinds == {"int64", "double"}:
            parts = [part.cast(pa.float64()) for part in parts]
        elif len(kinds) > 1:
            raise DataError(
                f"{stored[0].path} and others, column {name}: different types in the files "
                f"({', '.join(sorted(kinds))}); store one type in all of them"
            )
        # A file in which the column has no value may have no type for it.
        types = [part.type for part in parts]
        kind = min(types, key=lambda each: (is_untyped(each), pa.types.is_null(each)))
        chunks = [chunk for part in parts for chunk in part.cast(kind).chunks]
        return pa.chunked_array(chunks, kind)

    def _stored(self, name: str, index: int) -> Stored:
        """Find the column `name` in a file, by its name there or in the tidy tables."""
        path, schema = self._paths[index], self._files[index].schema_arrow
        if not name:
            raise DataError(
                f"{path}, column '': a column needs a name; give it one in the config: "
                "columns: {<name>: ''}, and list that name in place of ''"
            )
        mapped = self._names.get(name, name)
        for candidate in (mapped, name):
            count = schema.names.count(candidate)
            if count > 1:
                raise DataError(
                    f"{path}: {count} columns named {candidate}; give each a different name"
                )
            if count:
                return Stored(path, candidate, schema.field(candidate).type)
        raise DataError(
            f"{path}: no column {mapped}; there are {', '.join(schema.names)}. "
            f"Map it in the config: columns: {{{name}: <name in the file>}}"
        )


def _place(path: Path, row: int) -> str:
    return f"{path}, row {row + 1}"


def expand(path: Path) -> list[Path]:
    """List the files that `path` names, in natural order (part.2 before part.10).

    A folder stands for all parquet files in it. Its own name may end in .parquet, as Spark's
    folders do. Hidden files, and files or folders whose name begins with "_", are left out.

    Raises
    ------
    DataError
        If there is none.
    """
    found = [path] if path.exists() else map(Path, glob.glob(_pattern(path), recursive=True))
    files = set()
    for each in found:
        if each.is_file():
            files.add(each)
        files |= {
            file
            for file in each.rglob("*.parquet")
            if file.is_file()
            and not any(part.startswith(("_", ".")) for part in file.relative_to(each).parts)
        }
    if not files:
        raise DataError(f"{path}: no parquet file there")
    return sorted(files, key=_natural)


def _pattern(path: Path) -> str:
    """Turn `path` into a glob pattern, escaping special characters in folders that exist."""
    folder = path
    while not folder.exists():
        folder = folder.parent
    return str(Path(glob.escape(str(folder)), path.relative_to(folder)))


def _natural(path: Path) -> list[str | int]:
    # Text and digits alternate, so two paths never compare a text with a number.
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", str(path))]


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file; raise DataError if it is damaged."""
    try:
        file = pq.ParquetFile(path)
        file.schema_arrow.names  # noqa: B018 - raises if the names are damaged
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    return file


def count_rows(path: Path) -> int:
    """Count the rows in the files that `path` names; 0 if there is no file."""
    try:
        files = expand(path)
    except DataError:
        return 0
    return sum(open_parquet(file).metadata.num_rows for file in files)
