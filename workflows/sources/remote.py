"""Temporary copies of files in S3 and GCS."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from twotower.workflows.errors import DataError
from twotower.workflows.sources.base import Progress
from twotower.workflows.sources.data_path import CREDENTIALS, DataPath, is_remote
from twotower.workflows.sources.findings import Findings

_CHUNK = 8 * 2**20
_RETRY_SECONDS = 20
"""How long GCS is tried; pyarrow's default is 15 minutes."""
Key = TypeVar("Key")


@contextlib.contextmanager
def local_copies(
    paths: Mapping[Key, Path], findings: Findings, progress: Progress | None = None
) -> Iterator[tuple[dict[Key, Path], Findings]]:
    """Copy what remote paths name to a temporary folder, which is removed in every case.

    Parameters
    ----------
    paths : mapping to Path
        Files, folders, glob patterns, zips and files in zips, of this machine or remote.
    findings : Findings
    progress : callable, optional
        Called with (bytes copied, bytes in total) of each path.

    Yields
    ------
    places : dict to Path
        Where the files are on this machine: for a path of this machine, the path.
    findings : Findings
        To be used while the copies are read: messages have the remote names, as has every DataError
        that the block raises.

    Raises
    ------
    DataError
        If there is nothing at a remote path, or it cannot be copied.
    """
    if not any(map(is_remote, paths.values())):
        yield dict(paths), findings
        return
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder:

        def remote_names(text: str) -> str:
            return re.sub(rf"{re.escape(folder)}/(s3|gs)/", r"\1://", text)

        try:
            places = {
                key: _copy(DataPath.without_credentials(path), Path(folder), findings, progress)
                if is_remote(path)
                else path
                for key, path in paths.items()
            }
            yield places, findings.renamed(remote_names)
        except DataError as error:
            raise type(error)(remote_names(str(error))) from error


def _copy(path: DataPath, folder: Path, findings: Findings, progress: Progress | None) -> Path:
    """Copy the files that a remote path names; return the path of the copy."""
    scheme, parts = path.parts[0][:-1], path.parts[1:]
    if not parts or has_magic(parts[0]):
        raise DataError(f"{path}: no bucket; expected {scheme}://bucket/folder")
    home = folder / scheme
    try:
        system = _file_system(scheme, parts[0])
        found = _found(system, parts)
        if not found:
            raise DataError(
                f"{path}: nothing there, or it may not be listed; check the name and, in the "
                f"environment, {CREDENTIALS[scheme]}"
            )
        done, total = 0, sum(each.size for each in found)
        for each in found:
            if ".." in PurePosixPath(each.path).parts:
                raise DataError(f"{scheme}://{each.path}: has `..` in its name; rename it")
            target = home / each.path
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_files(
                each.path,
                str(target),
                source_filesystem=system,
                destination_filesystem=LocalFileSystem(),
                chunk_size=_CHUNK,
            )
            done += each.size
            if progress:
                progress(done, total)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: {_explained(error, scheme)}") from error
    plural = "s" * (len(found) > 1)
    findings(f"{path}: read from a temporary copy ({len(found):,} file{plural}, {total:,} bytes)")
    return home.joinpath(*parts)


def _file_system(scheme: str, bucket: str) -> FileSystem:
    """Open S3 or GCS with the credentials of the environment."""
    options: dict[str, object] = {}
    if scheme == "gs":
        options["retry_limit_seconds"] = _RETRY_SECONDS
    elif server := os.environ.get("AWS_ENDPOINT_URL"):  # pyarrow 14 does not read it
        at = urlsplit(server if "//" in server else f"//{server}", scheme="https")
        options |= {"endpoint_override": at.netloc, "scheme": at.scheme}
    return FileSystem.from_uri(f"{scheme}://{bucket}?{urlencode(options)}")[0]


def _found(system: FileSystem, parts: Sequence[str]) -> list[FileInfo]:
    """List the files at a path, in a folder of it, or that match it as a pattern."""
    fixed = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
    at = system.get_file_info("/".join(parts[:fixed]))
    if at.type == FileType.Directory:
        inside = system.get_file_info(FileSelector(at.path, recursive=True))
        return [
            each
            for each in inside
            if each.type == FileType.File and _matches(each.path.split("/")[fixed:], parts[fixed:])
        ]
    # Otherwise it is a file, or the name of one in a zip.
    zips = (parts[: i + 1] for i in range(1, len(parts)) if parts[i].endswith(".zip"))
    archives = (system.get_file_info("/".join(each)) for each in zips)
    return [each for each in (at, *archives) if each.type == FileType.File][:1]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder that it is in, matches a glob pattern."""
    if not pattern or not parts:
        return not pattern
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _explained(error: Exception, scheme: str) -> str:
    if isinstance(error, NotImplementedError):
        return (
            f"the installed pyarrow {pa.__version__} cannot read {scheme}://; copy the files to "
            "this machine"
        )
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no room in {tempfile.gettempdir()} for a copy; free some, or set the environment "
            "variable TMPDIR to another folder"
        )
    text = " ".join(str(error).split())
    return (
        f"cannot be read ({text}); check the name, the network and, in the environment, "
        f"{CREDENTIALS[scheme]}"
    )
