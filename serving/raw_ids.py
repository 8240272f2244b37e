"""The ids of users and items as people give them, for an exported version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from twotower.serving.runtime.operators.ids import IDS_FOLDER, ITEMS, USERS, save_texts


@dataclass(frozen=True)
class RawIds:
    """The ids of users or of items.

    Attributes
    ----------
    datatype : str
        Triton data type: INT64, UINT64 or BYTES.
    texts : sequence of str
        The text of each code, from 0; empty for numbers.
    """

    datatype: str = "INT64"
    texts: Sequence[str] = ()


class VersionIds(NamedTuple):
    """The ids of a version.

    Attributes
    ----------
    users, items : RawIds
    """

    users: RawIds = RawIds()
    items: RawIds = RawIds()

    def write(self, version: Path) -> None:
        """Write the texts into a version's folder, for `runtime.operators.ids`."""
        for name, ids in ((USERS, self.users), (ITEMS, self.items)):
            if ids.datatype == "BYTES":
                save_texts(version / IDS_FOLDER, name, ids.texts)


INTEGERS = VersionIds()
"""INT64 ids, which are their own codes."""
