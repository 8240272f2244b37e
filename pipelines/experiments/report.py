"""The report of a comparison: table, plots and one HTML page, with means over the seeds."""

from __future__ import annotations

import base64
import json
import math
import shutil
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from twotower.models.evaluation.popularity import THIRDS
from twotower.pipelines.config import Name
from twotower.pipelines.console import console
from twotower.pipelines.experiments.compare import Comparison, Outcome
from twotower.pipelines.experiments.report_plots import plot_all
from twotower.pipelines.experiments.trial import cutoff
from twotower.pipelines.run import versions

TABLE, PAGE, ROWS = "table.md", "report.html", "rows.json"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
BASELINE = "baseline"
SYNTHETIC = "SYNTHETIC DATA: these numbers say nothing about real people"


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


def note(comparison: Comparison) -> str:
    """Return a sentence that explains the columns."""
    seeds = len(comparison.plan.seeds)
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{spread}; ordered by valid {comparison.monitor}, which also chose the epoch; head, "
        "middle and tail are groups of items, from popular to rare, with a third of the training "
        "interactions each; popularity is the mean popularity percentile of the recommended items, "
        "0.5 for random ones; seconds are the time of fitting, without validation"
    )


def show(comparison: Comparison) -> None:
    """Print the columns of the table that fit into 80 characters, and the reasons of failures."""
    title = f"{SYNTHETIC}\n" if comparison.synthetic else ""
    table = Table(title=escape(f"{title}{comparison.plan.name}: {comparison.protocol}"), box=None)
    chosen, monitored = columns(comparison.monitor)[:2]
    k = cutoff(comparison.monitor)
    others = (f"tail_recall@{k}", f"coverage@{k}")
    table.add_column("model", no_wrap=True)
    for heading in (chosen, monitored, *others, "seconds"):
        heading = heading.removeprefix("test ").replace("_", " ")
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows(comparison):
        shown = [row.values.get(chosen), row.values.get(monitored)]
        shown += [row.values.get(f"test {metric}") for metric in others]
        texts = [str(v if n == 1 else v.mean_only()) if v else "" for n, v in enumerate(shown)]
        seconds = f"{row.seconds.mean:.1f}" if row.seconds else "failed"
        table.add_row(escape(row.name), *texts, seconds)
    console.print(table, soft_wrap=False)
    console.print(note(comparison))
    for outcome in comparison.failed:
        what, why = _failure(outcome)
        console.print(f"[bold red]{what}[/]: {escape(why)}")


def _failure(outcome: Outcome) -> tuple[str, str]:
    seed = "" if outcome.seed is None else f", seed {outcome.seed}"
    return f"{outcome.row}{seed} failed", outcome.reason


def markdown(comparison: Comparison, pictures: Iterable[str] = ()) -> str:
    """Return the table as Markdown, with links to the plots below it."""
    plan, heads = comparison.plan, headings(comparison.monitor)

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    table = [line(heads), "|" + "---|" * len(heads)]
    table += [line(cells(row, comparison.monitor)) for row in rows(comparison)]
    variants = [f"- **{name}**: {v.about}" for name, v in plan.variants.items() if v.about]
    failures = ["- {}: {}".format(*_failure(outcome)) for outcome in comparison.failed]
    parts = [
        f"# {plan.name}",
        plan.about,
        f"**{SYNTHETIC}.**" if comparison.synthetic else "",
        f"{comparison.protocol}; {note(comparison)}.",
        "\n".join(table),
        "\n".join(variants),
        "\n".join(failures),
        *(f"![{Path(name).stem}]({name})" for name in pictures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(comparison: Comparison, pictures: list[Path]) -> str:
    """Return the report as one HTML page that needs no other file."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        TEMPLATE.read_text()
    )
    found = rows(comparison)
    return template.render(
        plan=comparison.plan,
        shared={key: _shown(key, value) for key, value in comparison.plan.set.items()},
        protocol=comparison.protocol,
        synthetic=SYNTHETIC if comparison.synthetic else "",
        note=note(comparison),
        headings=headings(comparison.monitor),
        rows=[(row, cells(row, comparison.monitor)) for row in found],
        failures=[_failure(outcome) for outcome in comparison.failed],
        pictures=[(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in pictures],
        commits=sorted({outcome.commit for outcome in comparison.outcomes if outcome.commit}),
        versions=versions(),
    )


def _shown(key: str, value: Any) -> Any:
    """Return a setting as it may be published: a path is reduced to the name of the file."""
    return Path(value).name if key.endswith("path") and value else value


def write_report(comparison: Comparison, folder: Path, docs: Path | None = None) -> Path:
    """Write the report.

    Parameters
    ----------
    comparison : Comparison
    folder : Path
        For table.md, rows.json, the plots and report.html.
    docs : Path, optional
        The table and the plots, which are small enough to be committed, are copied to its subfolder
        <name>.

    Returns
    -------
    Path
        That of report.html.
    """
    found = rows(comparison)
    pictures = plot_all(found, comparison.monitor, comparison.plan.name, folder)
    (folder / TABLE).write_text(markdown(comparison, [picture.name for picture in pictures]))
    (folder / ROWS).write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    (folder / PAGE).write_text(page(comparison, pictures))
    if docs is not None:
        copies = docs / comparison.plan.name
        copies.mkdir(parents=True, exist_ok=True)
        for path in (folder / TABLE, *pictures):
            shutil.copy(path, copies)
    return folder / PAGE
