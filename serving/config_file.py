"""Writes and reads a model repository's config.pbtxt, which stores what is published."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from twotower.serving.files import write_atomically
from twotower.serving.triton.control import FACES

CONFIG_FILE = "config.pbtxt"
SEAL = b"# sha256 of the lines above: "
PUBLISHED, NEWEST = "published", "newest_published"


def face_file(face: str) -> str:
    """Return the name of a version's file with the config.pbtxt of one of its faces."""
    return f"{face}.pbtxt"


def serving_version(template: str, number: int) -> str:
    """Return a config.pbtxt that makes Triton serve a version."""
    return f"{template}version_policy {{ specific {{ versions: [{number}] }} }}\n"


def published_config(template: str, history: Sequence[int], newest: int) -> bytes:
    """Return a config.pbtxt that makes Triton serve the last version of the history.

    Parameters
    ----------
    template : str
        The version's own config.pbtxt.
    history : sequence of int
        The versions published so far, the one to serve last.
    newest : int
        The highest number ever published. It is stored separately, because a rollback shortens the
        history.

    Returns
    -------
    bytes
        The file's content, which ends with a hash of all lines before.
    """
    body = (
        f"{serving_version(template, history[-1])}"
        f"{_parameter(PUBLISHED, history)}{_parameter(NEWEST, [newest])}"
    ).encode()
    return body + SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n"


def read_numbers(path: Path, key: str) -> list[int]:
    """Return the numbers of the parameter `key`, which is `PUBLISHED` or `NEWEST`.

    The list is empty if the parameter or the file is missing, or the hash does not match.
    """
    text = path.read_bytes() if path.is_file() else b""
    body, _, digest = text.rpartition(SEAL)
    if hashlib.sha256(body).hexdigest().encode() + b"\n" != digest:
        return []
    found = re.search(rb'key: "%s" value { string_value: "([0-9 ]+)"' % key.encode(), body)
    return [int(number) for number in found[1].split()] if found else []


def _parameter(key: str, numbers: Sequence[int]) -> str:
    text = " ".join(map(str, numbers))
    return f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}\n'


def write_faces(model: Path, number: int) -> None:
    """Write the config.pbtxt of the faces that a version has, and remove other faces.

    Parameters
    ----------
    model : Path
        The folder of the model's versions; the faces have folders beside it.
    number : int
        The version.
    """
    for face in FACES:
        folder, template = model.with_name(face), model / str(number) / face_file(face)
        if not template.is_file():  # a version of an earlier release
            shutil.rmtree(folder, ignore_errors=True)
            continue
        # Triton asks for a folder for each version, in which an ensemble has no files.
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        config, content = folder / CONFIG_FILE, serving_version(template.read_text(), number)
        if config.is_file() and config.read_text() == content:
            continue
        write_atomically(config, content)
        for other in folder.iterdir():
            if other.is_dir() and other.name != str(number):
                shutil.rmtree(other, ignore_errors=True)
