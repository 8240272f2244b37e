"""MovieLens since the 10M edition: half stars, no users, films with a title and genres.

The formats are those of the README files that GroupLens publishes with the data:
https://files.grouplens.org/datasets/movielens/ml-10m-README.html and ml-25m-README.html
"""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.sources.base import OnMessage, Progress, ignore
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.layouts.base import Published, Side
from twotower.workflows.sources.layouts.place import Place
from twotower.workflows.sources.movielens.layouts import is_10m
from twotower.workflows.sources.movielens.source import film_table
from twotower.workflows.tables import Tables

Film = tuple[int, str, list[str]]
_FILM_FIELDS = ("movieId", "title", "genres")
_RATING_FIELDS = ("userId", "movieId", "rating", "timestamp")
_NO_GENRES = "(no genres listed)"


class HalfStars(Published):
    """Ratings from 0.5 to 5 in steps of a half. Tags and links are not read."""

    download = "https://grouplens.org/datasets/movielens/"
    ratings_file: ClassVar[str]
    films_file: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """The columns of the ratings, as source `files` names them."""

    @abstractmethod
    def films(self, place: Place) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the line, and the fields, of each film."""

    def interactions(self, place: Place) -> FilesConfig | None:
        """The file of ratings."""
        if self.ratings_file not in place.names:
            return None
        names = ("user_id", "item_id", "rating", "timestamp")
        return FilesConfig(
            interactions=Path(self.ratings_file),
            columns=dict(zip(names, self.columns, strict=True)),
            keep=["rating", "timestamp"],
        )

    def side_files(self, place: Place) -> Mapping[Side, str]:
        """The file of films."""
        return {"items": self.films_file} if self.films_file in place.names else {}

    def read_side(
        self, place: Place, side: Side, ids: pa.ChunkedArray | None, findings: Findings
    ) -> pa.Table:
        """Films with title (string), year (int64, 0 if unknown) and genres (list of string)."""
        return film_table(self._parsed(place))

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Read all tables. `progress` counts the columns of the interactions."""
        place = self._place(self.path)
        if self.films_file not in place.names:
            raise DataError(f"{place.folder}: missing {self.films_file}; expected {self.contents}")
        return super().read(progress, on_message)

    def check(self, interactions: pa.Table) -> None:
        """Check that the ratings are the ten that exist."""
        stars = interactions["rating"].to_numpy()
        doubled = stars * 2
        bad = (doubled < 1) | (doubled > 10) | (doubled != np.floor(doubled))
        if bad.any():
            row = int(bad.argmax())
            user, item = (interactions[name][row].as_py() for name in ("user_id", "item_id"))
            raise DataError(
                f"{self.ratings_file}: user {user} rates film {item} with {stars[row]:g}; expected "
                f"0.5 to 5 in steps of a half ({int(bad.sum()):,} such rows)"
            )

    def _parsed(self, place: Place) -> Iterator[Film]:
        where = place.path(self.films_file)
        for line, fields in self.films(place):
            if len(fields) != len(_FILM_FIELDS):
                raise DataError(
                    f"{where}, line {line}: {len(fields)} fields; expected "
                    f"{len(_FILM_FIELDS)}: {', '.join(_FILM_FIELDS)}"
                )
            film, title, genres = fields
            if not film.isdecimal():
                raise DataError(f"{where}, line {line}, movieId: {film!r}; expected a whole number")
            listed = [] if genres == _NO_GENRES else genres.split("|")
            yield int(film), title, [genre for genre in listed if genre]


class MovieLensCSV(HalfStars):
    """The editions as CSV: 20M, 25M, 32M, latest and latest-small."""

    name = "ml-latest"
    contents = "MovieLens 20M, 25M, 32M or latest (ratings.csv, movies.csv)"
    folders = ("ml-32m", "ml-25m", "ml-20m", "ml-latest", "ml-latest-small")
    ratings_file, films_file = "ratings.csv", "movies.csv"
    columns = _RATING_FIELDS

    @classmethod
    def is_at(cls, place: Place) -> bool:
        """Whether a file has its name and its header."""
        headers = {"ratings.csv": _RATING_FIELDS, "movies.csv": _FILM_FIELDS}
        return any(
            name in place.names and place.head(name)[:1] == [",".join(header)]
            for name, header in headers.items()
        )

    def films(self, place: Place) -> Iterator[tuple[int, list[str]]]:
        """Read movies.csv, where titles with commas are in quotes."""
        reader = csv.reader(io.StringIO(_utf8(place, self.films_file), newline=""), strict=True)
        try:
            header = next(reader, [])
            if header != list(_FILM_FIELDS):
                raise DataError(
                    f"{place.path(self.films_file)}, line 1: {', '.join(header)!r}; expected the "
                    f"header {','.join(_FILM_FIELDS)}"
                )
            for fields in reader:
                yield reader.line_num, fields
        except csv.Error as error:
            raise DataError(
                f"{place.path(self.films_file)}, line {reader.line_num}: {error}"
            ) from error


class MovieLens10M(HalfStars):
    """The 10M edition: the separator of the 1M edition, in UTF-8 and without users."""

    name = "ml-10m"
    contents = "MovieLens-10M (ratings.dat, movies.dat, tags.dat)"
    folders = ("ml-10m", "ml-10M100K")
    ratings_file, films_file = "ratings.dat", "movies.dat"
    columns = ("column_1", "column_2", "column_3", "column_4")

    @classmethod
    def is_at(cls, place: Place) -> bool:
        """Whether the files are there that the 1M edition has not, and not its users."""
        return is_10m(place)

    def films(self, place: Place) -> Iterator[tuple[int, list[str]]]:
        """Read movies.dat."""
        for number, line in enumerate(_utf8(place, self.films_file).splitlines(), start=1):
            yield number, line.split("::")


def _utf8(place: Place, name: str) -> str:
    """Read a file as UTF-8; DataError naming the line that is not."""
    data = place.read(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{place.path(name)}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "download the file again"
        ) from error
