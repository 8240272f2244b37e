"""The files of a published data set: in a folder, in a zip, or one file alone."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from twotower.workflows.errors import DataError

_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)
_HEAD = 1 << 16


class Place(NamedTuple):
    """The files of one folder.

    Attributes
    ----------
    root : Path
        What a user names: a folder, a zip, or the only file of the place.
    folder : Path
        The folder with the files. In a zip, its path continues that of the zip.
    names : frozenset of str
        The names of the files.
    """

    root: Path
    folder: Path
    names: frozenset[str]

    def path(self, name: str) -> Path:
        """The path of a file, which may be in a zip."""
        return self.folder / name

    def open(self, name: str) -> BinaryIO:
        """Open a file without its compression.

        Raises
        ------
        DataError
            If the file or the zip cannot be read.
        """
        try:
            if self.root.suffix.lower() == ".zip":
                member = (self.folder / name).relative_to(self.root).as_posix()
                # The file keeps its zip open, and who called closes the file.
                file = cast(BinaryIO, zipfile.ZipFile(self.root).open(member))  # noqa: SIM115
            else:
                file = self.path(name).open("rb")
        except _UNREADABLE as error:
            raise self.damaged(name, error) from error
        return cast(BinaryIO, gzip.open(file)) if name.endswith(".gz") else file

    def read(self, name: str) -> bytes:
        """Read a file; DataError if it is damaged."""
        with self.open(name) as file:
            try:
                return file.read()
            except _UNREADABLE as error:
                raise self.damaged(name, error) from error

    def lines(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Yield the number, from 1, and the content of each line; DataError if damaged."""
        with self.open(name) as file:
            try:
                yield from enumerate(io.BufferedReader(cast(io.RawIOBase, file)), start=1)
            except _UNREADABLE as error:
                raise self.damaged(name, error) from error

    def head(self, name: str) -> list[str]:
        """The complete lines in the first 64 KiB of a file; none if it is damaged or not text."""
        try:
            with self.open(name) as file:
                data = file.read(_HEAD)
            text = (data if len(data) < _HEAD else data[: data.rfind(b"\n") + 1]).decode("utf-8")
        except (*_UNREADABLE, DataError, UnicodeDecodeError):
            return []
        return text.removeprefix("\ufeff").splitlines()

    def damaged(self, name: str, error: Exception) -> DataError:
        """Make the error for a file that cannot be read."""
        return DataError(f"{self.path(name)}: cannot be read: {error}; download it again")


def place_at(path: Path) -> Place | None:
    """The files of a folder, of a zip or of its only folder, or a file alone; None if none."""
    if path.is_dir():
        return Place(path, path, frozenset(each.name for each in path.iterdir() if each.is_file()))
    if not path.is_file():
        return None
    if path.suffix.lower() != ".zip":
        return Place(path, path.parent, frozenset([path.name]))
    try:
        with zipfile.ZipFile(path) as archive:
            members = [Path(name) for name in archive.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: truncated or damaged zip ({error}); delete it and download it again"
        ) from error
    members = [member for member in members if member.parts[0] != "__MACOSX"]
    folders = {member.parent for member in members}
    folder = Path() if len(folders) != 1 else folders.pop()
    names = frozenset(member.name for member in members if member.parent == folder)
    return Place(path, path / folder, names)


def places(path: Path, folders: Sequence[str]) -> Iterator[Place]:
    """Yield the place at `path`, then those in it that are named like one of `folders`.

    `folders` are names of folders, or of zips without their ending.
    """
    names = [path / name for name in folders]
    zips = [path / f"{name}.zip" for name in folders]
    for each in (path, *names, *zips):
        if (place := place_at(each)) is not None:
            yield place
