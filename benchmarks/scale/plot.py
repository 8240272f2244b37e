"""Plots of what each step costs by the number of interactions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
COLUMNS = 3


def draw(rows: list[dict[str, Any]], growth: dict[str, dict[str, Any]], out: Path) -> None:
    """Draw one plot for each step: its seconds and its peak resident memory.

    Parameters
    ----------
    rows : list of dict
        The rows of part `sizes`, smallest size first.
    growth : dict
        The fit of each step, see `fits.growth`.
    out : Path
        PNG file.
    """
    steps = list(growth)
    lines = -(-len(steps) // COLUMNS)
    counts = [row["interactions"] for row in rows]
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 2.9 * lines), layout="constrained")
        plots = figure.subplots(lines, COLUMNS).ravel()
        for axes, step in zip(plots, steps, strict=False):
            _draw_step(axes, step, rows, counts)
            axes.set_title(f"{step}: rows to the power {growth[step]['power']:g}", fontsize=10)
        for axes in plots[len(steps) :]:
            axes.axis("off")
        figure.suptitle(
            "Synthetic Ali-CCP, 2 cores: seconds (blue, left) and peak memory in GB (red, right)",
            fontsize=11,
        )
        figure.savefig(out, dpi=130)


def _draw_step(axes: Axes, step: str, rows: list[dict[str, Any]], counts: list[int]) -> None:
    seconds = [row["seconds"][step] for row in rows]
    axes.plot(counts, seconds, marker="o", color="#1b6ca8")
    straight = [seconds[-1] * count / counts[-1] for count in counts]
    axes.plot(counts, straight, color="#1b6ca8", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(counts, [f"{count / 1e6:.1f} M" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "125" else "")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain)
    axes.grid(True, which="major", alpha=0.25)
    memory = [row["peak resident, GB"].get(step) for row in rows]
    if None not in memory:
        right = axes.twinx()
        right.plot(counts, memory, marker="s", color="#b3261e")
        right.set_ylim(0, max(*memory, 1) * 1.2)
