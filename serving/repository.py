"""The versions of a model repository: added whole, published, rolled back, pruned.

    <root>/.lock                    held by whoever changes anything below
    <root>/retrieval/<N>/           a version; never changed, its number never given again
    <root>/retrieval/config.pbtxt   what Triton serves and what was published before it, sealed
    <root>/retrieval/config.copy    a copy, used when config.pbtxt is damaged

Whatever is written is on the disk before one rename makes it count: a kill at any line leaves the
old state or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.serving.files import sync, without_locks
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import MANIFEST_FILE, verify_manifest
from twotower.serving.triton.control import MODEL_NAME, ModelControl, NoAnswerError
from twotower.serving.triton.scratch import with_real_path

CONFIG_FILE, COPY_FILE, LOCK_FILE = "config.pbtxt", "config.copy", ".lock"
REMOVED = ".removed-"
SEAL = b"# sha256 of the lines above: "
LONGEST_HISTORY = 20
PUBLISHED, NEWEST = "published", "newest_published"


@dataclass(frozen=True)
class Version:
    """A version as its manifest tells it; "damaged" where the manifest cannot be read.

    Attributes
    ----------
    created : ISO 8601, UTC
    towers_sha256 : hash of the towers that it was made of
    bytes : size of its files
    """

    number: int
    created: str
    towers_sha256: str
    runtime: str
    bytes: int
    published: bool


def _writing(method: Callable) -> Callable:
    """Hold the lock; turn an OSError into a ServingError."""

    @functools.wraps(method)
    def locked(self: ModelRepository, *arguments: Any, **options: Any) -> Any:
        with self.lock():
            try:
                return method(self, *arguments, **options)
            except OSError as error:
                raise self._refused(error) from error

    return locked


class ModelRepository:
    """The model repository at `root`; its methods may be called from several processes at once.

    Raises
    ------
    ServingError
        naming the file when a version is not whole or the disk refuses; nothing has changed then
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.model = self.root / MODEL_NAME
        self._mutex = threading.RLock()
        self._locked = False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Have other threads and processes wait before they change anything; may be nested."""
        with self._mutex:
            if self._locked:
                yield
                return
            with contextlib.ExitStack() as stack:
                try:
                    self.model.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context((self.root / LOCK_FILE).open("w"))
                    fcntl.flock(file, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
                except OSError as error:
                    if message := without_locks(self.root / LOCK_FILE, error):
                        raise ServingError(message) from error
                    raise self._refused(error) from error
                self._locked = True
                stack.callback(setattr, self, "_locked", False)
                yield

    def next_number(self) -> int:
        """The number of the version that is added next."""
        return max([*self._numbers(), self.newest_published]) + 1

    @_writing
    def add(self, staged: Path, number: int | None = None) -> int:
        """Move the folder `staged`, on the same disk, in as a version; its number.

        `number` is one that `next_number` gave before; by default it is the next one now.
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
        """Every version, ascending."""
        published = self.published
        found = [self._describe(number, number == published) for number in self._numbers()]
        # Reading takes no lock, so `prune` may have removed some in the meantime.
        return [version for version in found if (self.model / str(version.number)).is_dir()]

    @property
    def published(self) -> int | None:
        """The version a server loads when it starts."""
        history = self._history()
        return history[-1] if history else None

    @property
    def newest_published(self) -> int:
        """The highest number of all versions that were ever published; 0 if none was.

        A version above it has never been published; one that is not published now and is not above
        it was rolled back or replaced.
        """
        marks = (_read_sealed(self.model / name, NEWEST) for name in (CONFIG_FILE, COPY_FILE))
        return max([0, *self._history(), *(number for mark in marks for number in mark)])

    @_writing
    def publish(self, number: int | None = None, control: ModelControl | None = None) -> int:
        """Have version `number`, the newest if None, served; returns it.

        With `control` the running server loads it at once. Where it cannot, the version published
        before stays published, and the server goes on answering with it.
        """
        numbers = self._numbers()
        if not numbers:
            raise ServingError(f"{self.root}: no version to publish; run `twotower export`")
        number = numbers[-1] if number is None else number
        if number not in numbers:
            raise ServingError(
                f"{self.root}: no version {number}; there is {', '.join(map(str, numbers))}"
            )
        self._check(number)
        history = self._history()
        if history[-1:] != [number]:
            history.append(number)
        self._serve(history[-LONGEST_HISTORY:], control)
        return number

    @_writing
    def rollback(self, control: ModelControl | None = None) -> int:
        """Publish the version that was published before the current one; returns it."""
        *before, current = self._history() or [None]
        if not before:
            raise ServingError(
                f"{self.root}: nothing to go back to; "
                + (
                    f"no version was published before {current}"
                    if current
                    else "none is published: run `twotower publish`"
                )
            )
        if before[-1] not in self._numbers():
            raise ServingError(
                f"{self.root}: version {before[-1]}, published before version {current}, is no "
                "longer kept; `twotower versions` lists those that are, and `twotower publish "
                "--version <n>` has one of them served"
            )
        self._check(before[-1])
        self._serve(before, control)
        return before[-1]

    @_writing
    def prune(self, keep: int) -> None:
        """Remove the oldest versions beyond `keep`, but not what `rollback` goes back to."""
        self._sweep()
        spared = self._history()[-2:]
        for number in self._numbers()[:-keep]:
            if number not in spared:
                # By one rename, so that a version is there whole or not at all.
                (self.model / str(number)).rename(self.model / f"{REMOVED}{number}")
        self._sweep()

    @_writing
    def mend(self) -> list[str]:
        """Make sure that what is published can be served, before a server starts.

        Returns what was found damaged; then the newest whole version of those published so far
        has been published instead. Raises ServingError when there is none.
        """
        history, damaged = self._history(), []
        if history and _read_sealed(self.model / CONFIG_FILE) != history:
            damaged.append(f"{self.model / CONFIG_FILE}: not the file that was published")
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
        return damaged

    def _check(self, number: int) -> None:
        """Refuse a version that is not whole; delete Python's cache, which the manifest omits."""
        verify_manifest(self.model / str(number))
        shutil.rmtree(self.model / str(number) / "__pycache__", ignore_errors=True)

    def _serve(self, history: list[int], control: ModelControl | None) -> None:
        """Put a config.pbtxt in place that has Triton serve the last of `history`."""
        config = self.model / CONFIG_FILE
        old = config.read_bytes() if config.is_file() else b""
        new = self._sealed(history)
        # All of it is written before anything changes: undoing must not need room on the disk.
        contents = {".config.new": new, ".config.spare": new, ".config.undo": old}
        fresh, spare, undo = written = [self.model / name for name in contents]
        try:
            for path, content in zip(written, contents.values(), strict=True):
                _write(path, content)
            if new != old:  # the same file again would have Triton load the version again
                fresh.replace(config)
                sync(self.model)
            if control:
                try:
                    control.load()
                except BaseException as error:
                    undo.replace(config)
                    sync(self.model)
                    if not isinstance(error, ServingError):  # Ctrl-C
                        self._load_again(control)
                        raise
                    raise self._not_loaded(history[-1], error, control) from error
            spare.replace(self.model / COPY_FILE)
            sync(self.model)
        finally:
            for path in written:
                path.unlink(missing_ok=True)

    def _not_loaded(self, number: int, error: ServingError, control: ModelControl) -> ServingError:
        """The error for a version that failed to load, after the previous config was restored."""
        outcome = "what was published before is still published and still answers"
        if isinstance(error, NoAnswerError) and (problem := self._load_again(control)):
            outcome = (
                "what was published before is published again, but the server may still change to "
                f"version {number} when it has loaded it ({problem}): restart `twotower serve`"
            )
        reason = with_real_path(str(error), self.root.resolve())
        return ServingError(f"{self.model / str(number)}: not loaded: {reason}; {outcome}")

    def _load_again(self, control: ModelControl) -> str | None:
        """Load the published version on a server that may still be loading another one.

        Triton loads one version of a model after the other: when it has loaded what is published,
        the other load is over as well. Until then the other version may answer for a moment.
        Returns what went wrong, if anything did.
        """
        try:
            control.load(timeout=2 * control.timeout)
            answers = control.version()
        except ServingError as error:
            return with_real_path(str(error), self.root.resolve())
        return f"version {answers} answers" if answers != self.published else None

    def _sealed(self, history: list[int]) -> bytes:
        """The version's own config, the version to serve, the history, and a hash of all that.

        The history ends in the published version; `rollback` shortens it, so the newest version
        that was ever published is stored beside it.
        """
        template = (self.model / str(history[-1]) / CONFIG_FILE).read_text()
        newest = max(self.newest_published, *history)
        body = (
            f"{template}version_policy {{ specific {{ versions: [{history[-1]}] }} }}\n"
            f"{_parameter(PUBLISHED, history)}{_parameter(NEWEST, [newest])}"
        ).encode()
        return body + SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n"

    def _history(self) -> list[int]:
        """The versions published so far, the current one last."""
        sealed = (_read_sealed(self.model / name) for name in (CONFIG_FILE, COPY_FILE))
        return next((history for history in sealed if history), [])

    def _numbers(self) -> list[int]:
        """The versions there are, ascending; named as Triton wants it."""
        names = (path.name for path in self.model.glob("*") if path.is_dir())
        return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))

    def _describe(self, number: int, published: bool) -> Version:
        folder = self.model / str(number)
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
            told = [str(manifest[key]) for key in ("created", "towers_sha256", "runtime")]
        except (OSError, ValueError, LookupError, TypeError):
            told = ["damaged"] * 3
        size = 0
        with contextlib.suppress(FileNotFoundError):  # it is being removed
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Version(number, *told, size, published)

    def _sweep(self) -> None:
        """Delete removed versions, also those that a killed process has left."""
        for path in self.model.glob(f"{REMOVED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _refused(self, error: OSError) -> ServingError:
        return ServingError(
            f"{error.filename or self.root}: {error.strerror or error}; the model repository is "
            "as it was. Make room or make it writable, then do it again"
        )


def _parameter(key: str, numbers: list[int]) -> str:
    """A line of config.pbtxt."""
    text = " ".join(map(str, numbers))
    return f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}\n'


def _read_sealed(path: Path, key: str = PUBLISHED) -> list[int]:
    """The numbers of a parameter in a config file, by default the history.

    Empty if it is not there, or the file is missing, foreign or damaged.
    """
    text = path.read_bytes() if path.is_file() else b""
    body, _, digest = text.rpartition(SEAL)
    if hashlib.sha256(body).hexdigest().encode() + b"\n" != digest:
        return []
    said = re.search(rb'key: "%s" value { string_value: "([0-9 ]+)"' % key.encode(), body)
    return [int(number) for number in said[1].split()] if said else []


def _write(path: Path, content: bytes) -> None:
    """Write a file through to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
