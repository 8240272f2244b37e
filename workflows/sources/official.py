"""Finding and opening the official MovieLens files, in a folder or in a zip."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twotower.workflows.errors import DataError


@dataclass(frozen=True)
class Layout:
    """How GroupLens publishes one data set (fields as in its README)."""

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
        """The files that must be there."""
        needed = (self.ratings, self.users, self.items, self.genres)
        return tuple(name for name in needed if name is not None)


LAYOUTS = {
    "ml-1m": Layout(
        name="ml-1m",
        separator="::",
        ratings="ratings.dat",
        users="users.dat",
        items="movies.dat",
        user_fields=("user_id", "gender", "age", "occupation", "zip_code"),
        user_integers=("user_id", "age", "occupation"),
    ),
    "ml-100k": Layout(
        name="ml-100k",
        separator="|",
        ratings="u.data",
        users="u.user",
        items="u.item",
        genres="u.genre",
        user_fields=("user_id", "age", "gender", "occupation", "zip_code"),
        user_integers=("user_id", "age"),
    ),
}


@dataclass(frozen=True)
class FileSet:
    """The files of a layout that were found in `root`, a folder or a zip."""

    layout: Layout
    root: Path
    prefix: str
    names: frozenset[str]

    def label(self, name: str) -> str:
        """The file's path as messages show it."""
        return str(self.root / self.prefix / name)

    def has(self, name: str) -> bool:
        """Whether a file is there and not empty."""
        return name in self.names and bool(self.read(name))

    def read(self, name: str) -> bytes:
        """The whole content of one file; zips are read without unpacking them to disk."""
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
    """The first place under `path` that holds any file of the layout.

    Looked at, in this order: `path` itself (folder or zip), `path`/<name>/, `path`/<name>.zip.
    """
    for root, prefix, present in _places(layout, path):
        names = frozenset(layout.files) & present
        if names:
            return FileSet(layout, root, prefix, names)
    return None


def open_layout(layout: Layout, path: Path, whole: bool = True) -> FileSet:
    """Like `find`, but everything must be there, or without `whole` one file of the layout.

    A DataError says what is missing.
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
    if missing and whole:
        raise DataError(f"{found.root / found.prefix}: missing {', '.join(missing)}; {expected}")
    return found


def _places(layout: Layout, path: Path) -> Iterator[tuple[Path, str, set[str]]]:
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
