"""Converts the ids of requests and answers to the int64 codes that the served graph computes with.

An INT64 id is its own code, the code of a UINT64 id is the int64 with the same bits, and the code
of a text is stored with it. -1 is no text's code: an unknown user or item of a request has it, and
so has a place of an answer that holds no item.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..arrays import find, load_strings, save_strings
from ..contract import ALLOW, EXCLUDE, SIMILAR_TO, Contract, Table
from ..tensors import TYPES

IDS_FOLDER = "ids"
USERS, ITEMS = "users", "items"
MAX_KEY = 64
"""Longest text, in bytes of UTF-8, that is its own key. The key of a longer one is a hash."""
UNKNOWN = -1
_NO_TEXT = b"\xff"
"""A byte that is not in UTF-8. It ends the keys of hashes, and is the key of unknown texts."""
_NO_ENDS = frozenset((_NO_TEXT, b"\0"))
"""Ends of texts that no id has; NumPy would drop NULs at the end of a key."""


def save_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write the texts of the codes 0, 1, 2 ... for `TextIds`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(texts)
    keys = np.array([_key(text.encode()) for text in texts], np.bytes_)
    order = np.argsort(keys, kind="stable")
    np.save(folder / f"{name}.keys.npy", keys[order])
    np.save(folder / f"{name}.codes.npy", order)
    save_strings(folder / name, texts)


class TextIds:
    """The texts of users or items and their codes.

    Parameters
    ----------
    folder : Path
        What `save_texts` wrote.
    name : str
        "users" or "items".
    decodes : bool
        Whether to read the texts for `decode`.
    """

    def __init__(self, folder: Path, name: str, decodes: bool) -> None:
        # Mapped: a lookup reads a few pages, so the memory does not grow with the number of ids.
        self.keys = np.asarray(np.load(folder / f"{name}.keys.npy", mmap_mode="r"))
        self.codes = np.asarray(np.load(folder / f"{name}.codes.npy", mmap_mode="r"))
        self.width = self.keys.dtype.itemsize
        if decodes:
            texts = [text.encode() for text in load_strings(folder / name).tolist()]
            # The last one is that of code -1: a place without an item.
            self.texts = np.array([*texts, b""], object)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes int64 [m] of texts [m], as bytes of UTF-8; -1 if they are unknown."""
        width, texts = self.width, values.tolist()
        keys = [
            text if len(text) <= width and text[-1:] not in _NO_ENDS else self._other_key(text)
            for text in texts
        ]
        # Of the type of `self.keys`, because NumPy would copy these to compare other types.
        position, known = find(self.keys, np.array(keys, self.keys.dtype))
        return np.where(known, self.codes.take(position), UNKNOWN) if texts else position

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the texts of codes [n, k] as an object array of bytes; b"" for -1."""
        return self.texts.take(codes)

    def _other_key(self, text: bytes) -> bytes:
        """Return the key of a text that is longer than the keys, which NumPy cuts, or no id."""
        key = _key(text) if len(text) > MAX_KEY else _NO_TEXT
        return key if len(key) <= self.width else _NO_TEXT


def _key(text: bytes) -> bytes:
    if len(text) <= MAX_KEY:
        return text
    return hashlib.blake2b(text, digest_size=24).hexdigest().encode() + _NO_TEXT


class _Prefixes(dict):
    """The four bytes that Triton has before a text, by its length."""

    def __missing__(self, length: int) -> bytes:
        self[length] = prefix = struct.pack("<I", length)
        return prefix


_PREFIXES = _Prefixes()


def serialize_texts(texts: np.ndarray) -> bytes:
    """Return an object array of bytes as Triton has it in memory: each with its length before it.

    >>> serialize_texts(np.array([[b"a", b""]], object))
    b'\\x01\\x00\\x00\\x00a\\x00\\x00\\x00\\x00'
    """
    return b"".join(
        [part for text in texts.ravel().tolist() for part in (_PREFIXES[len(text)], text)]
    )


class IntegerIds:
    """INT64 ids, which are their own codes, and UINT64 ids, whose codes have the same bits."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes int64 [m] of ids [m]."""
        return values.view(np.int64)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the ids of codes [n, k]."""
        return codes.view(self.dtype)


class ServedIds:
    """Converts the ids in tables of requests and of answers.

    Parameters
    ----------
    contract : Contract
        Names and types of the ids.
    version : Path
        The version's folder.
    decodes_users : bool
        Whether `users` can also decode, which takes memory for text.

    Attributes
    ----------
    users, items : IntegerIds or TextIds
    """

    def __init__(self, contract: Contract, version: Path, decodes_users: bool = False) -> None:
        folder = version / IDS_FOLDER
        self.users = _converter(contract.user_id_type, folder, USERS, decodes_users)
        self.items = _converter(contract.item_id_type, folder, ITEMS, decodes=True)
        self.user_id, self.item_id = contract.user_id, contract.item_id
        history = contract.history or ""
        self.item_lists = (contract.columns.get(history, history), ALLOW, EXCLUDE, SIMILAR_TO)

    def encode(self, table: Table) -> Table:
        """Replace the user ids of a table of requests, and the items that it lists, by codes."""
        encoded = dict(table)
        if self.user_id in table:
            encoded[self.user_id] = self.users.encode(table[self.user_id])
        for name in self.item_lists:
            if name in table:
                encoded[name] = self.items.encode(table[name])
        return encoded

    def codes(self, ids: Iterable[int | str]) -> np.ndarray:
        """Return the codes int64 [m] of those items, given as in Python, that have one."""
        if isinstance(self.items, TextIds):
            texts = [each.encode() for each in ids if isinstance(each, str)]
            codes = self.items.encode(np.array(texts, object))
            return codes[codes != UNKNOWN]
        limits = np.iinfo(self.items.dtype)
        numbers = [
            each for each in ids if isinstance(each, int) and limits.min <= each <= limits.max
        ]
        return self.items.encode(np.array(numbers, self.items.dtype))

    def decode(self, answer: Table) -> Table:
        """Replace the codes of items in an answer by ids."""
        return {**answer, self.item_id: self.items.decode(answer[self.item_id])}


def _converter(datatype: str, folder: Path, name: str, decodes: bool) -> TextIds | IntegerIds:
    return TextIds(folder, name, decodes) if datatype == "BYTES" else IntegerIds(TYPES[datatype])
