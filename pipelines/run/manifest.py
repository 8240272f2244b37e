"""Reading manifest.json and config.yaml, and the hashes of a step's files."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

from twotower.pipelines.config import Config, parse_config
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run.layout import CONFIG, MANIFEST, TRITON, folders_of
from twotower.pipelines.yaml_file import read_yaml
from twotower.serving.files import sync
from twotower.serving.runtime.manifest import sha256


def read_config(path: Path) -> Config:
    """The configuration of the run folder `path`."""
    tree = read_yaml(path / CONFIG)
    try:
        return parse_config(tree, str(path / CONFIG))
    except ConfigError as error:
        commit = read_manifest(path).get("commit")
        raise ConfigError(
            f"{error}\nCorrect the file. If you have not changed it, another version of this "
            f"project wrote it{f' (commit {commit})' if commit else ''}: use that version, or "
            "remove the keys that this one does not know"
        ) from None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run folder `path`; one without steps if the file does not exist."""
    file = path / MANIFEST
    if not file.is_file():
        return {"steps": {}}
    try:
        manifest = json.loads(file.read_bytes())
        problem = "" if isinstance(manifest["steps"], dict) else "`steps` is not a section"
    except ValueError as error:
        problem = str(error)
    except (LookupError, TypeError):
        problem = "it has no `steps`"
    if problem:
        raise RunError(
            f"{file}: damaged ({problem}). Remove it, then run every step again with `twotower run "
            f"--config {shlex.quote(str(path / CONFIG))} --run {shlex.quote(str(path))}`; the "
            f"versions in {TRITON}/ are kept"
        )
    return manifest


def recorded(path: Path, name: str, part: str) -> dict[str, Any]:
    """One part of the manifest's entry for a step.

    Parameters
    ----------
    path : Path
        The run folder.
    name : str
        The step.
    part : {"files", "made_from", "made_with", "notes"}
        Which part of the entry.

    Raises
    ------
    RunError
        If the step has not run yet, or another version of the project recorded it.
    """
    steps = read_manifest(path)["steps"]
    if name not in steps:
        raise RunError(f"{path}: `{name}` has not run yet; run `twotower {name}`")
    entry = steps[name]
    if not isinstance(entry, dict) or not isinstance(entry.get(part), dict):
        raise RunError(
            f"{path}: another version of this project recorded `{name}`, without {part!r}; run "
            f"`twotower {name}` again"
        )
    return entry[part]


class Notes(dict[str, Any]):
    """What a step noted in the manifest; a missing key raises RunError."""

    def __init__(self, path: Path, name: str):
        super().__init__(recorded(path, name, "notes"))
        self.path, self.step = path, name

    def __missing__(self, key: str) -> Any:
        raise RunError(
            f"{self.path}: another version of this project recorded `{self.step}`, without "
            f"{key!r}; run `twotower {self.step}` again"
        )


def files_of(folder: Path, name: str) -> dict[str, str]:
    """The sha256 of each file of the step `name` by its path relative to `folder`.

    All files are written through to the disk.
    """
    files = {}
    for output in folders_of([name]):
        for path in [folder / output, *sorted((folder / output).rglob("*"))]:
            sync(path)
            if path.is_file():
                files[str(path.relative_to(folder))] = sha256(path)
    return files


def identity_of(files: dict[str, str]) -> str:
    """One hash for all `files`, see `files_of`."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
