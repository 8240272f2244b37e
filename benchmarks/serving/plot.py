"""Plot of the measured latencies."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.serving.subjects import IDENTITY, MERLIN, OURS, STOCK

COLOURS = {OURS: "#1b6ca8", IDENTITY: "#8a8a8a", MERLIN: "#d98e04", STOCK: "#b3261e"}
PANELS = (
    ("HTTP, one user per request", "http json", "clients"),
    ("HTTP, one client, binary tensors", "http binary", "batch"),
    ("gRPC, one user per request", "grpc", "clients"),
    ("gRPC, one client", "grpc", "batch"),
)
LABELS = {"clients": "concurrent clients", "batch": "users per request"}


def draw(records: list[dict], title: str, out: Path) -> None:
    """Draw median latency by concurrency and by batch size, over HTTP and gRPC.

    Parameters
    ----------
    records : list of dict
        `SpeedResults.records()`.
    title : str
    out : Path
        PNG file.
    """
    with rc_context({"font.size": 10, "axes.spines.top": False}):
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        panels = figure.subplots(2, 2, sharey=True).ravel()
        for axes, (heading, wire, by) in zip(panels, PANELS, strict=True):
            fixed = "batch" if by == "clients" else "clients"
            chosen = [r for r in records if r["wire"] == wire and r[fixed] == 1]
            _panel(axes, heading, by, chosen)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(title, fontsize=12)
        figure.savefig(out, dpi=130)


def _panel(axes: Axes, heading: str, by: str, records: list[dict]) -> None:
    for subject, colour in COLOURS.items():
        points = sorted((r[by], r["p50_ms"]) for r in records if r["subject"] == subject)
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=subject)
    ticks = sorted({r[by] for r in records})
    axes.set(title=heading, xlabel=LABELS[by], ylabel="p50, ms", xscale="log", yscale="log")
    axes.set_xticks(ticks, map(str, ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelleft=True)
    axes.grid(True, which="both", alpha=0.25)
