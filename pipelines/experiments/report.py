"""The report of a comparison: table, plots and one HTML page, with means over the seeds."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from twotower.pipelines.console import console
from twotower.pipelines.experiments.comparison import Comparison, Outcome
from twotower.pipelines.experiments.plots import plot_all
from twotower.pipelines.experiments.rows import cells, columns, headings, rows
from twotower.pipelines.experiments.trial import cutoff
from twotower.pipelines.run import versions

TABLE, PAGE, ROWS = "table.md", "report.html", "rows.json"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
SYNTHETIC = "SYNTHETIC DATA: these numbers say nothing about real people"


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
