"""Divides users between two versions by a salted hash of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..arrays import ranges
from ..contract import Contract, Table, count_of
from ..errors import ServingError

SETTINGS = "TWOTOWER_EXPERIMENT"
"""The environment variable with the settings of the experiment as JSON, if there is one."""
MAY_DIFFER = ("ranges", "default_k", "max_k", "max_rows")
"""What may differ between the contracts of two versions that answer the same requests."""


@dataclass(frozen=True)
class Split:
    """Which of two versions answers a user.

    Attributes
    ----------
    control, treatment : int
        Numbers of the versions.
    share : float
        Share of the users whom `treatment` answers.
    salt : str
        Another salt divides the users in another way.
    """

    control: int
    treatment: int
    share: float
    salt: str = ""

    def treated(self, user_ids: Iterable[Any]) -> np.ndarray:
        """Return which users the treatment answers, bool [n].

        A user is one of them if the first 8 bytes of BLAKE2b("<salt>:<id>"), as a big-endian
        number, are less than `share` * 2^64. So nothing about users need be stored.
        """
        limit, salt = self.share * 2.0**64, f"{self.salt}:".encode()
        return np.array(
            [
                int.from_bytes(hashlib.blake2b(salt + _text(user), digest_size=8).digest(), "big")
                < limit
                for user in user_ids
            ],
            bool,
        )


def _text(user: Any) -> bytes:
    return user if isinstance(user, bytes) else str(user).encode()


def check_same_requests(control: Contract, treatment: Contract, split: Split) -> None:
    """Check that both versions take the same requests.

    Raises
    ------
    ServingError
        The message names the first part of the contracts that differs.
    """
    ours, theirs = asdict(control), asdict(treatment)
    for name, value in ours.items():
        if name not in MAY_DIFFER and theirs[name] != value:
            raise ServingError(
                f"versions {split.control} and {split.treatment} cannot share requests: their "
                f"'{name}' differs; export both with the same data columns and settings"
            )


def take(table: Table, rows: np.ndarray) -> Table:
    """Return some rows of a table, by their numbers."""
    taken = {}
    for name, column in table.items():
        counts = table.get(count_of(name))
        if counts is None:
            taken[name] = column[rows]
        else:
            starts = np.cumsum(counts) - counts
            taken[name] = column[ranges(starts[rows], counts[rows])]
    return taken


def merge(answers: Sequence[Mapping[str, np.ndarray]], rows: Sequence[np.ndarray]) -> Table:
    """Return the answers [n_i, k_i] to parts of a table, whose rows are given, as one [n, k].

    Rows of a narrower answer are filled up with what means nothing.
    """
    count = sum(map(len, rows))
    merged = {}
    for name, first in answers[0].items():
        width = max(answer[name].shape[1] for answer in answers)
        merged[name] = np.zeros((count, width), first.dtype)
        for answer, own in zip(answers, rows, strict=True):
            merged[name][own, : answer[name].shape[1]] = answer[name]
    return merged
