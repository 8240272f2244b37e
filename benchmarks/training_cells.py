"""What is made of measured trainings: medians over rounds, ratios, checks, curves."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import Check
from benchmarks.training_process import (
    METRIC,
    NO_LISTS,
    OURS,
    STOCK,
    SUBJECTS,
    TFRS,
    TFRS_XLA,
    Task,
    Trained,
)

BATCHES = (1_024, 4_096, 16_384, 65_536)
TARGET = 0.24


class Paces:
    """What was measured so far: (subject, batch size) -> a `Trained` a round, or why not."""

    def __init__(self) -> None:
        self.rounds: dict[tuple[str, int], list[Trained | str]] = defaultdict(list)

    def add(self, subject: str, batch_size: int, measured: Trained | str) -> None:
        self.rounds[subject, batch_size].append(measured)

    def refused(self, subject: str, batch_size: int) -> str | None:
        """Why there is no figure, when a limit has ended the training in any round."""
        reasons = (each for each in self.rounds[subject, batch_size] if isinstance(each, str))
        return next(reasons, None)

    def median(self, field: str, subject: str, batch_size: int) -> float:
        """Over the rounds."""
        return median(getattr(each, field) for each in self.rounds[subject, batch_size])

    def ratio(self, of: str, to: tuple[str, ...], batch_size: int) -> float:
        """Rows/s of a subject over those of the fastest of others."""
        others = [
            self.median("rows_per_s", each, batch_size)
            for each in to
            if not self.refused(each, batch_size)
        ]
        return round(self.median("rows_per_s", of, batch_size) / max(others), 2)

    def records(self) -> list[dict[str, Any]]:
        """For the result file: medians over the rounds, one record a subject and batch size."""
        return [self._record(*cell) for cell in self.rounds]

    def _record(self, subject: str, batch_size: int) -> dict[str, Any]:
        cell = {"subject": subject, "batch_size": batch_size}
        if reason := self.refused(subject, batch_size):
            return {**cell, "refused": reason}
        fields = ("warm_up_s", "baseline_gb", "peak_gb")
        return {
            **cell,
            "rows_per_s": round(self.median("rows_per_s", subject, batch_size)),
            **{name: round(self.median(name, subject, batch_size), 2) for name in fields},
            "rounds_rows_per_s": [round(e.rows_per_s) for e in self.rounds[subject, batch_size]],
        }


def speed_checks(paces: Paces) -> list[Check]:
    """Ours beside each peer with the same towers, and what the genres cost."""
    limits = {1_024: (1.5, 1.5), 4_096: (4.0, 2.0)}
    checks = []
    for batch_size, (stock, tfrs) in limits.items():
        for name, peers, limit in (("stock", (STOCK,), stock), ("TFRS", (TFRS, TFRS_XLA), tfrs)):
            ratio = paces.ratio(NO_LISTS, peers, batch_size)
            checks.append(Check(f"rows/s at {batch_size:,}: ours over {name}", ratio, ">=", limit))
        ratio = paces.ratio(OURS, (NO_LISTS,), batch_size)
        checks.append(
            Check(f"rows/s at {batch_size:,}: with genres over without", ratio, ">=", 0.8)
        )
    return checks


def print_paces(records: list[dict[str, Any]]) -> None:
    """A row a batch size, a column a subject."""
    table = Table("batch", *SUBJECTS, title="rows/s, peak GB", title_justify="left")
    shown = defaultdict(dict)
    for each in records:
        shown[each["batch_size"]][each["subject"]] = each.get("refused") or (
            f"{each['rows_per_s']:,}, {each['peak_gb']:.2f}"
        )
    for batch_size, cells in shown.items():
        table.add_row(f"{batch_size:,}", *(cells.get(subject, "") for subject in SUBJECTS))
    Console(width=150, highlight=False).print(table)


def curve(task: Task, measured: Trained | str) -> dict[str, Any]:
    """NDCG@10 by training seconds, for the result file and the plot."""
    told = {"subject": task.subject, **task.training}
    if isinstance(measured, str):
        return {**told, "refused": measured}
    return {
        **told,
        "seconds": [round(each, 2) for each in accumulate(measured.seconds)],
        METRIC: [round(each, 4) for each in measured.scores],
        "rows_per_s": round(measured.rows_per_s) if len(measured.seconds) > 1 else None,
    }


def reached(curve: dict[str, Any]) -> float:
    """Training seconds until the target was met; infinity when it was not."""
    points = zip(curve.get("seconds", []), curve.get(METRIC, []), strict=True)
    return min((seconds for seconds, score in points if score >= TARGET), default=float("inf"))


def quality_checks(curves: list[dict[str, Any]], limit_s: float) -> list[Check]:
    """Ours by the clock beside the best of stock; `limit_s` where stock never got there."""
    best = {
        subject: min(reached(each) for each in curves if each["subject"] == subject)
        for subject in (OURS, STOCK)
    }
    ratio = round(min(best[OURS], 10 * limit_s) / min(best[STOCK], limit_s), 3)
    name = f"seconds to NDCG@10 {TARGET}: ours over the best of stock"
    return [Check(name, ratio, "<=", 0.25)]
