"""One conversion of Ali-CCP's files: its stages in order, and what people should know about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.conversion.columns import weights_of
from twotower.workflows.sources.ali_ccp.conversion.contexts import (
    INDEX,
    Contexts,
    user_table,
    write_contexts,
)
from twotower.workflows.sources.ali_ccp.conversion.convert import (
    Block,
    Converter,
    Notes,
    blocks_of,
    in_order,
    items_name,
)
from twotower.workflows.sources.ali_ccp.conversion.items import Items
from twotower.workflows.sources.ali_ccp.conversion.parts import Parts
from twotower.workflows.sources.ali_ccp.conversion.problems import shown
from twotower.workflows.sources.ali_ccp.conversion.report import (
    report_lines,
    report_parts,
    report_users,
)
from twotower.workflows.sources.ali_ccp.fields import COMBINED, ITEM, POSITION
from twotower.workflows.sources.ali_ccp.place import Pair
from twotower.workflows.sources.base import Progress
from twotower.workflows.sources.findings import Findings
from twotower.workflows.stored import StoredRows, StoredTables


class Conversion:
    """Converts the files of one or two parts.

    Parameters
    ----------
    pairs : sequence of Pair
    work : Path
        The folder of the parquet files. Those of an interrupted conversion are found again.
    settings : AliCCPConfig
    progress : callable or None
        Called with (bytes done, bytes in total), where those of common features count twice.
    findings : Findings
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        work: Path,
        settings: AliCCPConfig,
        progress: Progress | None,
        findings: Findings,
    ):
        self._pairs, self._work = pairs, work
        self._progress, self._findings = progress, findings
        self._skip = settings.on_error == "skip"
        self._list_values = settings.list_values
        self._workers = settings.workers or os.cpu_count() or 1
        size = settings.block_mb << 20
        files = [path for pair in pairs for path in pair[1:]]
        self._parts = Parts(
            work, files, {"lists": sorted(settings.lists), "block_mb": settings.block_mb}
        )
        self._converter = Converter(self._parts, tuple(settings.lists), self._skip)
        self._skeleton = [blocks_of(pair.skeleton, pair.part, size) for pair in pairs]
        self._common = [blocks_of(pair.common, pair.part, size) for pair in pairs]
        self._done = 0
        self._total = sum(
            pair.skeleton.stat().st_size + 2 * pair.common.stat().st_size for pair in pairs
        )
        self._notes: dict[Path, list[Notes]] = {path: [] for path in files}

    @property
    def columns(self) -> dict[str, list[str]]:
        """The columns of each table, except ids, by the name of the table."""
        skeleton, common = self._converter.skeleton, self._converter.common
        items = [field.name for field in ITEM[1:]]
        users = [field.name for field in common.fields[1:]]
        log = ["click", "conversion", POSITION.name]
        for each in COMBINED:
            listed = each.name in skeleton.lists
            log += [each.name, weights_of(each.name) if listed else f"{each.name}_value"]
        log += [*common.singles[1:], "common", "part"]
        return {"interactions": log, "users": users, "items": items}

    def run(self, users: Sequence[str], items: Sequence[str]) -> StoredTables:
        """Convert the files, or what is left of them.

        Parameters
        ----------
        users, items : sequence of str
            The columns of these tables; those with lists get a further one with weights.

        Returns
        -------
        StoredTables

        Raises
        ------
        DataError
            If a line is malformed and on_error is "fail", or no impression is left.
        """
        contexts = self._contexts()
        found = Items()
        for blocks in self._skeleton:
            for block, notes in in_order(
                lambda block: self._converter.skeleton_block(block, contexts),
                blocks,
                self._workers,
            ):
                self._take(block, notes)
                found.add(self._parts.path(items_name(block)), block.part)
        if not len(found.ids):
            raise DataError(f"{self._pairs[0].skeleton}: no impression is left; correct the lines")
        rows = StoredRows(tuple(self._path(block) for each in self._skeleton for block in each))
        report_lines(self._notes, self._findings)
        report_parts(rows, contexts, found, self._findings)
        multiple = self._converter.common.multiple
        lists = self._converter.skeleton.lists
        columns = [
            each
            for name in items
            for each in ([name, weights_of(name)] if name in lists else [name])
        ]
        return StoredTables(
            interactions=rows,
            users=user_table(contexts, users, multiple, self._list_values),
            items=found.table(columns),
            more=(contexts.path,),
        )

    def _path(self, block: Block) -> Path:
        return self._parts.path(block.name)

    def _take(self, block: Block, notes: Notes) -> None:
        """Keep the notes of a block; raise DataError for its first problem if none is skipped."""
        if not self._skip and notes.first is not None:
            row, text = notes.first
            before = sum(each.lines for each in self._notes[block.path])
            raise _error(block.path, before + row + 1, text)
        self._notes[block.path].append(notes)
        self._advance(block.bytes)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(self._done, self._total)

    def _contexts(self) -> Contexts:
        """Convert the common features, and read what impressions need of them."""
        out = self._parts.path("contexts")
        files: dict[str, list[Path]] = {}
        keep: dict[str, list[np.ndarray]] = {}
        for pair, blocks in zip(self._pairs, self._common, strict=True):
            for block, notes in in_order(self._converter.common_block, blocks, self._workers):
                self._take(block, notes)
            files[pair.part] = [self._path(block) for block in blocks]
            keep[pair.part] = self._first_of_indices(pair.common, files[pair.part])
        sizes = [block.bytes for blocks in self._common for block in blocks]
        if out.exists():
            self._advance(sum(sizes))
        else:
            left = iter(sizes)
            write_contexts(out, files, keep, lambda: self._advance(next(left)))
        report_users(files, keep, self._findings)
        return Contexts.read(out, self._converter.common.singles)

    def _first_of_indices(self, path: Path, files: list[Path]) -> list[np.ndarray]:
        """Find which rows of the blocks of a file have an index that no row before has."""
        tables = [pq.read_table(file, columns=[INDEX, "line"]) for file in files]
        texts = np.concatenate([each[INDEX].to_numpy().astype("S32") for each in tables])
        _, first, place = np.unique(texts, return_index=True, return_inverse=True)
        repeats = np.flatnonzero(first[place] != np.arange(len(texts)))
        kept = np.ones(len(texts), dtype=bool)
        kept[repeats] = False
        if len(repeats):
            starts = np.cumsum([0, *(notes.lines for notes in self._notes[path])])[:-1]
            lines = np.concatenate(
                [
                    each["line"].to_numpy() + start
                    for each, start in zip(tables, starts, strict=True)
                ]
            )
            row = int(repeats[0])
            text = (
                f"common_feature_index {shown(texts[row])} occurs already in line "
                f"{lines[first[place[row]]] + 1:,}"
            )
            if not self._skip:
                raise _error(path, int(lines[row]) + 1, text)
            self._notes[path].append(
                Notes(problems={"repeated_common_index": [len(repeats), int(lines[row]), text]})
            )
        return np.split(kept, np.cumsum([len(each) for each in tables])[:-1])


def _error(path: Path, line: int, text: str) -> DataError:
    return DataError(
        f"{path}, line {line:,}: {text}. To leave such lines out, set "
        "ingest.ali_ccp_raw.on_error to skip (--on-error skip)"
    )
