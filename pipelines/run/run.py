"""One run folder: its configuration, and reading and writing its steps."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from twotower.pipelines import lock
from twotower.pipelines.config import (
    Config,
    apply_overrides,
    from_anywhere,
    overridden_sections,
    parse_config,
    read_overrides,
    to_yaml,
)
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run.commit import commit, complete_commit, is_committing, recover
from twotower.pipelines.run.disk import explained_disk_errors, make_folder, write_atomically
from twotower.pipelines.run.layout import (
    CONFIG,
    RUNS,
    STAGING,
    changed_settings,
    folders_of,
    settings_of,
    upstream_of,
)
from twotower.pipelines.run.manifest import (
    Notes,
    files_of,
    identity_of,
    read_config,
    read_manifest,
    recorded,
)
from twotower.serving.runtime.manifest import sha256

LAST = "last"
"""The file in RUNS that names the run used last."""
PATTERN = frozenset("[]*?")
"""TensorFlow expands these characters in the paths of checkpoints."""


class Run:
    """One run folder.

    Parameters
    ----------
    path : Path
        The folder.
    created : Config, optional
        The configuration of a new run, see `create`; default: the one in the folder.

    Raises
    ------
    RunError
        If the folder is not a run.
    ConfigError
        If its config.yaml is wrong.
    """

    def __init__(self, path: Path, created: Config | None = None):
        complete_commit(path)
        if not created and not os.path.isfile(path / CONFIG):
            raise RunError(
                f"{path}: not a run folder (it has no config.yaml); make one with "
                f"`twotower run` or `twotower ingest --config <file>`"
            )
        self.path = path
        self._created = created
        self._stored_overrides: tuple[str, ...] = ()  # are written once a step has succeeded
        self._unstored_overrides: tuple[str, ...] = ()
        self.config = self._configured()

    @classmethod
    def create(cls, config: Config, path: Path | None = None) -> Run:
        """Open a new or existing folder as the run of `config`.

        config.yaml is written, or replaced, when a step has succeeded.

        Parameters
        ----------
        config : Config
            The configuration of the run.
        path : Path, optional
            The folder; default: runs/<name>.
        """
        path = path or RUNS / config.name
        make_folder(path)
        return cls(path, from_anywhere(config))

    @classmethod
    def last(cls) -> Run:
        """The run that was made or used last."""
        pointer = RUNS / LAST
        if not pointer.is_file():
            raise RunError("no run yet; `make run` makes one, or name one with --run <folder>")
        path = Path(pointer.read_text(errors="replace").removesuffix("\n"))
        if not os.path.isfile(path / CONFIG):
            raise RunError(
                f"{pointer}: the run used last, {path}, no longer exists; name one with "
                "--run <folder>"
            )
        return cls(path)

    def remember(self) -> None:
        """Make this the run of commands without --run; print a warning if that fails."""
        try:
            make_folder(RUNS)
            write_atomically(RUNS / LAST, f"{self.path}\n")
        except RunError as error:
            print(f"{error}. Until then name the run: --run {self.path}", file=sys.stderr)

    def override(self, overrides: tuple[str, ...], keep: bool = True) -> None:
        """Change the configuration by "section.key=value" strings.

        Parameters
        ----------
        overrides : tuple of str
            What to change.
        keep : bool
            Whether to store the changes in config.yaml. They are stored once a step has succeeded
            with them, so a wrong value is not stored.
        """
        before = self._stored_overrides, self._unstored_overrides
        if keep:
            self._stored_overrides += overrides
        else:
            self._unstored_overrides += overrides
        try:
            self.config = self._configured()
        except ConfigError:
            self._stored_overrides, self._unstored_overrides = before
            raise

    def store_overrides(self) -> None:
        """Write the overrides that are to be stored into config.yaml, without a step."""
        with self.writing("index"):
            if (text := self._new_config()) is not None:
                write_atomically(self.path / CONFIG, text)
            self._created, self._stored_overrides = None, ()

    def _configured(self) -> Config:
        return self._with_overrides(self._stored_overrides + self._unstored_overrides)

    def _with_overrides(self, overrides: tuple[str, ...]) -> Config:
        config = self._created or read_config(self.path)
        if overrides:
            tree = apply_overrides(json.loads(config.json()), overrides)
            config = parse_config(tree, "--set")
            config = from_anywhere(config, overridden_sections(overrides))
        return config

    @contextlib.contextmanager
    def writing(self, command: str) -> Iterator[None]:
        """Hold the lock of the run while the block runs; a thread may nest this.

        First, what a killed process left is completed or removed, and the configuration is read
        again, because another command may have changed it.

        Raises
        ------
        RunError
            At once, if another command is writing the run; the message names it. Also if the path
            contains a character with which TensorFlow cannot write checkpoints.
        """
        if PATTERN.intersection(str(self.path)):
            raise RunError(
                f"{self.path}: has one of [ ] * ? in its path, which TensorFlow takes for a "
                "pattern; move or rename the folder"
            )
        with lock.writing(self.path, command) as taken:
            if taken:
                recover(self.path)
                self.config = self._configured()
            yield

    @contextlib.contextmanager
    def reading(self, *names: str) -> Iterator[None]:
        """Read the output of the steps `names` without the lock.

        Raises
        ------
        RunError
            If the block fails because another command replaced the files.
        """
        before = self._files_by_step(names)
        try:
            yield
        except Exception as error:
            if is_committing(self.path) or self._files_by_step(names) != before:
                raise RunError(
                    f"{self.path}: another command replaced files while this one read them; run "
                    "this command again"
                ) from error
            raise

    def _files_by_step(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        steps = self.manifest["steps"]
        return {name: recorded(self.path, name, "files") for name in names if name in steps}

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json; without steps if the file does not exist."""
        return read_manifest(self.path)

    def within(self, staging: Path) -> Run:
        """This run, reading its folders from `staging`: as it will be after the commit."""
        other = copy.copy(self)
        other.path = staging
        return other

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Write the output of one step: all of it, or nothing if the block fails.

        Parameters
        ----------
        name : str
            The step, one of STEPS.

        Yields
        ------
        out : Path
            The staging folder, with the step's folders in it.
        notes : dict
            What the manifest notes about the step; filled by the block.
        """
        with self.steps(name, name) as (staging, notes):
            yield staging, notes[name]

    @contextlib.contextmanager
    def steps(self, command: str, *names: str) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
        """Write the output of several steps: all of it, or nothing if the block fails.

        Parameters
        ----------
        command : str
            The command that an error message advises to run again.
        *names : str
            The steps, some of STEPS.

        Yields
        ------
        out : Path
            The staging folder, with the steps' folders in it.
        notes : dict of str to dict
            The notes of each step; filled by the block.
        """
        with self.writing(command):
            read_manifest(self.path)  # fail before the work if it is damaged
            before = {name: upstream_of(self.config, name) for name in names}
            upstream = {each for name in names for each in before[name]}.difference(names)
            made_from = {each: self.identity(each) for each in upstream}
            made_with = {name: settings_of(self.config, name) for name in names}
            staging = self.path / STAGING
            notes: dict[str, dict[str, Any]] = {name: {} for name in names}
            started = time.perf_counter()
            try:
                with explained_disk_errors(self.path, command):
                    for folder in folders_of(names):
                        (staging / folder).mkdir(parents=True)
                    yield staging, notes
                    manifest = self.manifest
                    for name in names:
                        files = files_of(staging, name)
                        made_from[name] = identity_of(files)
                        manifest["steps"][name] = {
                            "seconds": round(time.perf_counter() - started, 1),
                            "made_from": {each: made_from[each] for each in before[name]},
                            "made_with": made_with[name],
                            "notes": notes[name],
                            "files": files,
                        }
                    commit(self.path, manifest, self._new_config())
            finally:
                committed = recover(self.path)
            if not committed:
                raise RunError(
                    f"{self.path}: it was changed by hand in the meantime, so nothing was "
                    f"replaced; run `twotower {command}` again"
                )
            self._created, self._stored_overrides = None, ()

    def _new_config(self) -> str | None:
        """The new content of config.yaml, if it changes."""
        if self._created or self._stored_overrides:
            return to_yaml(self._with_overrides(self._stored_overrides))
        return None

    def verified(self, *names: str, settings: bool = True) -> Path:
        """Check the steps `names`, and return the run folder.

        Some of their files are unpickled, so nothing is opened that the manifest does not list.

        Parameters
        ----------
        *names : str
            The steps to check.
        settings : bool
            Whether to compare the settings they were made with to the configuration.

        Raises
        ------
        RunError
            If a step is missing, is older than its input or was made with other settings, or if a
            file is missing or changed.
        """
        for name in names:
            if settings:
                self._check_settings(name)
            for upstream, identity in recorded(self.path, name, "made_from").items():
                if self.identity(upstream) != identity:
                    raise RunError(
                        f"{self.path}: `{name}` was made from another `{upstream}`; "
                        f"run `twotower {name}` again"
                    )
            for file, digest in recorded(self.path, name, "files").items():
                path = self.path / file
                if not path.is_file():
                    raise RunError(f"{path}: missing; run `twotower {name}` again")
                if sha256(path) != digest:
                    raise RunError(
                        f"{path}: does not match its hash in the manifest; it was changed or "
                        f"damaged. Run `twotower {name}` again"
                    )
        return self.path

    def _check_settings(self, name: str) -> None:
        """Raise RunError if the step `name` was made with other settings."""
        made_with = recorded(self.path, name, "made_with")
        changed = changed_settings(made_with, settings_of(self.config, name))
        if not changed:
            return
        overrides = self._stored_overrides + self._unstored_overrides
        advice = f"run `twotower {name}` again"
        if any(key.startswith(each) for key in read_overrides(overrides) for each in changed):
            arguments = " ".join(f"--set {shlex.quote(each)}" for each in overrides)
            advice = f"leave out what --set changes, or run `twotower {name} {arguments}` first"
        raise RunError(
            f"{self.path}: `{name}` was made with another {', '.join(changed)}; {advice}"
        )

    def notes(self, name: str) -> dict[str, Any]:
        """What the step `name` noted in the manifest."""
        return Notes(self.path, name)

    def identity(self, name: str) -> str:
        """One hash for all files of the step `name`."""
        return identity_of(recorded(self.path, name, "files"))


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def writes(
    command: Callable[Concatenate[Run, Parameters], Result],
) -> Callable[Concatenate[Run, Parameters], Result]:
    """Decorate a command so that it holds the lock of its run from start to end."""

    @functools.wraps(command)
    def locked(run: Run, *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        with run.writing(command.__name__):
            return command(run, *arguments, **options)

    return locked
