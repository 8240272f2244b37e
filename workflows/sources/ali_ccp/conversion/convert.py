"""Convert Ali-CCP's files to parquet, block by block, in several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.workflows.sources.ali_ccp.conversion.blocks import Parsed, parse, read_lines
from twotower.workflows.sources.ali_ccp.conversion.columns import list_columns, numbers
from twotower.workflows.sources.ali_ccp.conversion.contexts import INDEX, Contexts, parts_of
from twotower.workflows.sources.ali_ccp.conversion.items import items_of_block
from twotower.workflows.sources.ali_ccp.conversion.parts import Parts
from twotower.workflows.sources.ali_ccp.conversion.problems import Problem, find_problem, shown
from twotower.workflows.sources.ali_ccp.fields import COMBINED, POSITION, Layout

_VALUED = tuple(each.name for each in COMBINED)


class Block(NamedTuple):
    """A block of a file.

    Attributes
    ----------
    path : Path
    part : str
        "train" or "test".
    number : int
        From 0.
    size : int
        Bytes of a block.
    """

    path: Path
    part: str
    number: int
    size: int

    @property
    def name(self) -> str:
        """The name of the part that it becomes."""
        return f"{self.path.stem}-{self.number:05d}"

    @property
    def bytes(self) -> int:
        """The bytes of the file that are in it."""
        return min(self.size, self.path.stat().st_size - self.number * self.size)


def blocks_of(path: Path, part: str, size: int) -> list[Block]:
    """Divide a file into blocks."""
    count = -(-path.stat().st_size // size)
    return [Block(path, part, number, size) for number in range(count)]


@dataclass
class Notes:
    """What is known about a converted block.

    Attributes
    ----------
    lines : int
    problems : dict of str to list
        By kind: how many lines are left out, and the row and the text of the first.
    unfinished : int
        1 if the last line is right, but has no line feed.
    no_click : int
        Impressions with a conversion but no click, which are left out.
    other_values : dict of str to int
        By column, features whose value is not stored and is not 1.
    """

    lines: int = 0
    problems: dict[str, list[Any]] = field(default_factory=dict)
    unfinished: int = 0
    no_click: int = 0
    other_values: dict[str, int] = field(default_factory=dict)

    @property
    def first(self) -> tuple[int, str] | None:
        """The row and the text of the first problem."""
        found = [(row, text) for _, row, text in self.problems.values()]
        return min(found, default=None)

    def add(self, row: int, problem: Problem) -> None:
        """Count a problem; those of a kind come in the order of their rows."""
        count, first, text = self.problems.get(problem.kind, [0, row, problem.text])
        self.problems[problem.kind] = [count + 1, first, text]


class Converter:
    """Converts blocks, or finds that they have been converted before.

    Parameters
    ----------
    parts : Parts
    lists : tuple of str
        The setting `lists`.
    skip : bool
        Whether malformed lines are left out. Otherwise a block with one is not written.
    """

    def __init__(self, parts: Parts, lists: tuple[str, ...], skip: bool):
        self.parts, self._skip = parts, skip
        self.skeleton, self.common = Layout.skeleton(lists), Layout.common(lists)

    def common_block(self, block: Block) -> Notes:
        """Convert a block of common features."""
        if (done := self.parts.notes(block.name)) is not None:
            return Notes(**done)
        parsed, notes = self._parsed(block, self.common)
        notes.other_values = _other_values(parsed, parsed.right)
        if self._skip or not notes.problems:
            table = _common_table(parsed, self.common)
            # It is soon read again, and written to contexts.parquet.
            self.parts.write(block.name, table, vars(notes), compressed=False)
        return notes

    def skeleton_block(self, block: Block, contexts: Contexts) -> Notes:
        """Convert a block of impressions, which have common features in `contexts`."""
        if (done := self.parts.notes(block.name)) is not None:
            return Notes(**done)
        parsed, notes = self._parsed(block, self.skeleton)
        common = contexts.find(block.part, parsed.indices)
        unknown = parsed.right & (common < 0)
        if unknown.any():
            name = block.path.name.replace("sample_skeleton", "common_features")
            for row in np.flatnonzero(unknown):
                text = f"common_feature_index {shown(parsed.indices[row])} is not in {name}"
                notes.add(int(row), Problem("unknown_common_index", text))
        kept = parsed.right & (common >= 0)
        no_click = kept & (parsed.conversions > parsed.clicks)
        notes.no_click = int(no_click.sum())
        kept &= ~no_click
        notes.other_values = _other_values(parsed, kept)
        if self._skip or not notes.problems:
            self.parts.write(items_name(block), items_of_block(parsed, kept), {})
            table = _impressions(parsed, self.skeleton, kept, common, contexts, block.part)
            self.parts.write(block.name, table, vars(notes))
        return notes

    def _parsed(self, block: Block, layout: Layout) -> tuple[Parsed, Notes]:
        lines = read_lines(block.path, block.number, block.size)
        parsed = parse(lines, layout)
        notes = Notes(lines=len(lines))
        for row in np.flatnonzero(~parsed.right):
            complete = lines.complete or row < len(lines) - 1
            notes.add(int(row), find_problem(lines.text(row), layout, complete))
        notes.unfinished = int(not lines.complete and bool(parsed.right[-1]))
        return parsed, notes


def items_name(block: Block) -> str:
    """The name of the part with the items of a block of impressions."""
    return f"items-{block.name}"


def _other_values(parsed: Parsed, kept: np.ndarray) -> dict[str, int]:
    """Count the features whose value is not 1, of the columns that are stored without it."""
    counts = {
        name: int(((values != 1) & (parsed.single[name] >= 0) & kept).sum())
        for name, values in parsed.values.items()
        if name not in _VALUED
    }
    return {name: count for name, count in counts.items() if count}


def _common_table(parsed: Parsed, layout: Layout) -> pa.Table:
    """The right lines as rows; `line` is the number of the line in the block."""
    rows = np.flatnonzero(parsed.right)
    # Lines that are not right have no features, so the lists are those of the rows.
    columns = {INDEX: pa.array(parsed.indices[rows].astype(str), pa.string())}
    columns |= {name: numbers(parsed.single[name][rows]) for name in layout.singles}
    for name in layout.multiple:
        columns |= _rows_of(list_columns(parsed, name), rows, parsed)
    hashes = parsed.hashes[rows].view(np.int64)
    return pa.table({**columns, "hash": pa.array(hashes), "line": pa.array(rows)})


def _rows_of(columns: dict[str, pa.Array], rows: np.ndarray, parsed: Parsed) -> dict[str, pa.Array]:
    """Take rows, unless they are all."""
    if len(rows) == len(parsed.right):
        return columns
    return {name: column.take(pa.array(rows)) for name, column in columns.items()}


def _impressions(
    parsed: Parsed,
    layout: Layout,
    kept: np.ndarray,
    common: np.ndarray,
    contexts: Contexts,
    part: str,
) -> pa.Table:
    rows = np.flatnonzero(kept)
    common = common[rows]
    columns = {
        "user_id": pa.array(contexts.single["user_id"][common]),
        "item_id": pa.array(parsed.single["item_id"][rows]),
        "click": pa.array(parsed.clicks[rows].astype(np.int64)),
        "conversion": pa.array(parsed.conversions[rows].astype(np.int64)),
    }
    for name in (POSITION.name, *_VALUED):
        if name in layout.lists:
            columns |= _rows_of(list_columns(parsed, name), rows, parsed)
            continue
        columns[name] = numbers(parsed.single[name][rows])
        if name in _VALUED:
            missing = parsed.single[name][rows] < 0
            columns[f"{name}_value"] = pa.array(parsed.values[name][rows], mask=missing)
    for name, values in contexts.single.items():
        if name != "user_id":
            columns[name] = numbers(values[common])
    columns["common"] = pa.array(common)
    columns["part"] = parts_of(np.full(len(rows), part == "test", dtype=np.int8))
    return pa.table(columns)


def in_order(
    work: Callable[[Block], Notes], blocks: Iterable[Block], workers: int
) -> Iterator[tuple[Block, Notes]]:
    """Convert blocks in threads; yield the results in the order of the blocks."""
    waiting: deque[tuple[Block, Future[Notes]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for block in blocks:
                waiting.append((block, pool.submit(work, block)))
                if len(waiting) > workers:
                    first, result = waiting.popleft()
                    yield first, result.result()
            for first, result in waiting:
                yield first, result.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
