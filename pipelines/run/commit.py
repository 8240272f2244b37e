"""Staging and commit: all files of a step replace the old ones, or none does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from twotower.pipelines import lock
from twotower.pipelines.errors import RunError
from twotower.pipelines.run.disk import write_atomically
from twotower.pipelines.run.layout import (
    CONFIG,
    MANIFEST,
    STAGING,
    STEPS,
    TRITON,
    VERSION,
    folders_of,
)
from twotower.pipelines.run.provenance import git_commit, versions
from twotower.serving.files import sync
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import sha256

REPLACED = "replaced"
"""The folder below STAGING that receives the old folders."""


def commit(path: Path, manifest: dict[str, Any], config: str | None) -> None:
    """Declare the staging folder of the run folder `path` complete.

    `recover` then moves it into place.

    Parameters
    ----------
    path : Path
        The run folder.
    manifest : dict
        The new manifest.
    config : str, optional
        The new content of config.yaml; default: the file is not changed.
    """
    staging = path / STAGING
    replaces = {file: _hash_of(path / file) for file in (CONFIG, MANIFEST)}
    if config is not None:
        write_atomically(staging / CONFIG, config)
    manifest |= {"versions": versions(), "commit": git_commit(), "replaces": replaces}
    # From this write on the steps count as done.
    write_atomically(staging / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def is_committing(path: Path) -> bool:
    """Whether the run folder `path` has a commit that is not complete."""
    return os.path.isfile(path / STAGING / MANIFEST)  # also False if the name is too long


def complete_commit(path: Path) -> None:
    """Complete a commit that a killed process left, unless another process is writing."""
    if is_committing(path):
        # A reader without permission to write reads the run as it is.
        refusals = (RunError, ServingError, OSError)
        with contextlib.suppress(*refusals), lock.writing(path, "recovery"):
            recover(path)


def recover(path: Path) -> bool:
    """Complete the commit in the staging folder, or remove a staging folder without one.

    The caller holds the lock. Returns whether there was a commit.
    """
    staging = path / STAGING
    if not staging.is_dir():
        return False
    if manifest := _valid_commit(staging, path):
        _move_into_place(staging, path, manifest)
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


def _valid_commit(staging: Path, path: Path) -> dict[str, Any] | None:
    """The staged manifest, if it replaces the manifest that the run has now."""
    try:
        manifest = json.loads((staging / MANIFEST).read_text())
        if manifest["replaces"][MANIFEST] != _hash_of(path / MANIFEST):
            return None
        if (staging / VERSION).exists() and _version_folder(path, manifest).exists():
            return None  # somebody gave the number to another version by hand
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return manifest


def _move_into_place(staging: Path, path: Path, manifest: dict[str, Any]) -> None:
    """Move the staged files into the run folder, the manifest last.

    After an interruption it can be called again.
    """
    replaced = staging / REPLACED
    replaced.mkdir(exist_ok=True)
    if (staging / VERSION).exists():
        ModelRepository(path / TRITON).add(staging / VERSION, _version_number(manifest))
    for folder in folders_of(STEPS):
        if (staging / folder).exists():
            if (path / folder).exists():
                (path / folder).rename(replaced / folder)
            (staging / folder).rename(path / folder)
    # A config.yaml that was edited after the commit is kept.
    if (staging / CONFIG).exists() and _hash_of(path / CONFIG) == manifest["replaces"][CONFIG]:
        (staging / CONFIG).replace(path / CONFIG)
    sync(path)
    (staging / MANIFEST).replace(path / MANIFEST)
    sync(path)


def _version_folder(path: Path, manifest: dict[str, Any]) -> Path:
    return ModelRepository(path / TRITON).model / str(_version_number(manifest))


def _version_number(manifest: dict[str, Any]) -> int:
    return manifest["steps"]["export"]["notes"]["version"]


def _hash_of(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None
