"""The run folder: the only thing that passes between steps.

    runs/<name>/
      config.yaml    what the run was made with
      manifest.json  per step: its files with their sha256, what it was made from, its time
      data/ workflow/ processed/ model/ reports/ index/    one step's output each
      triton/        the versions that `export` has added, and which is published
      logs/          TensorBoard, Triton

One process at a time writes a run: it holds the lock in `.twotower.lock` (see `pipelines.lock`).
Whoever only reads needs no lock.

A step writes into the folder `.twotower-staging`. When that is complete and on the disk, it gets
the new manifest: from then on the step counts. Its folders are moved into place, the manifest last.
If the process is killed between the renames, the next one that takes the lock completes them. It
knows a commit by its content: the staged manifest names the hash of the manifest that it replaces.
Any other staging folder is removed.

Before a step reads another step's files, they are checked against the manifest, and so are the
settings they were made with and the steps they were made from. A changed file is never read.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic.json import pydantic_encoder

from twotower.pipelines import lock
from twotower.pipelines.config import (
    Config,
    apply_overrides,
    from_anywhere,
    overridden_sections,
    parse_config,
    read_overrides,
    read_yaml,
    to_yaml,
)
from twotower.pipelines.errors import ConfigError, RunError
from twotower.serving import files
from twotower.serving.files import sync
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import sha256

RUNS = Path("runs")
TRITON = "triton"
CONFIG, MANIFEST = "config.yaml", "manifest.json"
STAGING, REPLACED, VERSION = ".twotower-staging", "replaced", "version"
# Where a server listens and how many versions are kept is no property of what is served.
NOT_EXPORTED = (
    *("host", "http_port", "grpc_port", "metrics_port", "startup_seconds"),
    "keep_versions",
)
# What a disk answers that is full or not to be written.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
FULL_BYTES = 1 << 20
# TensorFlow expands them in the paths of checkpoints.
PATTERN = frozenset("[]*?")
PACKAGES = (
    *("merlin-models", "nvtabular", "merlin-systems", "merlin-core"),
    *("tensorflow-cpu", "tensorflow", "numpy", "pandas", "faiss-cpu"),
    *("onnxruntime", "tf2onnx", "nvidia-pytriton", "tritonclient"),
)


@dataclass(frozen=True)
class Step:
    """A step: the folders it writes, the steps whose output and the settings that it reads."""

    name: str
    folders: tuple[str, ...]
    after: tuple[str, ...]
    settings: tuple[str, ...]


STEPS = {
    step.name: step
    for step in (
        Step("ingest", ("data",), (), ("ingest",)),
        Step(
            "preprocess",
            ("workflow", "processed"),
            ("ingest",),
            ("positives", "split", "features"),
        ),
        Step("train", ("model",), ("preprocess",), ("model", "training")),
        Step("evaluate", ("reports",), ("preprocess", "train"), ("evaluation",)),
        Step("export", ("index",), ("ingest", "preprocess", "train"), ("serving",)),
    )
}


class Run:
    """One run folder.

    Parameters
    ----------
    created : Config, optional
        The configuration of a run that is being made, see `create`; default: that in the folder.
    """

    def __init__(self, path: Path, created: Config | None = None):
        _complete_commit(path)
        if not created and not os.path.isfile(path / CONFIG):
            raise RunError(
                f"{path}: not a run folder (it has no config.yaml); make one with "
                f"`twotower run` or `twotower ingest --config <file>`"
            )
        self.path = path
        # _created and _kept are written to config.yaml after a step succeeds; _passing never is.
        self._created = created
        self._kept: tuple[str, ...] = ()
        self._passing: tuple[str, ...] = ()
        self.config = self._configured()

    @classmethod
    def create(cls, config: Config, path: Path | None = None) -> Run:
        """The run of `config` in a folder, new or not (default runs/<name>).

        config.yaml is written, or replaced, as soon as a step has succeeded.
        """
        path = path or RUNS / config.name
        _make_folder(path)
        return cls(path, from_anywhere(config))

    @classmethod
    def last(cls) -> Run:
        """The run made or used last."""
        pointer = RUNS / "last"
        if not pointer.is_file():
            raise RunError("no run yet; `make run` makes one, or name one with --run <folder>")
        path = Path(pointer.read_text(errors="replace").removesuffix("\n"))
        if not os.path.isfile(path / CONFIG):
            raise RunError(
                f"{pointer}: the run used last, {path}, is no longer there; name one with "
                "--run <folder>"
            )
        return cls(path)

    def remember(self) -> None:
        """Make this the run that commands without --run work on, where that can be noted."""
        try:
            _make_folder(RUNS)
            write_atomically(RUNS / "last", f"{self.path}\n")
        except RunError as error:
            print(f"{error}. Until then name the run: --run {self.path}", file=sys.stderr)

    def override(self, overrides: tuple[str, ...], keep: bool = True) -> None:
        """Change the configuration by "section.key=value" strings.

        With `keep` the file gets them as soon as a step has succeeded with them: a typing error
        shall not stay.
        """
        before = self._kept, self._passing
        if keep:
            self._kept += overrides
        else:
            self._passing += overrides
        try:
            self.config = self._configured()
        except ConfigError:
            self._kept, self._passing = before
            raise

    def _configured(self, *, stored: bool = False) -> Config:
        """What the run was created with or has in its file, with the overrides on top.

        With `stored`: as it will be written to the file.
        """
        config = self._created or _read_config(self.path)
        if overrides := self._kept if stored else self._kept + self._passing:
            tree = apply_overrides(json.loads(config.json()), overrides)
            config = parse_config(tree, "--set")
            config = from_anywhere(config, overridden_sections(overrides))
        return config

    @contextlib.contextmanager
    def writing(self, verb: str) -> Iterator[None]:
        """Be the only one that writes the run while the block runs; may be nested in a thread.

        What a killed writer has left is completed or removed first, and the configuration is read
        again: another command may have changed it since this run was opened.

        Raises
        ------
        RunError
            At once, when another command is writing: its verb, process and host, since when. Or
            when the folder's path has a character with which TensorFlow writes no checkpoint.
        """
        if PATTERN.intersection(str(self.path)):
            raise RunError(
                f"{self.path}: has one of [ ] * ? in its path, which TensorFlow takes for a "
                "pattern; move or rename the folder"
            )
        with lock.writing(self.path, verb) as taken:
            if taken:
                _recover(self.path)
                self.config = self._configured()
            yield

    @contextlib.contextmanager
    def reading(self, *names: str) -> Iterator[None]:
        """Read what the steps `names` wrote without the lock.

        Raises
        ------
        RunError
            When the block fails because another command is replacing the files that it reads.
        """
        before = self._files_by_step(names)
        try:
            yield
        except Exception as error:
            committing = (self.path / STAGING / MANIFEST).is_file()
            if committing or self._files_by_step(names) != before:
                raise RunError(
                    f"{self.path}: another command replaced files while this one read them; run "
                    "this command again"
                ) from error
            raise

    def _files_by_step(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        steps = self.manifest["steps"]
        return {name: self._recorded(name, "files") for name in names if name in steps}

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says; an empty one when there is none yet."""
        return _read_manifest(self.path)

    def within(self, staging: Path) -> Run:
        """This run as it would be with the folders in `staging` as its own, to read from."""
        other = copy.copy(self)
        other.path = staging
        return other

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Stage a step: yields (staging folder with the step's subfolders, its notes).

        On success the subfolders replace the old ones and the manifest gets the step with its
        notes. On any error or Ctrl-C nothing has changed.
        """
        with self.steps(name, name) as (staging, notes):
            yield staging, notes[name]

    @contextlib.contextmanager
    def steps(self, verb: str, *names: str) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
        """Stage the steps `names`, all or none of which happens: see `step`.

        `verb` is what to run again after an error. Yields notes by step.
        """
        with self.writing(verb):
            _read_manifest(self.path)  # a damaged one is refused before the work, not after it
            upstream = {each for name in names for each in STEPS[name].after}.difference(names)
            made_from = {each: self.identity(each) for each in upstream}
            made_with = {name: self._settings(name) for name in names}
            staging = self.path / STAGING
            notes: dict[str, dict[str, Any]] = {name: {} for name in names}
            started = time.perf_counter()
            try:
                with _telling_of_the_disk(self.path, verb):
                    for folder in _folders(names):
                        (staging / folder).mkdir(parents=True)
                    yield staging, notes
                    manifest = self.manifest
                    for name in names:
                        files = _files_of(staging, name)
                        made_from[name] = _identity(files)
                        manifest["steps"][name] = {
                            "seconds": round(time.perf_counter() - started, 1),
                            "made_from": {each: made_from[each] for each in STEPS[name].after},
                            "made_with": made_with[name],
                            "notes": notes[name],
                            "files": files,
                        }
                    self._commit(staging, manifest)
            finally:
                committed = _recover(self.path)
            if not committed:
                raise RunError(
                    f"{self.path}: somebody changed it by hand in the meantime, so nothing was "
                    f"replaced; run `twotower {verb}` again"
                )
            self._created, self._kept = None, ()

    def _commit(self, staging: Path, manifest: dict[str, Any]) -> None:
        """Write the new configuration, if there is one, and the manifest into `staging`."""
        replaces = {file: _hash_of(self.path / file) for file in (CONFIG, MANIFEST)}
        if self._created or self._kept:
            write_atomically(staging / CONFIG, to_yaml(self._configured(stored=True)))
        manifest |= {"versions": versions(), "commit": git_commit(), "replaces": replaces}
        # From here on the steps have happened.
        write_atomically(staging / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def verified(self, *names: str, settings: bool = True) -> Path:
        """The run folder, once the files of the steps `names` are what the manifest says.

        Raises RunError when a step is missing, older than what it was made from, made with other
        `settings` than the configuration now has, or when a file was changed: some of these files
        are unpickled, so nothing unvouched for is opened.
        """
        for name in names:
            if settings and (
                changed := _changed(self._recorded(name, "made_with"), self._settings(name))
            ):
                raise RunError(
                    f"{self.path}: `{name}` was made with another {', '.join(changed)}; "
                    f"{self._way_out(name, changed)}"
                )
            for upstream, identity in self._recorded(name, "made_from").items():
                if self.identity(upstream) != identity:
                    raise RunError(
                        f"{self.path}: `{name}` was made from another `{upstream}`; "
                        f"run `twotower {name}` again"
                    )
            for file, digest in self._recorded(name, "files").items():
                path = self.path / file
                if not path.is_file():
                    raise RunError(f"{path}: missing; run `twotower {name}` again")
                if sha256(path) != digest:
                    raise RunError(
                        f"{path}: not the file the manifest vouches for; it was changed or "
                        f"damaged. Run `twotower {name}` again"
                    )
        return self.path

    def _way_out(self, name: str, changed: Iterable[str]) -> str:
        """What to do when the settings `changed` are not those that the step was made with."""
        given = read_overrides(self._kept + self._passing)
        if not any(key.startswith(changed_key) for key in given for changed_key in changed):
            return f"run `twotower {name}` again"
        arguments = " ".join(f"--set {shlex.quote(each)}" for each in self._kept + self._passing)
        return f"leave out what --set changes, or run `twotower {name} {arguments}` first"

    def notes(self, name: str) -> dict[str, Any]:
        """What the step `name` noted in the manifest."""
        return _Notes(self._recorded(name, "notes"), where=f"{self.path}: `{name}`", step=name)

    def _settings(self, name: str) -> dict[str, Any]:
        """The configuration's sections that the step `name` reads, as plain values."""
        tree = json.loads(self.config.json())
        sections = {section: tree[section] for section in STEPS[name].settings}
        for key in NOT_EXPORTED:
            sections.get("serving", {}).pop(key, None)
        return sections

    def _recorded(self, name: str, part: str) -> dict[str, Any]:
        """A part of what the manifest has of the step `name`."""
        steps = self.manifest["steps"]
        if name not in steps:
            raise RunError(f"{self.path}: `{name}` has not run yet; run `twotower {name}`")
        step = steps[name]
        if not isinstance(step, dict) or not isinstance(step.get(part), dict):
            raise RunError(
                f"{self.path}: another version of this project recorded `{name}`, without "
                f"{part!r}; run `twotower {name}` again"
            )
        return step[part]

    def identity(self, name: str) -> str:
        """One hash for everything the step `name` wrote."""
        return _identity(self._recorded(name, "files"))


class _Notes(dict):
    """The notes of a step; a missing key raises RunError."""

    def __init__(self, notes: dict[str, Any], where: str, step: str):
        super().__init__(notes)
        self.where, self.step = where, step

    def __missing__(self, key: str) -> Any:
        raise RunError(
            f"{self.where} noted no {key!r}, as this version of the project does; run "
            f"`twotower {self.step}` again"
        )


def _make_folder(path: Path) -> None:
    """Make the folder `path` where there is none. Raises RunError when that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{path}: a file is in the way of this folder; name another") from None
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; make room or make it writable") from error


def _read_config(path: Path) -> Config:
    """The configuration of the run folder `path`."""
    tree = read_yaml(path / CONFIG)
    try:
        return parse_config(tree, str(path / CONFIG))
    except ConfigError as error:
        commit = _read_manifest(path).get("commit")
        raise ConfigError(
            f"{error}\nMend the file. If you have not changed it, another version of this project "
            f"wrote it{f' (commit {commit})' if commit else ''}: use that one, or remove what this "
            "one does not know"
        ) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run folder `path`; one without steps where there is none."""
    file = path / MANIFEST
    if not file.is_file():
        return {"steps": {}}
    try:
        manifest = json.loads(file.read_bytes())
        problem = "" if isinstance(manifest["steps"], dict) else "its `steps` are no section"
    except ValueError as error:
        problem = str(error)
    except (LookupError, TypeError):
        problem = "it has no `steps`"
    if problem:
        raise RunError(
            f"{file}: damaged ({problem}). Remove it, then do every step again with `twotower run "
            f"--config {shlex.quote(str(path / CONFIG))} --run {shlex.quote(str(path))}`; the "
            f"versions in {TRITON}/ stay"
        )
    return manifest


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def writes(
    verb: Callable[Concatenate[Run, Parameters], Result],
) -> Callable[Concatenate[Run, Parameters], Result]:
    """A verb that is the only one to write the run from its first line to its last."""

    @functools.wraps(verb)
    def locked(run: Run, *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        with run.writing(verb.__name__):
            return verb(run, *arguments, **options)

    return locked


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Call `files.write_atomically`; raise RunError if the file cannot be written."""
    try:
        files.write_atomically(path, text, mode)
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; make room or make it writable") from error


def versions() -> dict[str, str]:
    """Python, platform and the packages whose versions matter, as installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str | None:
    """The project's commit, with "+changes" when the tree differs from it; None without git."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return commit + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys "section.key" whose values differ.

    A key that the old settings lack is one that this project did not have then: what it does by
    default is what was done.
    """
    return [
        f"{section}.{key}"
        for section in new
        for key in sorted({*old.get(section, {}), *new[section]})
        if old.get(section, {}).get(key, _default(section, key)) != new[section].get(key)
    ]


def _default(section: str, key: str) -> Any:
    field = Config.__fields__[section].type_.__fields__.get(key)
    return json.loads(json.dumps(field.get_default(), default=pydantic_encoder)) if field else None


@contextlib.contextmanager
def _telling_of_the_disk(path: Path, name: str) -> Iterator[None]:
    """Turn what a disk that is full or not to be written makes the step `name` raise to words."""
    try:
        yield
    except Exception as error:
        where, reason = path, None
        if isinstance(error, OSError) and error.errno in REFUSED:
            where, reason = error.filename or path, os.strerror(error.errno)
        elif shutil.disk_usage(path).free < FULL_BYTES:
            # FAISS, NumPy and TensorFlow say it in words of their own.
            reason = os.strerror(errno.ENOSPC)
        if reason is None:
            raise
        raise RunError(
            f"{where}: {reason}; nothing has changed. Make room or make it writable, then run "
            f"`twotower {name}` again"
        ) from error


def _complete_commit(path: Path) -> None:
    """Complete what a killed writer has committed, unless somebody is writing or nobody may."""
    if os.path.isfile(path / STAGING / MANIFEST):  # False where the name is too long, too
        refusals = (RunError, ServingError, OSError)  # a reader without rights to write reads on
        with contextlib.suppress(*refusals), lock.writing(path, "recovery"):
            _recover(path)


def _recover(path: Path) -> bool:
    """Complete the commit in the staging folder, or remove a folder without one.

    The caller holds the lock, so nobody else uses the folder. Returns whether there was a commit.
    """
    staging = path / STAGING
    if not staging.is_dir():
        return False
    if manifest := _committed(staging, path):
        _finish(staging, path, manifest)
    (staging / MANIFEST).unlink(missing_ok=True)
    try:
        shutil.rmtree(staging)
    except OSError as error:
        if manifest is None:  # the next step could not use the folder
            raise RunError(
                f"{error.filename or staging}: {error.strerror}; a killed command left the folder "
                f"{staging}, remove it"
            ) from error
    return manifest is not None


def _committed(staging: Path, path: Path) -> dict[str, Any] | None:
    """The staged manifest, if it is to replace the one that the run has now."""
    try:
        manifest = json.loads((staging / MANIFEST).read_text())
        if manifest["replaces"][MANIFEST] != _hash_of(path / MANIFEST):
            return None
        if (staging / VERSION).exists() and _version_folder(path, manifest).exists():
            return None  # the number has been given to another version by hand
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return manifest


def _finish(staging: Path, path: Path, manifest: dict[str, Any]) -> None:
    """Move what is staged into the run folder, the manifest last; may be interrupted and redone."""
    replaced = staging / REPLACED
    replaced.mkdir(exist_ok=True)
    if (staging / VERSION).exists():
        number = manifest["steps"]["export"]["notes"]["version"]
        ModelRepository(path / TRITON).add(staging / VERSION, number)
    for folder in _folders(STEPS):
        if (staging / folder).exists():
            if (path / folder).exists():
                (path / folder).rename(replaced / folder)
            (staging / folder).rename(path / folder)
    # A config.yaml that was edited since the commit stays.
    if (staging / CONFIG).exists() and _hash_of(path / CONFIG) == manifest["replaces"][CONFIG]:
        (staging / CONFIG).replace(path / CONFIG)
    sync(path)
    (staging / MANIFEST).replace(path / MANIFEST)
    sync(path)


def _version_folder(path: Path, manifest: dict[str, Any]) -> Path:
    number = manifest["steps"]["export"]["notes"]["version"]
    return ModelRepository(path / TRITON).model / str(number)


def _folders(names: Iterable[str]) -> list[str]:
    return [folder for name in names for folder in STEPS[name].folders]


def _identity(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _files_of(staging: Path, name: str) -> dict[str, str]:
    """Path relative to `staging` -> sha256 of each file of the step `name`, all on the disk."""
    files = {}
    for folder in _folders([name]):
        for path in [staging / folder, *sorted((staging / folder).rglob("*"))]:
            sync(path)
            if path.is_file():
                files[str(path.relative_to(staging))] = sha256(path)
    return files


def _hash_of(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None
