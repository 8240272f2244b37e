"""What lies in a version folder, and the sha256 of every file of it.

The manifest is written last and checked before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .errors import ServingError

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.json"
ENSEMBLE_FOLDER = "ensemble"
AGAIN = "run `twotower export` and `twotower publish`"


def write_manifest(folder: Path, **identity: Any) -> None:
    """Vouch for every file now in `folder`; `identity` says what the version is made of."""
    names = sorted(_regular_files(folder) - {MANIFEST_FILE})
    files = {name: sha256(folder / name) for name in names}
    (folder / MANIFEST_FILE).write_bytes(sealed({**identity, "files": files}))


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest as its file has it, with a hash of all that it says."""
    said = {name: value for name, value in manifest.items() if name != "seal"}
    seal = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return (json.dumps({**said, "seal": seal}, indent=2) + "\n").encode()


def verify_manifest(folder: Path) -> None:
    """Refuse, by name, a file that is missing, changed, a link, or not listed.

    An unlisted file may be a planted module. Only `__pycache__`, where Python keeps what it made
    of model.py, may be there besides.
    """
    present = _regular_files(folder) - {MANIFEST_FILE}
    manifest = folder / MANIFEST_FILE
    try:
        content = manifest.read_bytes()
        parsed = json.loads(content)
        files = dict(parsed["files"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ServingError(f"{manifest}: missing or unreadable; {AGAIN}") from error
    if content != sealed(parsed):
        raise ServingError(f"{manifest}: not as it was written; {AGAIN}")
    if missing := sorted(files.keys() - present):
        raise ServingError(f"{folder / missing[0]}: missing, though the manifest lists it; {AGAIN}")
    if unlisted := sorted(present - files.keys()):
        raise ServingError(f"{folder / unlisted[0]}: not listed by the manifest; remove it")
    for name in sorted(present):
        if sha256(folder / name) != files[name]:
            raise ServingError(f"{folder / name}: not the file the manifest vouches for; {AGAIN}")


def _regular_files(folder: Path) -> set[str]:
    """Every file below `folder` by its relative path; a link or a device is refused."""
    names = set()
    for path in [folder, *folder.rglob("*")]:
        name = path.relative_to(folder)
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ServingError(f"{path}: a link or a device, not a plain file; {AGAIN}")
        if path.is_file() and name.parts[0] != "__pycache__":
            names.add(name.as_posix())
    return names


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
