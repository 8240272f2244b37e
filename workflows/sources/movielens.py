"""MovieLens-1M and MovieLens-100K in their official layouts, checked line by line.

The formats are those of the README files that GroupLens publishes with the data:
https://files.grouplens.org/datasets/movielens/ml-1m-README.txt and ml-100k-README.txt
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from twotower.workflows.errors import DataError
from twotower.workflows.sources.official import LAYOUTS, FileSet, open_layout
from twotower.workflows.sources.textfile import bad_value, integer, rows
from twotower.workflows.tables import Tables, repeated_pairs, sorted_by_id

RATING_FIELDS = ("user_id", "item_id", "rating", "timestamp")
ML_1M_ITEM_FIELDS = ("item_id", "title", "genres")
ML_100K_ITEM_FIELDS = ("item_id", "title", "release_date", "video_release_date", "imdb_url")

_YEAR = re.compile(r"\(([0-9]{4})\)")


def read_movielens(
    layout: str, path: Path, progress: Callable[[int, int], None] | None = None
) -> Tables:
    """Read and check one data set.

    Parameters
    ----------
    layout : "ml-1m" or "ml-100k"
    path : the folder or zip with the official files, or the folder that holds either
    progress : called with (files read, files)

    Returns
    -------
    Tables; users have gender (string), age (int64), occupation (int64 in ml-1m, string in
    ml-100k) and zip_code (string); items have title (string), year (int64, 0 when the title
    names none) and genres (list of string).

    Raises
    ------
    DataError naming the file, the line, the field, the value and what was expected
    """
    files = open_layout(LAYOUTS[layout], path)
    tables = []
    for step in (_read_users, _read_items, _read_ratings):
        tables.append(step(files, *tables))
        if progress:
            progress(len(tables), 3)
    users, items, interactions = tables
    return Tables(interactions, users, items)


def read_movielens_day(
    layout: str,
    path: Path,
    before: Tables,
    progress: Callable[[int, int], None] | None = None,
) -> Tables:
    """Like `read_movielens`, for a day, which may have only users or films and no ratings.

    A table whose file is missing or empty has the columns of `before` and no row.
    """
    files = open_layout(LAYOUTS[layout], path, whole=False)
    if files.has(files.layout.ratings):
        return read_movielens(layout, path, progress)
    tables = {name: table.slice(0, 0) for name, table in before._asdict().items()}
    readers = {
        "users": (files.layout.users, _read_users),
        "items": (files.layout.items, lambda files: _read_items(files, before.users)),
    }
    readers = {name: read for name, (file, read) in readers.items() if files.has(file)}
    if not readers:
        raise DataError(f"{path}: no row in {', '.join(sorted(files.names))}; nothing to take in")
    for name, read in readers.items():
        tables[name] = read(files)
    return Tables(**tables)


def _read_users(files: FileSet) -> pa.Table:
    layout = files.layout
    where = files.label(layout.users)
    columns: dict[str, list] = {name: [] for name in layout.user_fields}
    unique = _UniqueIds(where, "user_id")
    for line, fields in rows(files.read(layout.users), where, layout.separator, layout.user_fields):
        row = dict(zip(layout.user_fields, fields, strict=True))
        unique.add(row["user_id"], line)
        if row["gender"] not in ("F", "M"):
            raise bad_value(where, line, "gender", row["gender"], "F or M")
        for name in layout.user_integers:
            row[name] = integer(row[name], where, line, name)
        for name, value in row.items():
            columns[name].append(value)
    return sorted_by_id(pa.table(columns))


def _read_items(files: FileSet, users: pa.Table) -> pa.Table:
    parse = _ml_1m_items if files.layout.genres is None else _ml_100k_items
    columns = {"item_id": [], "title": [], "year": [], "genres": []}
    for item_id, title, genres in parse(files):
        year = _YEAR.findall(title)
        row = (item_id, title.strip(), int(year[-1]) if year else 0, genres)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    types = {"item_id": pa.int64(), "title": pa.string(), "year": pa.int64()}
    return sorted_by_id(
        pa.table(columns, schema=pa.schema({**types, "genres": pa.list_(pa.string())}))
    )


def _ml_1m_items(files: FileSet):
    where = files.label(files.layout.items)
    unique = _UniqueIds(where, "item_id")
    data = files.read(files.layout.items)
    for line, (item_id, title, genres) in rows(
        data, where, files.layout.separator, ML_1M_ITEM_FIELDS
    ):
        yield unique.add(item_id, line), title, [g for g in genres.strip().split("|") if g]


def _ml_100k_items(files: FileSet):
    layout = files.layout
    names = _ml_100k_genres(files)
    where = files.label(layout.items)
    unique = _UniqueIds(where, "item_id")
    fields = (*ML_100K_ITEM_FIELDS, *names)
    for line, row in rows(files.read(layout.items), where, layout.separator, fields):
        flags = row[len(ML_100K_ITEM_FIELDS) :]
        for name, flag in zip(names, flags, strict=True):
            if flag not in ("0", "1"):
                raise bad_value(where, line, name, flag, "0 or 1")
        genres = [name for name, flag in zip(names, flags, strict=True) if flag == "1"]
        yield unique.add(row[0], line), row[1], genres


def _ml_100k_genres(files: FileSet) -> list[str]:
    """Genre names in the order of the flags of u.item; the published file ends in a blank line."""
    name = files.layout.genres
    where = files.label(name)
    data = files.read(name).rstrip(b"\r\n")
    names = []
    for line, (genre, position) in rows(data, where, files.layout.separator, ("genre", "position")):
        if integer(position, where, line, "position") != len(names):
            raise bad_value(where, line, "position", position, f"{len(names)}, one more a line")
        names.append(genre)
    return names


class _UniqueIds:
    """Parses the ids of one file and refuses a second row for one of them."""

    def __init__(self, where: str, field: str):
        self._where, self._field = where, field
        self._lines: dict[int, int] = {}

    def add(self, text: str, line: int) -> int:
        number = integer(text, self._where, line, self._field)
        first = self._lines.setdefault(number, line)
        if first != line:
            raise bad_value(
                self._where, line, self._field, number, f"each id once, it is on line {first} too"
            )
        return number


def _read_ratings(files: FileSet, users: pa.Table, items: pa.Table) -> pa.Table:
    layout = files.layout
    where = files.label(layout.ratings)
    data = files.read(layout.ratings)
    separator = "::" if layout.separator == "::" else "\t"
    table = _parse_ratings(data, where, separator)
    _check_ratings(table, where, files, users, items)
    return table.set_column(2, "rating", table["rating"].cast(pa.float32()))


def _parse_ratings(data: bytes, where: str, separator: str) -> pa.Table:
    """int64 columns RATING_FIELDS; line n of the file is row n - 1."""
    # The CSV reader wants a separator of one byte, and is strict: an uneven line, a blank line
    # or a field that is no integer fails, and then the slow pass finds the first such line.
    problem: Exception | None = None
    if data and not (separator == "::" and b"\t" in data):
        try:
            return pyarrow.csv.read_csv(
                io.BytesIO(data.replace(b"::", b"\t") if separator == "::" else data),
                pyarrow.csv.ReadOptions(column_names=RATING_FIELDS),
                pyarrow.csv.ParseOptions(
                    delimiter="\t", quote_char=False, ignore_empty_lines=False
                ),
                pyarrow.csv.ConvertOptions(
                    column_types={name: pa.int64() for name in RATING_FIELDS}, null_values=[]
                ),
            )
        except pa.ArrowInvalid as error:
            problem = error
    for line, fields in rows(data, where, separator, RATING_FIELDS):
        for name, text in zip(RATING_FIELDS, fields, strict=True):
            integer(text, where, line, name)
    raise DataError(f"{where}: cannot be read as ratings: {problem}") from problem


def _check_ratings(
    table: pa.Table, where: str, files: FileSet, users: pa.Table, items: pa.Table
) -> None:
    user_ids, item_ids, ratings = (table.column(i).to_numpy() for i in range(3))
    layout = files.layout
    checks = (
        (user_ids, users["user_id"], "user_id", f"a user of {layout.users}"),
        (item_ids, items["item_id"], "item_id", f"a film of {layout.items}"),
    )
    for values, known, field, expected in checks:
        _refuse_first(~np.isin(values, known.to_numpy()), values, where, field, expected)
    _refuse_first((ratings < 1) | (ratings > 5), ratings, where, "rating", "1 to 5")
    if pc.min(table["timestamp"]).as_py() < 0:
        times = table["timestamp"].to_numpy()
        _refuse_first(times < 0, times, where, "timestamp", "unix seconds, 0 or more")
    repeats, firsts = repeated_pairs(user_ids, item_ids)
    if len(repeats):
        row, first = int(repeats[0]), int(firsts[0])
        raise DataError(
            f"{where}, line {row + 1}: user {user_ids[row]} rated item {item_ids[row]} already "
            f"on line {first + 1}; expected each pair once"
        )


def _refuse_first(bad: np.ndarray, values: np.ndarray, where: str, field: str, expected: str):
    if bad.any():
        row = int(bad.argmax())
        raise bad_value(where, row + 1, field, int(values[row]), expected)
