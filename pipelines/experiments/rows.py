"""The rows of a comparison's table: means and standard deviations over the seeds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from twotower.models.evaluation.popularity import THIRDS
from twotower.pipelines.config import Name
from twotower.pipelines.experiments.comparison import Comparison
from twotower.pipelines.experiments.trial import cutoff

BASELINE = "baseline"
"""The family of the baselines."""


@dataclass(frozen=True)
class Value:
    """The mean over seeds, and the sample standard deviation if there are several."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: list[float]) -> Value:
        """Return mean and standard deviation of the values of one variant."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread)

    def mean_only(self) -> Value:
        """Return the mean without the standard deviation."""
        return Value(self.mean, None)

    def __str__(self) -> str:
        """Return a text such as `.2049 ± .0012`."""
        parts = [self.mean] if self.spread is None else [self.mean, self.spread]
        return " ± ".join(f"{part:.4f}".removeprefix("0") for part in parts)


@dataclass(frozen=True)
class Row:
    """The results of a variant or baseline.

    Attributes
    ----------
    values : dict of Value
        By column, see `columns`; empty if all trainings failed.
    seconds : Value, optional
        Time of fitting, without validation.
    epochs : Value, optional
        The best epoch.
    curves : list of dict
        One per seed, see `trial.measure`.
    failed : int
        Number of failed trainings.
    """

    name: str
    family: str
    about: str
    values: dict[str, Value]
    seconds: Value | None = None
    epochs: Value | None = None
    curves: list[dict[str, list[float]]] = field(default_factory=list)
    failed: int = 0


def columns(monitor: str) -> list[str]:
    """Return the columns as "part metric"; the rows are ordered by the first."""
    k = cutoff(monitor)
    metrics = dict.fromkeys([monitor, f"recall@{k}", f"ndcg@{k}"])
    metrics |= dict.fromkeys(f"{third}_recall@{k}" for third in THIRDS)
    metrics |= dict.fromkeys([f"coverage@{k}", f"popularity@{k}"])
    return [f"valid {monitor}", *(f"test {metric}" for metric in metrics)]


def rows(comparison: Comparison) -> list[Row]:
    """Return a row per variant and baseline, the best on valid first and failed ones last."""
    names = dict.fromkeys(outcome.row for outcome in comparison.outcomes)
    found = [_row(name, comparison) for name in names]
    first = columns(comparison.monitor)[0]
    return sorted(found, key=lambda row: -row.values[first].mean if row.values else math.inf)


def _row(name: str, comparison: Comparison) -> Row:
    outcomes = [outcome for outcome in comparison.outcomes if outcome.row == name]
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    variant = comparison.plan.variants.get(Name(name))
    values = {}
    for column in columns(comparison.monitor) if results else ():
        part, metric = column.split(" ")
        # Recall in a third does not exist if no user has an item in it.
        if measured := [result[part][metric] for result in results if metric in result[part]]:
            values[column] = Value.of(measured)
    epochs = [result["best_epoch"] for result in results if "best_epoch" in result]
    return Row(
        name=name,
        family=variant.family if variant else BASELINE,
        about=variant.about if variant else "",
        values=values,
        seconds=Value.of([result["seconds"] for result in results]) if results else None,
        epochs=Value.of(epochs) if epochs else None,
        curves=[result["curve"] for result in results if "curve" in result],
        failed=len(outcomes) - len(results),
    )


def headings(monitor: str) -> list[str]:
    """Return the headings of the table; `cells` returns a row of it."""
    metrics = [column.replace("_", " ") for column in columns(monitor)]
    return ["model", "family", *metrics, "best epoch", "seconds"]


def cells(row: Row, monitor: str) -> list[str]:
    """Return a row of the table as text."""
    if not row.values:
        return [row.name, row.family, "failed", *[""] * (len(headings(monitor)) - 3)]
    values = [str(row.values.get(column, "")) for column in columns(monitor)]
    epochs = f"{row.epochs.mean:.0f}" if row.epochs else ""
    name = f"{row.name} ({row.failed} failed)" if row.failed else row.name
    seconds = f"{row.seconds.mean:.1f}" if row.seconds else ""
    return [name, row.family, *values, epochs, seconds]
