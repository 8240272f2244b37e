"""The official MovieLens layouts, and how to find and open their files in a folder or a zip."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twotower.workflows.errors import DataError
from twotower.workflows.sources.layouts.place import Place

_HALF_STAR = re.compile(r"\d+::\d+::[0-4]\.5::\d+")


@dataclass(frozen=True)
class Layout:
    """The files of one data set as GroupLens publishes it, with the fields that its README names.

    `genres` is the file that lists the genres, if there is one.
    """

    name: str
    separator: str
    ratings: str
    users: str
    items: str
    user_fields: tuple[str, ...]
    user_integers: tuple[str, ...]
    genres: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The required files."""
        required = (self.ratings, self.users, self.items, self.genres)
        return tuple(name for name in required if name is not None)


ML_1M = Layout(
    name="ml-1m",
    separator="::",
    ratings="ratings.dat",
    users="users.dat",
    items="movies.dat",
    user_fields=("user_id", "gender", "age", "occupation", "zip_code"),
    user_integers=("user_id", "age", "occupation"),
)
ML_100K = Layout(
    name="ml-100k",
    separator="|",
    ratings="u.data",
    users="u.user",
    items="u.item",
    genres="u.genre",
    user_fields=("user_id", "age", "gender", "occupation", "zip_code"),
    user_integers=("user_id", "age"),
)


@dataclass(frozen=True)
class FileSet:
    """The files of a layout that were found in `root`, a folder or a zip.

    `prefix` is the folder inside the zip, with a final slash, or empty.
    """

    layout: Layout
    root: Path
    prefix: str
    names: frozenset[str]

    def label(self, name: str) -> str:
        """The file's path for messages."""
        return str(self.root / self.prefix / name)

    def has_rows(self, name: str) -> bool:
        """Whether a file exists and is not empty."""
        return name in self.names and bool(self.read(name))

    def read(self, name: str) -> bytes:
        """Read one file. A zip is not unpacked to disk."""
        if self.root.is_dir():
            try:
                return (self.root / name).read_bytes()
            except OSError as error:
                raise DataError(f"{self.label(name)}: cannot be read: {error.strerror}") from error
        try:
            with zipfile.ZipFile(self.root) as archive:
                return archive.read(self.prefix + name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise _damaged(self.root, f"{self.prefix}{name}: {error}") from error


def find(layout: Layout, path: Path) -> FileSet | None:
    """Find the first place that has any file of the layout.

    The places are, in this order: `path` itself (a folder or a zip), `path`/<name>/ and
    `path`/<name>.zip.
    """
    for root, prefix, present in _places(layout, path):
        names = frozenset(layout.files) & present
        if names:
            return FileSet(layout, root, prefix, names)
    return None


def is_10m(place: Place) -> bool:
    """Whether files named like those of the 1M edition are of the 10M edition.

    That has no users, but tags and half stars.
    """
    if "users.dat" in place.names or not {"ratings.dat", "movies.dat"} & place.names:
        return False
    if "tags.dat" in place.names:
        return True
    lines = place.head("ratings.dat") if "ratings.dat" in place.names else []
    return any(_HALF_STAR.fullmatch(line) for line in lines)


def open_layout(layout: Layout, path: Path, complete: bool = True) -> FileSet:
    """Find the files of the layout (see `find`).

    Raises
    ------
    DataError
        If there is no file of the layout or, with `complete`, if any file is missing.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    found = find(layout, path)
    expected = f"the official {layout.name} layout has {', '.join(layout.files)}"
    if found is None:
        raise DataError(
            f"{path}: no {layout.name} data here, in {layout.name}/ or in {layout.name}.zip; "
            f"{expected}"
        )
    missing = [name for name in layout.files if name not in found.names]
    if missing and complete:
        raise DataError(f"{found.root / found.prefix}: missing {', '.join(missing)}; {expected}")
    return found


def _places(layout: Layout, path: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Yield (folder or zip, prefix inside the zip, names of its files)."""
    if path.is_dir():
        for folder in (path, path / layout.name):
            if folder.is_dir():
                yield folder, "", {entry.name for entry in folder.iterdir() if entry.is_file()}
    archive = path if path.is_file() else path / f"{layout.name}.zip"
    if archive.is_file() and archive.suffix.lower() == ".zip":
        entries = _zip_entries(archive)
        for prefix in ("", f"{layout.name}/"):
            yield archive, prefix, {e[len(prefix) :] for e in entries if e.startswith(prefix)}


def _zip_entries(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: truncated or damaged zip ({reason}); delete it and download it again"
    )
