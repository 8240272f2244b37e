"""Writes and reads a model repository's config.pbtxt, which stores what is published."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

CONFIG_FILE = "config.pbtxt"
SEAL = b"# sha256 of the lines above: "
PUBLISHED, NEWEST = "published", "newest_published"


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
        f"{template}version_policy {{ specific {{ versions: [{history[-1]}] }} }}\n"
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
