"""Generate made-up files in exactly the format of Ali-CCP, of any size."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twotower.workflows.errors import DataError
from twotower.workflows.sources.ali_ccp.draw import (
    Features,
    Impressions,
    draw_common,
    draw_impressions,
)
from twotower.workflows.sources.ali_ccp.place import MARKER, Pair, has_files
from twotower.workflows.sources.ali_ccp.text import lines_of
from twotower.workflows.sources.ali_ccp.world import (
    COMMON_ROWS,
    NEW_ITEMS,
    NEW_USERS,
    ROWS,
    USERS,
    World,
    make_world,
)
from twotower.workflows.sources.base import Progress

TOKENS = 629
"""Features of an impression of the real set, with its common features, on average."""
MIN_ROWS = 1_000
_TOKENS_OF_BLOCK = 1_500_000
_NOTE = """\
The files beside this one are made up. They have the format of Ali-CCP, but say nothing about real
users. Source ali-ccp-raw labels what comes from them SYNTHETIC, because of this file.

rows {rows}, test_rows {test_rows}, tokens {tokens}, seed {seed}
"""


class Part(NamedTuple):
    """The lines of train or test.

    Attributes
    ----------
    number : int
        0 for train, 1 for test.
    users : ndarray of int64, shape (n,)
        The user number of each line of common features, from 0.
    ends : ndarray of int64, shape (n,)
        Where the impressions of each line of common features end.
    keys : ndarray of uint64, shape (n,)
        The indices, ascending.
    new_share : float
        Share of the impressions that show an item of test only.
    """

    number: int
    users: np.ndarray
    ends: np.ndarray
    keys: np.ndarray
    new_share: float


class Block(NamedTuple):
    """Some lines of common features and their impressions.

    Attributes
    ----------
    first, start : int
        The number of the first line of common features and of the first impression, from 0.
    common : Features
    impressions : Impressions
    features : Features
        Of the impressions.
    """

    first: int
    start: int
    common: Features
    impressions: Impressions
    features: Features


class Generator(NamedTuple):
    """A made-up data set.

    Attributes
    ----------
    world : World
    users : int
        Number of users.
    parts : tuple of Part
    """

    world: World
    users: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, rows: int, test_rows: int, tokens: int = TOKENS, seed: int = 42) -> Generator:
        """Choose the parameters; the arguments are those of `generate`."""
        world = make_world(rows, tokens, seed)
        common = np.random.default_rng([seed, 0])
        total = max(int(USERS * min(rows / ROWS, 1.0)), 20)
        known = int(total / (1 + NEW_USERS))
        users = common.permutation(total)
        train = _part(world, 0, rows, users[:known], 0.0, common)
        if not test_rows:
            return cls(world, total, (train,))
        tested = int(np.clip(known * min(test_rows / rows, 1.0), 10, known))
        new = min(round(NEW_USERS * tested), total - known)
        chosen = np.concatenate([users[: tested - new], users[known : known + new]])
        share = _share_of_new(world, rows, test_rows)
        return cls(world, total, (train, _part(world, 1, test_rows, chosen, share, common)))

    def block(self, part: Part, first: int, end: int) -> Block:
        """Draw the lines of common features from `first` to `end`, and their impressions."""
        users = part.users[first:end]
        start = int(part.ends[first - 1]) if first else 0
        sizes = np.diff(part.ends[first:end], prepend=start)
        common = np.repeat(np.arange(first, end), sizes)
        drawn, features = draw_impressions(
            self.world, part.number, start, common, np.repeat(users, sizes), part.new_share
        )
        lines = draw_common(self.world, part.number, first, users, self.users)
        return Block(first, start, lines, drawn, features)

    def blocks(self, part: Part) -> list[tuple[int, int]]:
        """Divide the lines of common features of a part."""
        per_line = self.world.mean + 10 * part.ends[-1] / len(part.ends)
        step = max(int(_TOKENS_OF_BLOCK / per_line), 1)
        return [
            (first, min(first + step, len(part.ends))) for first in range(0, len(part.ends), step)
        ]


def _part(
    world: World,
    number: int,
    rows: int,
    users: np.ndarray,
    new_share: float,
    draw: np.random.Generator,
) -> Part:
    """Give each user lines of common features, and each of these impressions."""
    count = max(round(rows * COMMON_ROWS / ROWS), len(users))
    count = min(count, rows)
    more = users[(len(users) * draw.random(count - len(users)) ** 2).astype(np.int64)]
    of_line = draw.permutation(np.concatenate([users, more]))
    sizes = np.cumsum(draw.lognormal(0, 1, count))
    ends = np.rint((rows - count) * sizes / sizes[-1]).astype(np.int64) + np.arange(1, count + 1)
    # Evenly spaced with random offsets: ascending and distinct without sorting.
    step = np.uint64(2**64 // count - 1)
    keys = np.arange(count, dtype=np.uint64) * step
    keys += draw.integers(0, int(step), count, dtype=np.uint64)
    return Part(number, of_line.astype(np.int64), ends, keys, new_share)


def _share_of_new(world: World, rows: int, test_rows: int) -> float:
    """Find the share of the impressions that makes `NEW_ITEMS` of the test items new."""

    def unseen(size: int, draws: float) -> np.ndarray:
        """The probability that an item is never drawn, by its rank."""
        ranks = np.arange(size)
        shares = np.log((ranks + 2) / (ranks + 1)) / np.log(size + 1)
        return np.exp(-draws / world.clusters * shares)

    missing = unseen(world.items_train, rows)
    low, high = 0.0, 1.0
    for _ in range(30):
        share = (low + high) / 2
        old = 1 - unseen(world.items_train, test_rows * (1 - share))
        new = float((1 - unseen(world.items_new, test_rows * share)).sum())
        by_chance = float((old * missing).sum())
        if (new + by_chance) / (new + float(old.sum())) < NEW_ITEMS:
            low = share
        else:
            high = share
    return low


def generate(
    out: Path,
    rows: int,
    test_rows: int | None = None,
    tokens: int = TOKENS,
    seed: int = 42,
    progress: Progress | None = None,
) -> None:
    """Write the four files, and a file that marks them as made up.

    Parameters
    ----------
    out : Path
        A folder without such files; it is made if necessary.
    rows : int
        Number of impressions in train; the real set has 42,300,135. The numbers of users and items
        fall with it.
    test_rows : int, optional
        Number of impressions in test; `rows` by default. 0 writes no test files.
    tokens : int
        Mean number of features of an impression together with its common features.
    seed : int
        The same arguments give the same bytes.
    progress : callable, optional
        Called with (impressions done, impressions in total).

    Raises
    ------
    DataError
        If `out` has such files, or a number is out of range.
    """
    test_rows = rows if test_rows is None else test_rows
    _check(out, rows, test_rows, tokens, seed)
    out.mkdir(parents=True, exist_ok=True)
    note = _NOTE.format(rows=rows, test_rows=test_rows, tokens=tokens, seed=seed)
    (out / MARKER).write_text(note, encoding="utf-8")
    generator = Generator.of(rows, test_rows, tokens, seed)
    done = 0
    for name, part in zip(("train", "test"), generator.parts, strict=False):
        pair = Pair.at(out, name)
        with ExitStack() as stack:
            final = (pair.skeleton, pair.common)
            temporary = [path.with_name(f"{path.name}.tmp") for path in final]
            skeleton, common = (stack.enter_context(path.open("wb")) for path in temporary)
            for impressions, lines, count in _written(generator, part):
                skeleton.write(impressions.data)
                common.write(lines.data)
                done += count
                if progress:
                    progress(done, rows + test_rows)
        for path, place in zip(temporary, final, strict=True):
            path.replace(place)


def _written(generator: Generator, part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Draw and write blocks in threads; yield the bytes of both files in order."""

    def work(first: int, end: int) -> tuple[np.ndarray, np.ndarray, int]:
        block = generator.block(part, first, end)
        keys = part.keys[block.impressions.common]
        impressions = lines_of(block.start, keys, block.features, block.impressions)
        return impressions, lines_of(first, part.keys[first:end], block.common), len(keys)

    workers = os.cpu_count() or 1
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        for first, end in generator.blocks(part):
            waiting.append(pool.submit(work, first, end))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _check(out: Path, rows: int, test_rows: int, tokens: int, seed: int) -> None:
    """Raise DataError if the arguments of `generate` are wrong."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: not a folder; name a new one")
    if out.exists() and has_files(out):
        raise DataError(f"{out}: has files of Ali-CCP already; name a new folder")
    for name, value, low in (
        ("rows", rows, MIN_ROWS),
        ("test rows", test_rows, 0),
        ("tokens", tokens, 30),
        ("seed", seed, 0),
    ):
        high = {"tokens": 2000, "seed": 2**31 - 1}.get(name, 2**40)
        if not low <= value <= high:
            raise DataError(f"{name} is {value:,}; give {low:,} to {high:,}")
