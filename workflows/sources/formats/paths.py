"""Find the files that a path names: a file, a folder, a pattern, a zip or a file within a zip."""

from __future__ import annotations

import glob
import gzip
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import unquote

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.options import Format

_KINDS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_NAMES = {"parquet": "parquet", "csv": "CSV", "json": "JSON lines"}
BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""Errors of a damaged or encrypted archive."""


class NoRows(DataError):
    """There is no file, or no row in the files."""


class DataFile(NamedTuple):
    """A file with rows of one table.

    Attributes
    ----------
    path : Path
    member : str or None
        The file within the zip file `path`.
    kind : str
        "parquet", "csv" or "json".
    folders : tuple of str
        The names of the folders below the one that was named, or in the zip.
    """

    path: Path
    member: str | None
    kind: Format
    folders: tuple[str, ...] = ()

    @property
    def partitions(self) -> dict[str, str | None]:
        """The columns that the folders name, as Hive and Spark do: year=2024."""
        pairs = (folder.partition("=") for folder in self.folders)
        return {
            name: None if value == _NO_VALUE else unquote(value)
            for name, equals, value in pairs
            if name and equals
        }

    def __str__(self) -> str:
        return str(self.path / self.member) if self.member else str(self.path)

    def open(self) -> BinaryIO:
        """Open the file for reading, without its compression; DataError if it cannot be."""
        try:
            return _open(self.path, self.member)
        except BROKEN as error:
            raise DataError(f"{self}: cannot be read: {error}") from error


def expand(path: Path, format: Format = "auto") -> list[DataFile]:
    """List the files that `path` names, in natural order (part.2 before part.10).

    A folder, or a zip, stands for all files of one format in it; a folder's own name may end in
    .parquet, as Spark's folders do. Hidden files, and files or folders whose name begins with "_",
    are left out. Files may be compressed with gzip.

    Parameters
    ----------
    path : Path
        File, folder, glob pattern, zip, or zip followed by the path of a file in it.
    format : str
        The format of the files; "auto" to find it.

    Returns
    -------
    list of DataFile
        At least one; all of the same kind.

    Raises
    ------
    NoRows
        If there is none.
    DataError
        If there are files of several formats.
    """
    files: set[DataFile] = set()
    base = path if path.is_dir() else _existing(path)
    for each in _found(path):
        if each.is_dir():
            inside = (file for file in each.rglob("*") if file.is_file())
            found = [file for file in inside if _is_data(file, each, format)]
            files |= {_data_file(file, None, format, file.relative_to(base)) for file in found}
        elif each.suffix == ".zip":
            files |= _members(each, format)
        else:
            files.add(_data_file(each, None, format, each.relative_to(base)))
    if not files and (inner := _inside_zip(path)) is not None:
        files.add(_data_file(*inner, format))
    if not files:
        kind = "data" if format == "auto" else _NAMES[format]
        raise NoRows(f"{path}: no {kind} file there")
    ordered = sorted(files, key=lambda file: _natural(str(file)))
    kinds = {file.kind: file for file in reversed(ordered)}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise DataError(
            f"{path}: files of several formats, such as {other} ({_NAMES[other.kind]}) and "
            f"{one} ({_NAMES[one.kind]}); name one of them, a pattern such as *.csv, or a format"
        )
    return ordered


def same_in_another_format(path: Path) -> Path:
    """Return `path` or, if nothing is there, the only data file of its name with another ending."""
    stem = path.name.partition(".")[0]
    if path.exists() or not path.parent.is_dir() or glob.has_magic(path.name):
        return path
    others = [
        each
        for each in path.parent.iterdir()
        if each.name.partition(".")[0] == stem and (_kind_by_name(each) or each.suffix == ".zip")
    ]
    return others[0] if len(others) == 1 else path


def _found(path: Path) -> Iterable[Path]:
    return [path] if path.exists() else map(Path, glob.glob(_pattern(path), recursive=True))


def _pattern(path: Path) -> str:
    """Turn `path` into a glob pattern, escaping special characters in folders that exist."""
    folder = _existing(path)
    return str(Path(glob.escape(str(folder)), path.relative_to(folder)))


def _existing(path: Path) -> Path:
    """The last folder of `path` that exists."""
    folder = path
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _is_data(file: PurePath, folder: PurePath, format: Format) -> bool:
    """Whether a file in a folder is one of its data files, by its name."""
    parts = file.relative_to(folder).parts
    if any(part.startswith(("_", ".")) for part in parts):
        return False
    kind = _kind_by_name(file)
    if kind is None:  # Spark and Hadoop write part-00000 without an ending
        return file.name.startswith("part-")
    return format in ("auto", kind)


def _kind_by_name(file: PurePath) -> Format | None:
    suffixes = file.suffixes
    ending = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else file.suffix
    return _KINDS.get(ending.lower())


def _data_file(
    path: Path, member: str | None, format: Format, within: PurePath | None = None
) -> DataFile:
    kind = format if format != "auto" else _kind_by_name(PurePath(member or path))
    folders = within.parent.parts if within is not None else ()
    return DataFile(path, member, kind or _kind_by_content(path, member), folders)


def _kind_by_content(path: Path, member: str | None) -> Format:
    name = str(path / member) if member else str(path)
    try:
        with _open(path, member) as file:
            start = file.read(4096)
    except BROKEN as error:
        raise DataError(f"{name}: cannot be read: {error}") from error
    if start.startswith(b"PAR1"):
        return "parquet"
    return "json" if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else "csv"


def _members(path: Path, format: Format) -> set[DataFile]:
    """The data files in a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except BROKEN as error:
        raise DataError(f"{path}: not a readable zip ({error})") from error
    root = PurePosixPath()
    return {
        _data_file(path, name, format, PurePosixPath(name))
        for name in names
        if _is_data(PurePosixPath(name), root, format)
    }


def _inside_zip(path: Path) -> tuple[Path, str] | None:
    """Split the path of a file within a zip into the two."""
    for archive in path.parents:
        if archive.is_file() and archive.suffix == ".zip":
            member = path.relative_to(archive).as_posix()
            with zipfile.ZipFile(archive) as opened:
                return (archive, member) if member in opened.namelist() else None
    return None


def _open(path: Path, member: str | None) -> BinaryIO:
    name = member or path.name
    # Who called closes the file. A file in a zip keeps the zip open.
    file = zipfile.ZipFile(path).open(member) if member else path.open("rb")  # noqa: SIM115
    if name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(file))
    return cast(BinaryIO, file)


def _natural(name: str) -> list[str | int]:
    # Text and digits alternate, so two paths never compare a text with a number.
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]
