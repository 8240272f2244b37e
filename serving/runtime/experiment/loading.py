"""Loads the version that answers a share of the users beside the published one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import ServingError
from ..manifest import MANIFEST_FILE, verify_manifest
from ..telemetry import log
from .arm import Arm
from .split import SETTINGS, Split, check_same_requests

CODE = "twotower/"
"""Beginning of the names of a version's files of code."""


def load_treatment(control: Arm, version: Path) -> tuple[Split, Arm] | tuple[None, None]:
    """Load the treatment of the experiment that the environment names.

    Parameters
    ----------
    control : Arm
        The published version.
    version : Path
        Its folder.

    Returns
    -------
    (Split, Arm) or (None, None)
        None if there is no experiment, or its control is another version: then this one was
        published later, and the experiment is over.

    Raises
    ------
    ServingError
        If the treatment is missing or damaged, or the two cannot share requests.
    """
    if SETTINGS not in os.environ:
        return None, None
    split = Split(**json.loads(os.environ[SETTINGS]))
    if split.control != control.number:
        log("experiment is over", control=split.control, published=control.number)
        return None, None
    other = version.with_name(str(split.treatment))
    if not other.is_dir():
        raise ServingError(
            f"there is no version {split.treatment}, the treatment of the experiment; `twotower "
            "versions` lists them"
        )
    verify_manifest(other)
    if _code(other) != _code(version):
        raise ServingError(
            f"versions {split.control} and {split.treatment} are of different releases; export "
            "both again"
        )
    treatment = Arm(other)
    check_same_requests(control.contract, treatment.contract, split)
    return split, treatment


def _code(version: Path) -> dict[str, str]:
    """Return the hashes of a version's files of code."""
    files = json.loads((version / MANIFEST_FILE).read_text())["files"]
    return {name: digest for name, digest in files.items() if name.startswith(CODE)}
