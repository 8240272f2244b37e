"""The plots of a comparison: a row or line per variant, or a panel per family of variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.models.evaluation.popularity import THIRDS
from twotower.pipelines.experiments.rows import Row
from twotower.pipelines.experiments.trial import cutoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "reference"
"""The family that is shown in every panel, as the baselines are."""
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
COLOURS = ("#1b6ca8", "#d98e04", "#b3261e", "#3f7d20", "#6a4c93", "#17a398", "#c05299", "#7f5539")
MARKERS = "os^Dv<>PX"
GREY, BLACK = "#8a8a8a", "#222222"
SHADES = ("#1b6ca8", "#72a7cf", "#d98e04")  # head, middle, tail
WIDTH, LINE, PANEL = 11, 0.21, 3.6  # inches: plot width, height of a row, height of a panel
MIN_SECONDS = 0.1  # popularity takes almost no time, and the scale is logarithmic


def plot_all(rows: list[Row], monitor: str, title: str, folder: Path) -> list[Path]:
    """Write the PNGs into `folder` and return their paths; plots without data are left out."""
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
                figure = Figure(figsize=(WIDTH, PANEL), layout="constrained")
                draw(figure)
                figure.suptitle(title, fontsize=11)
                figure.savefig(path, dpi=130)
            written.append(path)
    return written


def _panels(figure: Figure, rows: list[Row]) -> Iterator[tuple[Axes, Row, dict[str, str]]]:
    """Yield the axes of each row and its style.

    There is a panel per family. Baselines and the family `reference` are in every panel. Within a
    family each variant has its own colour and marker; baselines are grey.
    """
    greys = cycle([{"color": GREY, "marker": m} for m in MARKERS])
    common = [
        (row, {"color": BLACK, "marker": "*"} if row.curves else next(greys))
        for row in rows
        if row.family == REFERENCE or not row.curves
    ]
    others = [row for row in rows if row.family != REFERENCE and row.curves]
    families = list(dict.fromkeys(row.family for row in others)) or [""]
    across = min(2, len(families))
    down = ceil(len(families) / across)
    figure.set_size_inches(WIDTH, max(1.5, down) * PANEL)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
    # The families first: otherwise `zip` would take an axes too many from the grid, whose rest is
    # removed below.
    for family, axes in zip(families, grid, strict=False):
        axes.set_title(family, fontsize=10, loc="left")
        looks = cycle([{"color": c, "marker": m} for m in MARKERS for c in COLOURS])
        for row, look in common:
            yield axes, row, look
        for row in others:
            if row.family == family:
                yield axes, row, next(looks)
        axes.grid(True, which="major", alpha=0.25)
        axes.tick_params(labelbottom=True)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1.05), frameon=False, fontsize=8)
    for axes in grid:
        axes.remove()


def _quality(figure: Figure, rows: list[Row], monitor: str) -> None:
    column = f"test {monitor}"
    for axes, row, look in _panels(figure, rows):
        value, seconds = row.values[column], row.seconds
        assert seconds is not None  # as for every row with values
        axes.errorbar(
            x=max(seconds.mean, MIN_SECONDS),
            y=value.mean,
            yerr=value.spread,
            xerr=seconds.spread,
            **look,
            linestyle="none",
            ms=5,
            capsize=2,
            label=row.name,
        )
        axes.set(xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
    figure.supxlabel(f"seconds of fitting, at least {MIN_SECONDS}", fontsize=10)
    figure.supylabel(column, fontsize=10)


def _curves(figure: Figure, rows: list[Row], monitor: str) -> None:
    for axes, row, look in _panels(figure, rows):
        for n, curve in enumerate(row.curves):
            label = None if n else row.name
            axes.plot(curve["seconds"], curve[monitor], **look, ms=3, lw=1, label=label)
    for axes in figure.axes:  # after all lines: setting a limit ends the automatic scaling
        axes.set_xlim(left=0)
    figure.supxlabel("seconds of fitting", fontsize=10)
    figure.supylabel(f"valid {monitor}", fontsize=10)


def _thirds(figure: Figure, rows: list[Row], k: int) -> None:
    axes = figure.subplots()
    for third, colour in zip(THIRDS, SHADES, strict=True):
        column = f"test {third}_recall@{k}"
        found = [(n, row.values[column]) for n, row in enumerate(rows) if column in row.values]
        axes.errorbar(
            [value.mean for _, value in found],
            [n for n, _ in found],
            xerr=[value.spread or 0 for _, value in found],
            color=colour,
            marker="o",
            ms=5,
            linestyle="none",
            label=third,
        )
    _names(figure, axes, rows)
    axes.set(xlabel=f"test recall@{k}")
    axes.set_xlim(left=0)
    axes.grid(True, alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)


def _diversity(figure: Figure, rows: list[Row], k: int) -> None:
    grid = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(grid, ("coverage", "popularity"), strict=True):
        values = [row.values[f"test {metric}@{k}"] for row in rows]
        axes.barh(
            range(len(rows)),
            [value.mean for value in values],
            0.7,
            xerr=[value.spread or 0 for value in values],
            color=[COLOURS[0] if row.curves else GREY for row in rows],
            error_kw={"elinewidth": 1},
        )
        axes.set(xlabel=f"test {metric}@{k}", xlim=(0, 1))
        axes.grid(True, axis="x", alpha=0.25)
    _names(figure, grid[0], rows)


def _names(figure: Figure, axes: Axes, rows: list[Row]) -> None:
    """Label a line for each row, the best at the top."""
    figure.set_size_inches(WIDTH, max(PANEL, 1.2 + LINE * len(rows)))
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
