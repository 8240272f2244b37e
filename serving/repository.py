"""Adds, publishes, rolls back and prunes the versions of a model repository.

    <root>/.lock                    held while anything below is changed
    <root>/retrieval/<N>/           a version; never changed, and its number is never reused
    <root>/retrieval/config.pbtxt   the version to serve and those published before, with a hash
    <root>/retrieval/config.copy    a copy, used if config.pbtxt is damaged
    <root>/<face>/config.pbtxt      a model that passes requests on to retrieval; made again at each
                                    start and publication from the published version
    <root>/denied.json              see serving.runtime.filters.denied

Each change is flushed to the disk before a single rename applies it, so a process that is killed at
any point leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.serving.config_file import (
    CONFIG_FILE,
    NEWEST,
    PUBLISHED,
    published_config,
    read_numbers,
    write_faces,
)
from twotower.serving.files import sync, without_locks, write_through
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import MANIFEST_FILE, verify_manifest
from twotower.serving.triton.control import FACES, MODEL_NAME, ModelControl, NoAnswerError
from twotower.serving.triton.scratch import with_real_path

COPY_FILE, LOCK_FILE = "config.copy", ".lock"
REMOVED = ".removed-"
MAX_HISTORY = 20


@dataclass(frozen=True)
class Version:
    """A version as its manifest describes it.

    Attributes
    ----------
    number : int
    created : str
        ISO 8601, UTC. This and the next two are "damaged" if the manifest cannot be read.
    towers_sha256 : str
        Hash of its towers.
    runtime : str
    bytes : int
        Size of its files.
    published : bool
        Whether it is the published version.
    """

    number: int
    created: str
    towers_sha256: str
    runtime: str
    bytes: int
    published: bool


def _writing(method: Callable) -> Callable:
    """Make a method hold the lock and raise an OSError as a ServingError."""

    @functools.wraps(method)
    def locked(self: ModelRepository, *arguments: Any, **options: Any) -> Any:
        with self.lock():
            try:
                return method(self, *arguments, **options)
            except OSError as error:
                raise self._refused(error) from error

    return locked


class ModelRepository:
    """A model repository. Several threads and processes may use it at the same time.

    Each method raises a ServingError that names the file if a version is damaged or the disk cannot
    be written. Nothing has changed then.

    Parameters
    ----------
    root : Path
        Its folder; created at the first change.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.model = self.root / MODEL_NAME
        self._mutex = threading.RLock()
        self._locked = False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other threads and processes from changing anything; may be nested."""
        with self._mutex:
            if self._locked:
                yield
                return
            with contextlib.ExitStack() as stack:
                try:
                    self.model.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context((self.root / LOCK_FILE).open("w"))
                    fcntl.flock(file, fcntl.LOCK_EX)  # released if the process is killed
                except OSError as error:
                    if message := without_locks(self.root / LOCK_FILE, error):
                        raise ServingError(message) from error
                    raise self._refused(error) from error
                self._locked = True
                stack.callback(setattr, self, "_locked", False)
                yield

    def next_number(self) -> int:
        """Return the number of the version that will be added next."""
        return max([*self._numbers(), self.newest_published]) + 1

    @_writing
    def add(self, staged: Path, number: int | None = None) -> int:
        """Add a version by moving a folder into the repository.

        Parameters
        ----------
        staged : Path
            The version's folder, on the same file system.
        number : int, optional
            A number that `next_number` returned before; by default the next one.

        Returns
        -------
        int
            The version's number.
        """
        self._sweep()
        number = number or self.next_number()
        for path in [*staged.rglob("*"), staged]:
            sync(path)
        staged.rename(self.model / str(number))
        sync(self.model)
        sync(self.root)
        return number

    def versions(self) -> list[Version]:
        """Return all versions in ascending order."""
        published = self.published
        found = [self._describe(number, number == published) for number in self._numbers()]
        # Reading takes no lock, so `prune` may have removed some meanwhile.
        return [version for version in found if (self.model / str(version.number)).is_dir()]

    @property
    def published(self) -> int | None:
        """The version that a server loads when it starts; None if there is none."""
        history = self._history()
        return history[-1] if history else None

    @property
    def newest_published(self) -> int:
        """The highest number ever published; 0 if there is none.

        Versions above it were never published. Those below it that are not published now were
        rolled back or replaced.
        """
        marks = (read_numbers(self.model / name, NEWEST) for name in (CONFIG_FILE, COPY_FILE))
        return max([0, *self._history(), *(number for mark in marks for number in mark)])

    @_writing
    def publish(self, number: int | None = None, control: ModelControl | None = None) -> int:
        """Publish a version.

        Parameters
        ----------
        number : int, optional
            The version; by default the newest.
        control : ModelControl, optional
            A running server, which then loads the version at once. If that fails, the previous
            version remains published and served.

        Returns
        -------
        int
            The version's number.
        """
        numbers = self._numbers()
        if not numbers:
            raise ServingError(f"{self.root}: no version to publish; run `twotower export`")
        number = numbers[-1] if number is None else number
        if number not in numbers:
            raise ServingError(
                f"{self.root}: no version {number}; there are {', '.join(map(str, numbers))}"
            )
        self._check(number)
        history = self._history()
        if history[-1:] != [number]:
            history.append(number)
        self._serve(history[-MAX_HISTORY:], control)
        return number

    @_writing
    def rollback(self, control: ModelControl | None = None) -> int:
        """Publish the previously published version, and return its number.

        `control` is as for `publish`.
        """
        history = self._history()
        before, current = history[:-1], history[-1] if history else None
        if not before:
            raise ServingError(
                f"{self.root}: nothing to roll back to; "
                + (
                    f"no version was published before {current}"
                    if current
                    else "none is published: run `twotower publish`"
                )
            )
        if before[-1] not in self._numbers():
            raise ServingError(
                f"{self.root}: version {before[-1]}, published before version {current}, is no "
                "longer kept; `twotower versions` lists the kept ones, and `twotower publish "
                "--version <n>` publishes one of them"
            )
        self._check(before[-1])
        self._serve(before, control)
        return before[-1]

    @_writing
    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` versions and the two that were published last."""
        self._sweep()
        published = self._history()[-2:]  # the current one, and the one `rollback` goes back to
        for number in self._numbers()[:-keep]:
            if number not in published:
                # Renamed first, so that a version is either complete or gone.
                (self.model / str(number)).rename(self.model / f"{REMOVED}{number}")
        self._sweep()

    @_writing
    def mend(self) -> list[str]:
        """Check the published version before a server starts.

        If it is damaged, the last published version that is undamaged is published instead.

        Returns
        -------
        list of str
            What was damaged.

        Raises
        ------
        ServingError
            If no published version is undamaged.
        """
        history, damaged = self._history(), []
        if history and read_numbers(self.model / CONFIG_FILE, PUBLISHED) != history:
            damaged.append(f"{self.model / CONFIG_FILE}: changed since a version was published")
        while history:
            try:
                self._check(history[-1])
                break
            except ServingError as error:
                damaged.append(str(error))
                history.pop()
        if not history:
            problem = "; ".join(damaged) or f"{self.root}: no version is published"
            raise ServingError(f"{problem}. Run `twotower export` and `twotower publish`")
        if damaged:
            self._serve(history, None)
        write_faces(self.model, history[-1])
        return damaged

    def _check(self, number: int) -> None:
        """Refuse a damaged version; delete Python's cache, which the manifest does not list."""
        verify_manifest(self.model / str(number))
        shutil.rmtree(self.model / str(number) / "__pycache__", ignore_errors=True)

    def _serve(self, history: list[int], control: ModelControl | None) -> None:
        """Write a config.pbtxt that makes Triton serve the last version of `history`."""
        config, before = self.model / CONFIG_FILE, self._history()
        old = config.read_bytes() if config.is_file() else b""
        template = (self.model / str(history[-1]) / CONFIG_FILE).read_text()
        newest = max(self.newest_published, *history)
        new = published_config(template, history, newest)
        # All files are written before anything changes, because undoing must not need disk space.
        contents = {".config.new": new, ".config.spare": new, ".config.undo": old}
        fresh, spare, undo = written = [self.model / name for name in contents]
        try:
            for path, content in zip(written, contents.values(), strict=True):
                write_through(path, content)
            if new != old:  # a new file, even if equal, makes Triton load the version again
                fresh.replace(config)
                sync(self.model)
            write_faces(self.model, history[-1])
            if control:
                try:
                    self._load(control)
                except BaseException as error:
                    undo.replace(config)
                    sync(self.model)
                    if before:
                        write_faces(self.model, before[-1])
                    if not isinstance(error, ServingError):  # Ctrl-C
                        self._load_again(control)
                        raise
                    raise self._not_loaded(history[-1], error, control) from error
            spare.replace(self.model / COPY_FILE)
            sync(self.model)
        finally:
            for path in written:
                path.unlink(missing_ok=True)

    def _load(self, control: ModelControl, timeout: float | None = None) -> None:
        """Have a running server load the published version and its faces."""
        control.load(timeout=timeout)
        for face in FACES:
            if (self.root / face / CONFIG_FILE).is_file():
                control.load(face, timeout)
            else:
                control.unload(face)

    def _not_loaded(self, number: int, error: ServingError, control: ModelControl) -> ServingError:
        """Return the error for a version that failed to load and whose publication was undone."""
        outcome = "the version published before is still published and still answers"
        if isinstance(error, NoAnswerError) and (problem := self._load_again(control)):
            outcome = (
                "the version published before is published again, but the server may still change "
                f"to version {number} once it is loaded ({problem}): restart `twotower serve`"
            )
        reason = with_real_path(str(error), self.root.resolve())
        return ServingError(f"{self.model / str(number)}: not loaded: {reason}; {outcome}")

    def _load_again(self, control: ModelControl) -> str | None:
        """Load the published version on a server that may still be loading another one.

        Triton loads the versions of a model one after the other, so once it has loaded the
        published one, the other load has ended. Until then the other version may answer briefly.

        Returns
        -------
        str or None
            What went wrong.
        """
        try:
            self._load(control, timeout=2 * control.timeout)
            answers = control.version()
        except ServingError as error:
            return with_real_path(str(error), self.root.resolve())
        return f"version {answers} answers" if answers != self.published else None

    def _history(self) -> list[int]:
        """Return the versions published so far, the current one last."""
        stored = (read_numbers(self.model / name, PUBLISHED) for name in (CONFIG_FILE, COPY_FILE))
        return next((history for history in stored if history), [])

    def _numbers(self) -> list[int]:
        """Return the numbers of the existing versions, ascending."""
        names = (path.name for path in self.model.glob("*") if path.is_dir())
        return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))

    def _describe(self, number: int, published: bool) -> Version:
        folder = self.model / str(number)
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
            created, towers, runtime = (
                str(manifest[key]) for key in ("created", "towers_sha256", "runtime")
            )
        except (OSError, ValueError, LookupError, TypeError):
            created = towers = runtime = "damaged"
        size = 0
        with contextlib.suppress(FileNotFoundError):  # the version is being removed
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Version(
            number=number,
            created=created,
            towers_sha256=towers,
            runtime=runtime,
            bytes=size,
            published=published,
        )

    def _sweep(self) -> None:
        """Delete removed versions, including those left by a killed process."""
        for path in self.model.glob(f"{REMOVED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _refused(self, error: OSError) -> ServingError:
        return ServingError(
            f"{error.filename or self.root}: {error.strerror or error}; the model repository is "
            "unchanged. Make room or make it writable, and try again"
        )
