"""Find Ali-CCP's files in a folder, and check them before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from twotower.workflows.errors import DataError

PARTS = ("train", "test")
MARKER = "SYNTHETIC"
"""The file in a folder that says that its data is made up."""
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_ENDINGS = (".gz", ".zip", ".tar.gz", ".bz2", ".xz", ".zst")


class Pair(NamedTuple):
    """The two files of a part.

    Attributes
    ----------
    part : str
        "train" or "test".
    skeleton, common : Path
    """

    part: str
    skeleton: Path
    common: Path

    @classmethod
    def at(cls, folder: Path, part: str) -> Pair:
        """The files of a part in `folder`, which need not exist."""
        names = (f"{kind}_{part}.csv" for kind in ("sample_skeleton", "common_features"))
        return cls(part, *(folder / name for name in names))


def folders(path: Path) -> Iterator[Path]:
    """Yield `path` and the folders in it, if it is one."""
    if path.is_dir():
        yield path
        yield from sorted(each for each in path.iterdir() if each.is_dir())


def has_files(folder: Path) -> bool:
    """Whether one of the four files is in `folder`, perhaps compressed."""
    pairs = [Pair.at(folder, part) for part in PARTS]
    return any(
        path.exists() or _packed(path) for pair in pairs for path in (pair.skeleton, pair.common)
    )


def find_pairs(folder: Path | None, needs_train: bool) -> list[Pair]:
    """Find the files of the parts in a folder or one of its folders.

    Parameters
    ----------
    folder : Path or None
    needs_train : bool
        Whether the training part must be there.

    Returns
    -------
    list of Pair
        The training part first.

    Raises
    ------
    DataError
        If a file is missing, empty, a folder or compressed.
    """
    if folder is None:
        raise DataError(
            "source ali-ccp-raw needs ingest.path: the folder with sample_skeleton_train.csv and "
            "common_features_train.csv; --data sets it"
        )
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; unpack the files, and pass the folder with them")
    place = next((each for each in folders(folder) if has_files(each)), folder)
    found = []
    for part in PARTS:
        pair = Pair.at(place, part)
        there = [path.exists() or bool(_packed(path)) for path in pair[1:]]
        if any(there) or (part == "train" and needs_train):
            for path in pair[1:]:
                _check(path)
            found.append(pair)
    if not found:
        raise DataError(f"{folder}: no sample_skeleton_train.csv or sample_skeleton_test.csv")
    return found


def is_synthetic(folder: Path | None) -> bool:
    """Whether the data in a folder, or in one of its folders, is marked as made up."""
    if folder is None:
        return False
    return any((each / MARKER).exists() for each in folders(folder) if has_files(each))


def _packed(path: Path) -> Path | None:
    """Find a compressed form of a file."""
    names = (path.with_name(f"{stem}{end}") for end in _ENDINGS for stem in (path.name, path.stem))
    return next((each for each in names if each.exists()), None)


def _check(path: Path) -> None:
    """Raise DataError unless a file can be read."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected a file")
    if not path.exists():
        if (packed := _packed(path)) is not None:
            raise DataError(f"{packed}: compressed; unpack it to {path.name}")
        raise DataError(
            f"{path}: no such file; each part needs a file sample_skeleton and a file "
            "common_features"
        )
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; copy or download it again")
    with path.open("rb") as file:
        start = file.read(8)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(f"{path}: a {name} file; unpack it")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: a text in UTF-16; the format is ASCII, download the file again")
    if start.startswith(b"PAR1"):
        raise DataError(
            f"{path}: a parquet file; for parquet use the configuration ali-ccp instead"
        )
