"""Read MovieLens-1M and MovieLens-100K, checked line by line.

The formats are those of the README files that GroupLens publishes with the data:
https://files.grouplens.org/datasets/movielens/ml-1m-README.txt and ml-100k-README.txt
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from twotower.workflows.errors import DataError
from twotower.workflows.sources.base import (
    IdTypes,
    OnMessage,
    Progress,
    ProgressCounter,
    Source,
    ignore,
)
from twotower.workflows.sources.layouts.place import place_at
from twotower.workflows.sources.movielens.layouts import (
    ML_1M,
    ML_100K,
    FileSet,
    Layout,
    find,
    is_10m,
    open_layout,
)
from twotower.workflows.sources.movielens.textfile import bad_value, integer, rows
from twotower.workflows.tables import Tables, repeated_pairs, sorted_by_id

RATING_FIELDS = ("user_id", "item_id", "rating", "timestamp")
ML_1M_ITEM_FIELDS = ("item_id", "title", "genres")
ML_100K_ITEM_FIELDS = ("item_id", "title", "release_date", "video_release_date", "imdb_url")
ITEM_SCHEMA = pa.schema(
    {
        "item_id": pa.int64(),
        "title": pa.string(),
        "year": pa.int64(),
        "genres": pa.list_(pa.string()),
    }
)

_YEAR = re.compile(r"\(([0-9]{4})\)")


class MovieLens(Source):
    """An official MovieLens data set, in a folder or a zip.

    Users have gender (string), age (int64), occupation (int64 in ml-1m, string in ml-100k) and
    zip_code (string). Items have title (string), year (int64, 0 if the title contains none) and
    genres (list of string).
    """

    layout: ClassVar[Layout]

    @classmethod
    def recognise(cls, path: Path) -> Path | None:
        """Find the official files (see `layouts.find`)."""
        found = find(cls.layout, path)
        return found.root if found else None

    def files(self) -> list[Path]:
        """The official files, or the zip."""
        found = find(self.layout, self.path) if self.path else None
        if found is None:
            return []
        if found.root.is_file():
            return [found.root]
        return [found.root / name for name in sorted(found.names)]

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Read all files. `progress` counts them."""
        if self.path is None:
            raise DataError(f"source {self.name} needs `path`: the folder or zip of the data set")
        return _read_all(open_layout(self.layout, self.path), progress)

    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read all files, or without ratings the file of users, of items, or both."""
        files = open_layout(self.layout, folder, complete=False)
        if files.has_rows(self.layout.ratings):
            return _read_all(open_layout(self.layout, folder), progress)._asdict()
        new = {}
        if files.has_rows(self.layout.users):
            new["users"] = _read_users(files)
        if files.has_rows(self.layout.items):
            new["items"] = _read_items(files)
        if not new:
            raise DataError(f"{folder}: no row in {', '.join(sorted(files.names))}; nothing to add")
        return new


class MovieLens1M(MovieLens):
    """MovieLens-1M."""

    name = "ml-1m"
    contents = "MovieLens-1M (ratings.dat, users.dat, movies.dat)"
    layout = ML_1M

    @classmethod
    def recognise(cls, path: Path) -> Path | None:
        """Find the official files, unless they are those of MovieLens-10M."""
        found = super().recognise(path)
        place = found and place_at(found)
        return None if place and is_10m(place) else found


class MovieLens100K(MovieLens):
    """MovieLens-100K."""

    name = "ml-100k"
    contents = "MovieLens-100K (u.data, u.user, u.item)"
    layout = ML_100K


def _read_all(files: FileSet, progress: Progress | None) -> Tables:
    counter = ProgressCounter(progress, 3)
    users = _read_users(files)
    counter.advance()
    items = _read_items(files)
    counter.advance()
    ratings = _read_ratings(files, users, items)
    counter.advance()
    return Tables(ratings, users, items)


def _read_users(files: FileSet) -> pa.Table:
    layout = files.layout
    where = files.label(layout.users)
    columns: dict[str, list[Any]] = {name: [] for name in layout.user_fields}
    ids = _UniqueIds(where, "user_id")
    for line, fields in rows(files.read(layout.users), where, layout.separator, layout.user_fields):
        row = dict(zip(layout.user_fields, fields, strict=True))
        ids.add(row["user_id"], line)
        if row["gender"] not in ("F", "M"):
            raise bad_value(where, line, "gender", row["gender"], "F or M")
        for name, text in row.items():
            is_number = name in layout.user_integers
            columns[name].append(integer(text, where, line, name) if is_number else text)
    return sorted_by_id(pa.table(columns))


def _read_items(files: FileSet) -> pa.Table:
    genres_file = files.layout.genres
    return film_table(
        _ml_1m_items(files) if genres_file is None else _ml_100k_items(files, genres_file)
    )


def film_table(films: Iterable[tuple[int, str, list[str]]]) -> pa.Table:
    """Make the item table from (item id, title, genres); the year is in the title."""
    columns: dict[str, list[Any]] = {name: [] for name in ITEM_SCHEMA.names}
    for item_id, title, genres in films:
        years = _YEAR.findall(title)
        columns["item_id"].append(item_id)
        columns["title"].append(title.strip())
        columns["year"].append(int(years[-1]) if years else 0)
        columns["genres"].append(genres)
    return sorted_by_id(pa.table(columns, schema=ITEM_SCHEMA))


def _ml_1m_items(files: FileSet) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (item id, title, genres)."""
    where = files.label(files.layout.items)
    ids = _UniqueIds(where, "item_id")
    data = files.read(files.layout.items)
    for line, (item_id, title, genres) in rows(
        data, where, files.layout.separator, ML_1M_ITEM_FIELDS
    ):
        yield ids.add(item_id, line), title, [g for g in genres.strip().split("|") if g]


def _ml_100k_items(files: FileSet, genres_file: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (item id, title, genres)."""
    layout = files.layout
    names = _ml_100k_genres(files, genres_file)
    where = files.label(layout.items)
    ids = _UniqueIds(where, "item_id")
    fields = (*ML_100K_ITEM_FIELDS, *names)
    for line, row in rows(files.read(layout.items), where, layout.separator, fields):
        flags = row[len(ML_100K_ITEM_FIELDS) :]
        for name, flag in zip(names, flags, strict=True):
            if flag not in ("0", "1"):
                raise bad_value(where, line, name, flag, "0 or 1")
        genres = [name for name, flag in zip(names, flags, strict=True) if flag == "1"]
        yield ids.add(row[0], line), row[1], genres


def _ml_100k_genres(files: FileSet, genres_file: str) -> list[str]:
    """Read the genres, which are in the order of the flags of u.item."""
    where = files.label(genres_file)
    data = files.read(genres_file).rstrip(b"\r\n")  # the published file ends in a blank line
    names: list[str] = []
    for line, (genre, position) in rows(data, where, files.layout.separator, ("genre", "position")):
        if integer(position, where, line, "position") != len(names):
            raise bad_value(
                where, line, "position", position, f"{len(names)}, one more than on the line before"
            )
        names.append(genre)
    return names


class _UniqueIds:
    """Parses the ids of one file and refuses repeated ones."""

    def __init__(self, where: str, field: str):
        self._where, self._field = where, field
        self._lines: dict[int, int] = {}

    def add(self, text: str, line: int) -> int:
        number = integer(text, self._where, line, self._field)
        first = self._lines.setdefault(number, line)
        if first != line:
            expected = f"each id once, but it is on line {first}, too"
            raise bad_value(self._where, line, self._field, number, expected)
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
    """Parse the columns RATING_FIELDS, all int64. Line n of the file is row n - 1."""
    # Arrow's fast CSV reader accepts only separators of one byte. It fails on a line with another
    # number of fields, a blank line and a field that is not an integer; the slow pass below then
    # finds the first such line.
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
    checks = (
        (user_ids, users["user_id"], "user_id", f"a user of {files.layout.users}"),
        (item_ids, items["item_id"], "item_id", f"a film of {files.layout.items}"),
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
            f"{where}, line {row + 1}: user {user_ids[row]} has rated item {item_ids[row]} already "
            f"on line {first + 1}; expected each pair once"
        )


def _refuse_first(
    bad: np.ndarray, values: np.ndarray, where: str, field: str, expected: str
) -> None:
    """Raise DataError for the first row that is `bad`, if there is one."""
    if bad.any():
        row = int(bad.argmax())
        raise bad_value(where, row + 1, field, int(values[row]), expected)
