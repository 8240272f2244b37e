"""What lies in a version folder, and the sha256 of every file of it.

The manifest is written last and checked before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import ServingError

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.json"
ENSEMBLE_FOLDER = "ensemble"


def write_manifest(folder: Path, **identity: Any) -> None:
    """Vouch for every file now in `folder`; `identity` says what the version is made of."""
    files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    text = json.dumps({**identity, "files": files}, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n")


def verify_manifest(folder: Path) -> None:
    """Refuse a version with a file that is missing or not the one that was written."""
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        raise ServingError(
            f"{folder / MANIFEST_FILE}: missing or unreadable; export again"
        ) from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ServingError(f"{path}: missing, though the manifest lists it; export again")
        if sha256(path) != expected:
            raise ServingError(f"{path}: not the file the manifest vouches for; export again")


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
