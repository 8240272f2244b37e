"""Plots of training speed, of memory and of quality over training time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.training.process import METRIC, NO_LISTS, OURS, STOCK, TFRS, TFRS_XLA
from benchmarks.training.summary import TARGET, seconds_to_target

LINES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#1b6ca8", "linestyle": "-"},
    NO_LISTS: {"color": "#1b6ca8", "linestyle": "--"},
    STOCK: {"color": "#b3261e", "linestyle": "-"},
    TFRS: {"color": "#d98e04", "linestyle": "-"},
    TFRS_XLA: {"color": "#d98e04", "linestyle": "--"},
}
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def draw_speed(records: list[dict[str, Any]], title: str, out: Path) -> None:
    """Draw rows/s and peak resident memory by batch size, both axes logarithmic.

    Parameters
    ----------
    records : list of dict
        `SpeedResults.records()`.
    title : str
    out : Path
        PNG file.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        rows, memory = figure.subplots(1, 2)
        _by_batch(rows, records, "rows_per_s", "training rows per second")
        _by_batch(memory, records, "peak_gb", "peak resident memory, GB")
        handles, labels = rows.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(title, fontsize=11)
        figure.savefig(out, dpi=130)


def _by_batch(axes: Axes, records: list[dict[str, Any]], field: str, label: str) -> None:
    for subject, line in LINES.items():
        points = sorted(
            (r["batch_size"], r[field]) for r in records if r["subject"] == subject and field in r
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=subject, **line)
    ticks = sorted({r["batch_size"] for r in records})
    axes.set(xlabel="batch size", ylabel=label, xscale="log", yscale="log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    _label(axes.yaxis)
    axes.grid(True, which="both", alpha=0.25)


def _label(axis: Axis) -> None:
    """Label an axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    formatter = FuncFormatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "125" else "")
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(formatter)


def draw_quality(curves: list[dict[str, Any]], title: str, out: Path) -> None:
    """Draw NDCG@10 on test by training seconds: each subject's best curve per batch size.

    Parameters
    ----------
    curves : list of dict
        Results of `summary.curve`.
    title : str
    out : Path
        PNG file.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.subplots()
        markers: dict[int | None, str] = {}
        for each in _best(curves):
            size = each.get("batch_size")
            marker = markers.setdefault(size, "os^D"[len(markers)])
            label = each["subject"]
            if size:
                label += f", batch {size:,}, rate {each['learning_rate']:g}"
            line = LINES[each["subject"]]
            axes.plot(each["seconds"], each[METRIC], marker=marker, ms=4, label=label, **line)
        axes.axhline(TARGET, color="#8a8a8a", lw=1, ls=":")
        axes.set(xlabel="training seconds", ylabel="NDCG@10 on test", xscale="log")
        _label(axes.xaxis)
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
        axes.set_title(title, fontsize=11)
        figure.savefig(out, dpi=130)


def _best(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select for each subject and batch size the curve that reached the target first.

    If none did, select the one with the highest score.
    """
    found: dict[tuple, dict[str, Any]] = {}
    for each in curves:
        key = each["subject"], each.get("batch_size")
        if METRIC in each and (key not in found or _order(each) < _order(found[key])):
            found[key] = each
    return list(found.values())


def _order(curve: dict[str, Any]) -> tuple[float, float]:
    return seconds_to_target(curve), -max(curve[METRIC])
