"""The train.txt and test.txt of LightGCN and NGCF: a user and all of its items per line."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.sources.base import OnMessage, Progress, ProgressCounter, Source, ignore
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.layouts.place import Place, place_at
from twotower.workflows.tables import Tables, repeated_pairs

FILES = ("train.txt", "test.txt")
_SAMPLE_LINES = 50


class LightGCN(Source):
    """The split that the authors of LightGCN publish, as in the folders gowalla and amazon-book.

    The interactions have the column `part`, train or test, and no time.
    """

    name = "lightgcn"
    contents = "LightGCN (train.txt, test.txt)"

    @classmethod
    def recognise(cls, path: Path) -> Path | None:
        """Find train.txt or test.txt with lines of whole numbers that begin with other users."""
        place = place_at(path)
        if place is None or not place.root.is_dir():
            return None
        found = [name for name in FILES if name in place.names]
        return path if any(_is_adjacency(place, name) for name in found) else None

    def files(self) -> list[Path]:
        """The files that exist."""
        return [self.path / name for name in FILES if self.path and (self.path / name).is_file()]

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Read both files. `progress` counts them."""
        if self.path is None or not self.path.is_dir():
            raise DataError(
                "source lightgcn needs `path` (--data): a folder such as Data/gowalla of "
                f"https://github.com/kuanghuei/LightGCN; found {self.path}"
            )
        missing = [name for name in FILES if not (self.path / name).is_file()]
        if missing:
            raise DataError(
                f"{self.path}: missing {', '.join(missing)}; the layout of LightGCN has "
                f"{' and '.join(FILES)}"
            )
        return _read(self.path, progress, on_message)

    def read_update(
        self,
        folder: Path,
        id_types: Mapping[str, pa.DataType],
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Read train.txt, test.txt or both from a folder."""
        if not any((folder / name).is_file() for name in FILES):
            raise DataError(f"{folder}: no {' or '.join(FILES)}; nothing to add")
        return _read(folder, progress, on_message)._asdict()


def _is_adjacency(place: Place, name: str) -> bool:
    """Whether the first lines have whole numbers, with another user in each."""
    lines = [line.split() for line in place.head(name)[:_SAMPLE_LINES]]
    numbers = lines and all(part.isdecimal() for line in lines for part in line)
    users = [line[0] for line in lines if line]
    return bool(numbers) and len(users) == len(lines) and len(set(users)) == len(users)


def _read(folder: Path, progress: Progress | None, on_message: OnMessage) -> Tables:
    place = place_at(folder)
    assert place is not None
    names = [name for name in FILES if name in place.names]
    counter = ProgressCounter(progress, len(names))
    users, items, parts = [], [], []
    for name in names:
        user_ids, item_ids = _read_lines(place, name)
        users.append(user_ids)
        items.append(item_ids)
        parts += [name.removesuffix(".txt")] * len(user_ids)
        counter.advance()
    user_ids, item_ids, part = np.concatenate(users), np.concatenate(items), np.array(parts)
    if not len(user_ids):
        raise DataError(f"{folder}: no items in {', '.join(names)}")
    kept = np.ones(len(user_ids), dtype=bool)
    repeats, firsts = repeated_pairs(user_ids, item_ids)
    crossing = part[repeats] != part[firsts]
    if crossing.any():
        row = int(repeats[crossing.argmax()])
        raise DataError(
            f"{folder}: user {user_ids[row]} has item {item_ids[row]} in train.txt and in test.txt "
            f"({int(crossing.sum()):,} such pairs); a pair belongs to one part"
        )
    if len(repeats):
        kept[repeats] = False
        text = f"{len(repeats):,} of {len(kept):,} pairs are repeated; each is kept once"
        Findings.of(on_message).note("repeated_pairs", len(repeats), text)
    interactions = {"user_id": user_ids[kept], "item_id": item_ids[kept], "part": part[kept]}
    return Tables(
        interactions=pa.table(interactions),
        users=pa.table({"user_id": np.unique(user_ids)}),
        items=pa.table({"item_id": np.unique(item_ids)}),
    )


def _read_lines(place: Place, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the pairs of one file, in order; a user without items has none."""
    lines = place.read(name).split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    fields = [line.split() for line in lines]
    for number, line in enumerate(fields, start=1):
        if not line or not b"".join(line).isdigit():
            wrong = next((field for field in line if not field.isdigit()), b"")
            raise DataError(
                f"{place.path(name)}, line {number}: {wrong.decode('utf-8', 'replace')!r}; "
                "expected whole numbers: a user, then its items"
            )
    try:
        numbers = np.array(list(chain.from_iterable(fields)), dtype=np.int64)
    except OverflowError as error:
        raise DataError(f"{place.path(name)}: {error}; ids must be below 2^63") from error
    if not fields:
        return numbers, numbers
    sizes = np.array([len(line) for line in fields], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    users = numbers[starts]
    repeats, firsts = repeated_pairs(users, np.zeros_like(users))
    if len(repeats):
        raise DataError(
            f"{place.path(name)}, line {repeats[0] + 1}: user {users[repeats[0]]} has a line "
            f"already, line {firsts[0] + 1}; expected one line per user. For pairs, one per line, "
            "use source files"
        )
    is_item = np.ones(len(numbers), dtype=bool)
    is_item[starts] = False
    return np.repeat(users, sizes - 1), numbers[is_item]
