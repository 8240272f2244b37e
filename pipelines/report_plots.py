"""The plots of a comparison: each variant has one colour and marker in all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from models.popularity import THIRDS
from pipelines.trial import cutoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipelines.report import Row

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
COLOURS = ("#1b6ca8", "#d98e04", "#b3261e", "#3f7d20", "#6a4c93", "#17a398", "#c05299", "#7f5539")
MARKERS = "os^Dv<>PX"
GREY = "#8a8a8a"
SHADES = ("#1b6ca8", "#72a7cf", "#d98e04")  # head, middle, tail


def plot_all(rows: list[Row], monitor: str, title: str, folder: Path) -> list[Path]:
    """Write the PNGs into `folder`; a plot that has nothing to show is left out."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    done = [row for row in rows if row.values]
    plots: list[tuple[str, Callable[[Figure], None], bool]] = [
        ("quality", lambda figure: _quality(figure, done, monitor), bool(done)),
        ("thirds", lambda figure: _thirds(figure, done, cutoff(monitor)), bool(done)),
        ("diversity", lambda figure: _diversity(figure, done, cutoff(monitor)), bool(done)),
        ("curves", lambda figure: _curves(figure, done, monitor), any(r.curves for r in done)),
    ]
    written = []
    for name, draw, wanted in plots:
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)
        if wanted:
            with rc_context(STYLE):
                figure = Figure(figsize=(10, 4.8), layout="constrained")
                draw(figure)
                figure.suptitle(title, fontsize=11)
                figure.savefig(path, dpi=130)
            written.append(path)
    return written


def _styles(rows: list[Row]) -> dict[str, dict[str, str]]:
    """A colour and a marker by name; baselines are grey."""
    looks = cycle([{"color": c, "marker": m} for m in MARKERS for c in COLOURS])
    greys = cycle([{"color": GREY, "marker": m} for m in MARKERS])
    return {row.name: next(looks if row.curves else greys) for row in rows}


def _quality(figure: Figure, rows: list[Row], monitor: str) -> None:
    axes, column, looks = figure.subplots(), f"test {monitor}", _styles(rows)
    for row in rows:
        value = row.values[column]
        axes.errorbar(
            *(max(row.seconds.mean, 1e-3), value.mean, value.spread, row.seconds.spread),
            **looks[row.name],
            linestyle="none",
            capsize=3,
            label=row.name,
        )
    axes.set(xlabel="seconds of fitting", ylabel=column, xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="major", alpha=0.25)
    _legend(figure, axes)


def _thirds(figure: Figure, rows: list[Row], k: int) -> None:
    axes, width = figure.subplots(), 0.8 / len(THIRDS)
    for place, (third, colour) in enumerate(zip(THIRDS, SHADES, strict=True)):
        column = f"test {third}_recall@{k}"
        offset = width * (place - (len(THIRDS) - 1) / 2)
        bars = [
            (n + offset, row.values[column]) for n, row in enumerate(rows) if column in row.values
        ]
        axes.bar(
            [x for x, _ in bars],
            [value.mean for _, value in bars],
            width,
            yerr=[value.spread or 0 for _, value in bars],
            color=colour,
            label=third,
            error_kw={"elinewidth": 1},
        )
    _names(axes, rows)
    axes.set(ylabel=f"test recall@{k}")
    axes.grid(True, axis="y", alpha=0.25)
    _legend(figure, axes)


def _diversity(figure: Figure, rows: list[Row], k: int) -> None:
    for axes, metric in zip(figure.subplots(1, 2), ("coverage", "popularity"), strict=True):
        values = [row.values[f"test {metric}@{k}"] for row in rows]
        axes.bar(
            range(len(rows)),
            [value.mean for value in values],
            0.7,
            yerr=[value.spread or 0 for value in values],
            color=[COLOURS[0] if row.curves else GREY for row in rows],
            error_kw={"elinewidth": 1},
        )
        _names(axes, rows)
        axes.set(ylabel=f"test {metric}@{k}", ylim=(0, 1))
        axes.grid(True, axis="y", alpha=0.25)


def _curves(figure: Figure, rows: list[Row], monitor: str) -> None:
    axes, looks = figure.subplots(), _styles(rows)
    for row in rows:
        for n, curve in enumerate(row.curves):
            label = None if n else row.name
            axes.plot(curve["seconds"], curve[monitor], **looks[row.name], ms=3, lw=1, label=label)
    axes.set(xlabel="seconds of fitting", ylabel=f"valid {monitor}")
    axes.set_xlim(left=0)
    axes.grid(True, alpha=0.25)
    _legend(figure, axes)


def _names(axes: Axes, rows: list[Row]) -> None:
    axes.set_xticks(range(len(rows)), [row.name for row in rows], rotation=35, ha="right")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
