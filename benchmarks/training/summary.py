"""Summaries of measured trainings: medians over rounds, ratios, checks, curves."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import Check
from benchmarks.training.process import (
    METRIC,
    NO_LISTS,
    OURS,
    STOCK,
    SUBJECTS,
    TFRS,
    TFRS_XLA,
    Task,
    TrainingResult,
)

BATCHES = (1_024, 4_096, 16_384, 65_536)
TARGET = 0.24
"""NDCG@10 on test."""


class SpeedResults:
    """The results so far by subject and batch size: one per round, or why a limit ended it."""

    def __init__(self) -> None:
        self.rounds: dict[tuple[str, int], list[TrainingResult | str]] = defaultdict(list)

    def add(self, subject: str, batch_size: int, result: TrainingResult | str) -> None:
        self.rounds[subject, batch_size].append(result)

    def failure(self, subject: str, batch_size: int) -> str | None:
        """Return which limit ended the training in any round, or None."""
        reasons = (each for each in self.rounds[subject, batch_size] if isinstance(each, str))
        return next(reasons, None)

    def median(self, field: str, subject: str, batch_size: int) -> float:
        """Median over the rounds of a field of TrainingResult."""
        return median(getattr(each, field) for each in self.rounds[subject, batch_size])

    def ratio(self, subject: str, peers: tuple[str, ...], batch_size: int) -> float:
        """Divide the subject's rows/s by those of the fastest peer."""
        speeds = [
            self.median("rows_per_s", peer, batch_size)
            for peer in peers
            if not self.failure(peer, batch_size)
        ]
        return round(self.median("rows_per_s", subject, batch_size) / max(speeds), 2)

    def records(self) -> list[dict[str, Any]]:
        """Medians over the rounds for the result file, one record per subject and batch size."""
        return [self._record(subject, batch_size) for subject, batch_size in self.rounds]

    def _record(self, subject: str, batch_size: int) -> dict[str, Any]:
        cell = {"subject": subject, "batch_size": batch_size}
        if reason := self.failure(subject, batch_size):
            return {**cell, "failed": reason}
        fields = ("warm_up_s", "baseline_gb", "peak_gb")
        return {
            **cell,
            "rows_per_s": round(self.median("rows_per_s", subject, batch_size)),
            **{name: round(self.median(name, subject, batch_size), 2) for name in fields},
            "rounds_rows_per_s": [
                round(each.rows_per_s)
                for each in self.rounds[subject, batch_size]
                if not isinstance(each, str)
            ],
        }


def speed_checks(results: SpeedResults) -> list[Check]:
    """Check our speed beside each peer with the same towers, and what the genres cost."""
    limits = {1_024: (1.5, 1.5), 4_096: (4.0, 2.0)}
    checks = []
    for batch_size, (stock, tfrs) in limits.items():
        for name, peers, limit in (("stock", (STOCK,), stock), ("TFRS", (TFRS, TFRS_XLA), tfrs)):
            ratio = results.ratio(NO_LISTS, peers, batch_size)
            checks.append(Check(f"rows/s at {batch_size:,}: ours over {name}", ratio, ">=", limit))
        ratio = results.ratio(OURS, (NO_LISTS,), batch_size)
        checks.append(
            Check(f"rows/s at {batch_size:,}: with genres over without", ratio, ">=", 0.8)
        )
    return checks


def print_speeds(records: list[dict[str, Any]]) -> None:
    """Print a table with one row per batch size and one column per subject."""
    table = Table("batch", *SUBJECTS, title="rows/s, peak GB", title_justify="left")
    shown: dict[int, dict[str, str]] = defaultdict(dict)
    for each in records:
        shown[each["batch_size"]][each["subject"]] = each.get("failed") or (
            f"{each['rows_per_s']:,}, {each['peak_gb']:.2f}"
        )
    for batch_size, cells in shown.items():
        table.add_row(f"{batch_size:,}", *(cells.get(subject, "") for subject in SUBJECTS))
    Console(width=150, highlight=False).print(table)


def curve(task: Task, result: TrainingResult | str) -> dict[str, Any]:
    """Record NDCG@10 by training seconds, for the result file and the plot."""
    settings = {"subject": task.subject, **task.training}
    if isinstance(result, str):
        return {**settings, "failed": result}
    return {
        **settings,
        "seconds": [round(each, 2) for each in accumulate(result.seconds)],
        METRIC: [round(each, 4) for each in result.scores],
        "rows_per_s": round(result.rows_per_s) if len(result.seconds) > 1 else None,
    }


def seconds_to_target(curve: dict[str, Any]) -> float:
    """Return the training seconds until the target was reached; infinity if it was not."""
    points = zip(curve.get("seconds", []), curve.get(METRIC, []), strict=True)
    return min((seconds for seconds, score in points if score >= TARGET), default=float("inf"))


def quality_checks(curves: list[dict[str, Any]], limit_s: float) -> list[Check]:
    """Check our time to the target over stock's best; `limit_s` if stock did not reach it."""
    best = {
        subject: min(seconds_to_target(each) for each in curves if each["subject"] == subject)
        for subject in (OURS, STOCK)
    }
    ratio = round(min(best[OURS], 10 * limit_s) / min(best[STOCK], limit_s), 3)
    name = f"seconds to NDCG@10 {TARGET}: ours over the best of stock"
    return [Check(name, ratio, "<=", 0.25)]
