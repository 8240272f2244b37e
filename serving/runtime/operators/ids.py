"""Converts the ids of requests and answers to the int64 codes that the served graph computes with.

An INT64 id is its own code, the code of a UINT64 id is the int64 with the same bits, and the code
of a text is stored with it. -1 is no text's code: an unknown user or item of a request has it, and
so has a place of an answer that holds no item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..arrays import find, load_strings, save_strings
from ..contract import SCORE, Contract, Table

IDS_FOLDER = "ids"
USERS, ITEMS = "users", "items"
MAX_KEY = 64
"""Longest text, in bytes of UTF-8, that is its own key. The key of a longer one is a hash."""
UNKNOWN = -1
_NO_TEXT = b"\xff"
"""A byte that is not in UTF-8. It begins the keys of hashes, and is the key of unknown texts."""


def save_texts(folder: Path, name: str, texts: Iterable[str], decodes: bool) -> None:
    """Write the texts of the codes 0, 1, 2 ... for `TextIds`; `decodes` if answers contain them."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(texts)
    keys = np.array([_key(text.encode()) for text in texts], np.bytes_)
    order = np.argsort(keys, kind="stable")
    np.save(folder / f"{name}.keys.npy", keys[order])
    np.save(folder / f"{name}.codes.npy", order)
    if decodes:
        save_strings(folder / name, texts)


class TextIds:
    """The texts of users or items and their codes.

    Parameters
    ----------
    folder : Path
        What `save_texts` wrote.
    name : str
        "users" or "items".
    """

    def __init__(self, folder: Path, name: str) -> None:
        # Mapped: a lookup reads a few pages, so the memory does not grow with the number of ids.
        self.keys = np.asarray(np.load(folder / f"{name}.keys.npy", mmap_mode="r"))
        self.codes = np.load(folder / f"{name}.codes.npy", mmap_mode="r")
        self.width = self.keys.dtype.itemsize
        self.texts = np.empty(0, object)
        if folder.joinpath(f"{name}.utf8.npy").exists():
            texts = [text.encode() for text in load_strings(folder / name).tolist()]
            # The last one is that of code -1: a place without an item.
            self.texts = np.array([*texts, b""], object)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes int64 [m] of texts [m], as bytes of UTF-8; -1 if they are unknown."""
        width, texts = self.width, values.tolist()
        # NumPy drops NULs at the end of a key, and cuts longer ones.
        keys = [
            text if len(text) <= width and text[-1:] != b"\0" else self._other_key(text)
            for text in texts
        ]
        # Of the type of `self.keys`, because NumPy would copy these to compare other types.
        position, known = find(self.keys, np.array(keys, self.keys.dtype))
        return np.where(known, self.codes.take(position), UNKNOWN) if texts else position

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the texts of codes [n, k] as an object array of bytes; b"" for -1."""
        return self.texts.take(codes)

    def _other_key(self, text: bytes) -> bytes:
        """Return the key of a text that is longer than the keys, or has a NUL at its end."""
        key = _key(text)
        return key if len(key) <= self.width and key[-1:] != b"\0" else _NO_TEXT


def _key(text: bytes) -> bytes:
    if len(text) <= MAX_KEY:
        return text
    # In hexadecimal digits, because NumPy drops NULs at the end.
    return _NO_TEXT + hashlib.blake2b(text, digest_size=24).hexdigest().encode()


class ServedIds:
    """Converts the ids in tables of requests and of answers.

    Parameters
    ----------
    contract : Contract
        Names and types of the ids.
    version : Path
        The version's folder.
    """

    def __init__(self, contract: Contract, version: Path) -> None:
        self.contract = contract
        folder = version / IDS_FOLDER
        self.users = _converter(contract.user_id_type, folder, USERS)
        self.items = _converter(contract.item_id_type, folder, ITEMS)
        history = contract.history or ""
        self.history = contract.columns.get(history, history)

    def encode(self, table: Table) -> Table:
        """Replace the user ids of a table of requests, and the items of histories, by codes."""
        if self.users is not None:
            user_id = self.contract.user_id
            table = {**table, user_id: self.users.encode(table[user_id])}
        if self.items is not None and self.history in table:
            table = {**table, self.history: self.items.encode(table[self.history])}
        return table

    def decode(self, answer: Table) -> Table:
        """Replace the codes of items in an answer by ids."""
        if self.items is None:
            return answer
        item_id = self.contract.item_id
        return {item_id: self.items.decode(answer[item_id]), SCORE: answer[SCORE]}


class UnsignedIds:
    """UINT64 ids."""

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes int64 [m] of ids uint64 [m]."""
        # A list that no request of a batch has given is an empty array of any type.
        return values.view(np.int64)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the ids uint64 [n, k] of codes; 2^64 - 1 for -1."""
        return codes.view(np.uint64)


def _converter(datatype: str, folder: Path, name: str) -> TextIds | UnsignedIds | None:
    if datatype == "INT64":
        return None
    return UnsignedIds() if datatype == "UINT64" else TextIds(folder, name)
