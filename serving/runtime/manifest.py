"""The manifest of a version folder: where the version comes from, and the sha256 of each file.

It is written last and verified before anything is loaded.
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
    """Write the manifest of all files in `folder`.

    Parameters
    ----------
    folder : Path
        The version's folder.
    **identity : Any
        Further entries, which say where the version comes from.
    """
    names = sorted(_regular_files(folder) - {MANIFEST_FILE})
    files = {name: sha256(folder / name) for name in names}
    (folder / MANIFEST_FILE).write_bytes(sealed({**identity, "files": files}))


def sealed(manifest: dict[str, Any]) -> bytes:
    """Return the content of the manifest's file, which ends in a hash of all other entries."""
    entries = {name: value for name, value in manifest.items() if name != "seal"}
    seal = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    return (json.dumps({**entries, "seal": seal}, indent=2) + "\n").encode()


def verify_manifest(folder: Path) -> None:
    """Check that a version folder holds exactly the files that its manifest lists, unchanged.

    An unlisted file may be a planted module. Only `__pycache__`, in which Python caches model.py,
    may be there in addition.

    Raises
    ------
    ServingError
        The message names the file that is missing, changed, unlisted, a link or a device.
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
        raise ServingError(f"{manifest}: changed since it was written; {AGAIN}")
    if missing := sorted(files.keys() - present):
        raise ServingError(f"{folder / missing[0]}: missing, though the manifest lists it; {AGAIN}")
    if unlisted := sorted(present - files.keys()):
        raise ServingError(f"{folder / unlisted[0]}: not listed by the manifest; remove it")
    for name in sorted(present):
        if sha256(folder / name) != files[name]:
            raise ServingError(f"{folder / name}: differs from the file in the manifest; {AGAIN}")


def _regular_files(folder: Path) -> set[str]:
    """Return the relative paths of all files below `folder`; refuse links and devices."""
    names = set()
    for path in [folder, *folder.rglob("*")]:
        name = path.relative_to(folder)
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ServingError(f"{path}: a link or a device; expected a regular file; {AGAIN}")
        if path.is_file() and name.parts[0] != "__pycache__":
            names.add(name.as_posix())
    return names


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
