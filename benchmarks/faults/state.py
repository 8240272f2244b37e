"""The state of a run folder, read from its files, and damage in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.pipelines.lock import LOCK
from twotower.pipelines.run import MANIFEST, TRITON
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.manifest import sha256, verify_manifest


@dataclass(frozen=True)
class State:
    """The content of a run folder; states of equal content are equal.

    Attributes
    ----------
    manifest : str
        Hash of manifest.json.
    days : tuple of str
        Folders of the updates that the data includes.
    trained : str
        Entry of the step `train` in the manifest.
    versions : dict of int to str
        Hash of each exported version's manifest.
    history : tuple of int
        Published versions, the present one last.
    """

    manifest: str
    days: tuple[str, ...]
    trained: str
    versions: dict[int, str]
    history: tuple[int, ...]


def read_state(path: Path) -> State:
    """Read the state of the run folder `path`."""
    manifest, repository = json.loads((path / MANIFEST).read_text()), model_repository(path)
    steps = manifest["steps"]
    updates = steps["ingest"]["notes"].get("updates", [])
    numbers = [version.number for version in repository.versions()]
    return State(
        manifest=sha256(path / MANIFEST),
        days=tuple(update["path"] for update in updates),
        trained=json.dumps(steps["train"], sort_keys=True),
        versions={n: sha256(repository.model / str(n) / "manifest.json") for n in numbers},
        history=tuple(repository._history()),
    )


def step_identity(step: dict[str, Any]) -> str:
    """Compute the hash by which the manifest names what a step wrote."""
    return hashlib.sha256(json.dumps(step["files"], sort_keys=True).encode()).hexdigest()


def model_repository(path: Path) -> ModelRepository:
    """Return the model repository of the run folder `path`."""
    return ModelRepository(path / TRITON)


def find_damage(path: Path) -> list[str]:
    """List files that differ from the manifests of run and versions, and temporary leftovers."""
    wrong = []
    for step in json.loads((path / MANIFEST).read_text())["steps"].values():
        for file, digest in step["files"].items():
            if not (path / file).is_file() or sha256(path / file) != digest:
                wrong.append(file)
    repository = model_repository(path)
    for version in repository.versions():
        verify_manifest(repository.model / str(version.number))
    hidden = {each.name for each in path.iterdir() if each.name.startswith(".")}
    return wrong + sorted(hidden - {LOCK, ".twotower-serve.lock"})
