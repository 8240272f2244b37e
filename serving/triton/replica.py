"""A copy of what a model repository publishes, for one of several servers of the repository."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import TracebackType

from twotower.serving.config_file import CONFIG_FILE, PUBLISHED, read_numbers
from twotower.serving.repository import COPY_FILE, ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.denied import DENIED_FILE
from twotower.serving.triton.control import MODEL_NAME, ModelControl
from twotower.serving.triton.scratch import Scratch

RETRY_SECONDS = 60.0
"""Pause before a version is tried again that did not load."""


class Replica:
    """A repository of its own that follows another one, to which it writes nothing.

    It has whole copies of versions, because a server must go on if the other repository removes a
    version or cannot be read. Use it in a `with` statement, which removes the copies.

    Parameters
    ----------
    source : Path
        The repository to follow. It may be read-only.
    version : int, optional
        The version to serve. By default the published one, whichever that is.

    Attributes
    ----------
    repository : ModelRepository
        The copy, for a server.
    """

    def __init__(self, source: Path, version: int | None = None) -> None:
        self.source, self.pinned = source.resolve(), version
        self._scratch = Scratch()
        self.repository = ModelRepository(self._scratch.path / "copies")
        self._seen: tuple[int, int] | None = None
        self._pause_until = 0.0

    def __enter__(self) -> Replica:
        self.repository.root.mkdir()
        # A link, because the file may be created later and is replaced as a whole.
        (self.repository.root / DENIED_FILE).symlink_to(self.source / DENIED_FILE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scratch.remove()

    def begin(self) -> list[str]:
        """Copy the version with which the server starts.

        If the published version is damaged, it is the last one published before that is not.

        Returns
        -------
        list of str
            What was damaged.

        Raises
        ------
        ServingError
            If there is no intact version.
        """
        damaged: list[str] = []
        self._seen = self._mark()
        for number in reversed(self._wanted()):
            try:
                self._take(number, None)
                return damaged
            except ServingError as error:
                damaged.append(str(error))
        problem = "; ".join(damaged) or f"{self.source}: no version is published"
        raise ServingError(f"{problem}. Run `twotower export` and `twotower publish`")

    def follow(self, control: ModelControl | None) -> int | None:
        """Have the server load what has been published since the last call.

        Parameters
        ----------
        control : ModelControl or None
            The server; None if its Triton cannot load versions while it runs.

        Returns
        -------
        int or None
            The version that it loaded; None if nothing was published.

        Raises
        ------
        ServingError
            If the version is damaged or does not load. The earlier one still answers, and this one
            is tried again after `RETRY_SECONDS`.
        """
        mark = self._mark()
        if self.pinned is not None or mark == self._seen or time.monotonic() < self._pause_until:
            return None
        self._seen, wanted = mark, self._wanted()
        if not wanted or wanted[-1] == self.repository.published:
            return None
        number = wanted[-1]
        if control is None:
            raise ServingError(
                f"version {number} is published, but the server's Triton cannot load it; restart "
                "`twotower serve`"
            )
        try:
            self._take(number, control)
        except ServingError:
            self._seen, self._pause_until = None, time.monotonic() + RETRY_SECONDS
            raise
        self.repository.prune(1)
        return number

    def _wanted(self) -> list[int]:
        """Return the versions to serve, the one that is preferred last."""
        if self.pinned is not None:
            return [self.pinned]
        model = self.source / MODEL_NAME
        # The copy is replaced once a version has loaded on the server that published it.
        files = (model / COPY_FILE, model / CONFIG_FILE)
        found = (read_numbers(path, PUBLISHED) for path in files)
        return next((numbers for numbers in found if numbers), [])

    def _mark(self) -> tuple[int, int] | None:
        """Return what changes whenever something is published."""
        try:
            found = (self.source / MODEL_NAME / COPY_FILE).stat()
        except OSError:  # nothing was published yet, or the disk is out of reach
            return self._seen
        return found.st_mtime_ns, found.st_ino

    def _take(self, number: int, control: ModelControl | None) -> None:
        """Copy a version and have the server load it."""
        version = self.repository.model / str(number)
        if not version.is_dir():
            self._copy(number)
        try:
            self.repository.publish(number, control)
        except ServingError as error:
            shutil.rmtree(version, ignore_errors=True)  # the next try makes another copy
            reason = str(error).replace(str(self.repository.root), str(self.source))
            raise ServingError(reason) from error

    def _copy(self, number: int) -> None:
        version, staged = self.source / MODEL_NAME / str(number), self._scratch.path / "staged"
        if not version.is_dir():
            raise ServingError(
                f"{self.source}: no version {number}; `twotower versions` lists them"
            )
        try:
            shutil.copytree(version, staged, ignore=shutil.ignore_patterns("__pycache__"))
            self.repository.add(staged, number)
        except OSError as error:  # shutil.Error is one
            raise ServingError(
                f"{version}: cannot be copied to {self._scratch.path} ({error}); make room there, "
                "or set TMPDIR to a folder with more"
            ) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
