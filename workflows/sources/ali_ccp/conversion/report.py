"""What people should know about converted files: lines left out, and what only test has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from twotower.workflows.sources.ali_ccp.conversion.contexts import Contexts, differing_users
from twotower.workflows.sources.ali_ccp.conversion.convert import Notes
from twotower.workflows.sources.ali_ccp.conversion.items import Items
from twotower.workflows.sources.findings import Findings
from twotower.workflows.stored import StoredRows


def report_lines(notes: Mapping[Path, Sequence[Notes]], findings: Findings) -> None:
    """Report what was left out of each file.

    Parameters
    ----------
    notes : mapping of Path to sequence of Notes
        Those of the blocks in order.
    findings : Findings
    """
    for path, blocks in notes.items():
        total = sum(each.lines for each in blocks)
        start, counts, firsts = 0, Counter[str](), dict[str, tuple[int, str]]()
        for each in blocks:
            # A block without lines has problems of the whole file.
            before = start if each.lines else 0
            for kind, (count, row, text) in each.problems.items():
                counts[kind] += count
                firsts.setdefault(kind, (before + row + 1, text))
            start += each.lines
        for kind, count in counts.items():
            line, text = firsts[kind]
            findings.note(
                kind,
                count,
                f"{path.name}: {count:,} of {total:,} lines left out ({kind.replace('_', ' ')}), "
                f"the first is line {line:,}: {text}",
            )
        if any(each.unfinished for each in blocks):
            findings(f"{path.name}: the last line has no line feed; it is complete and kept")
        no_click = sum(each.no_click for each in blocks)
        findings.changed(
            "conversion_without_click",
            no_click,
            f"{path.name}: {no_click:,} of {total:,} lines have a conversion without a click",
            "they are left out",
        )
        values = sum((Counter(each.other_values) for each in blocks), Counter[str]())
        for name, count in values.items():
            findings.changed(
                "other_values",
                count,
                f"{path.name}: {count:,} values of {name} are not 1",
                "only the feature is kept",
            )


def report_users(
    files: Mapping[str, Sequence[Path]],
    keep: Mapping[str, Sequence[np.ndarray]],
    findings: Findings,
) -> None:
    """Report the users with several different rows of common features.

    Parameters
    ----------
    files : mapping of str to sequence of Path
        The converted blocks of common features by part.
    keep : mapping of str to sequence of ndarray of bool
        Their rows that are kept.
    findings : Findings
    """
    users, hashes = [], []
    for part, paths in files.items():
        for path, kept in zip(paths, keep[part], strict=True):
            table = pq.read_table(path, columns=["user_id", "hash"])
            users.append(table["user_id"].to_numpy()[kept])
            hashes.append(table["hash"].to_numpy()[kept])
    differing, total = differing_users(np.concatenate(users), np.concatenate(hashes))
    if differing:
        findings.note(
            "differing_users",
            differing,
            f"{differing:,} of {total:,} users have several rows of common features that differ; "
            "the users' features are those of the last one in train, or in test for users that "
            "only test has. contexts.parquet has all of them",
        )


def report_parts(rows: StoredRows, contexts: Contexts, items: Items, findings: Findings) -> None:
    """Report the items whose features differ, and the users and items that only test has."""
    if differing := int(items.differs.sum()):
        findings.note(
            "differing_items",
            differing,
            f"{differing:,} of {len(items.ids):,} items have lines with different features; those "
            "of the last line in train are used, or in test for items that only test has",
        )
    used = np.zeros(len(contexts), dtype=bool)
    for batch in rows.batches(["common"]):
        used[batch["common"].to_numpy()] = True
    users, train = contexts.single["user_id"], np.arange(len(used)) < contexts.train
    known, tested = np.unique(users[used & train]), np.unique(users[used & ~train])
    _report_new("users", len(np.setdiff1d(tested, known)), len(tested), findings)
    new = items.in_test & ~items.in_train
    _report_new("items", int(new.sum()), int(items.in_test.sum()), findings)


def _report_new(side: str, new: int, total: int, findings: Findings) -> None:
    if new:
        findings.note(
            f"test_only_{side}",
            new,
            f"{new:,} of {total:,} {side} in test ({new / total:.1%}) do not occur in train",
        )
