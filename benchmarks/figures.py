"""Tables of the documentation, generated from benchmarks/results/*.json.

python -m benchmarks.figures        fills the tables in README.md and docs/*.md

A page names the table that it wants; the text between the two markers is replaced:

    <!-- figures: speed -->
    <!-- /figures -->
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT
from benchmarks.report import RESULTS

PUBLISHED = Path(__file__).parent / "quality" / "published.json"
BLOCK = re.compile(
    r"^<!-- figures: (?P<name>[^\n]*?) -->\n.*?^<!-- (?P<end>/figures|figures: [^\n]*) -->$",
    re.MULTILINE | re.DOTALL,
)
OPENING = re.compile(r"^<!-- figures: ", re.MULTILINE)
# The cells of the speed measurement that the table shows: wire format, users, clients.
SPEED_CELLS = (
    ("http json", 1, 1),
    ("http json", 1, 16),
    ("http json", 1, 64),
    ("http json", 8, 16),
    ("http binary", 64, 1),
    ("http binary", 256, 1),
    ("http json", 256, 1),
    ("grpc", 1, 1),
    ("grpc", 1, 16),
    ("grpc", 64, 1),
    ("grpc", 256, 1),
)
METRICS = {"recall@10": "Recall", "ndcg@10": "NDCG", "mrr@10": "MRR", "hit@10": "Hit"}
BASELINES = {"ease": "EASE", "itemknn": "ItemKNN", "popularity": "popularity", "random": "random"}


class FiguresError(Exception):
    """A page has a wrong marker."""


def headline() -> str:
    """Test metrics on the frozen split of ML-1M, beside baselines and published models."""
    rows = read("main_job")["rows"]["frozen split"]["metrics"]
    closed_form = "**two-tower, `configs/ml-1m-history.yaml`, answered by the server**"
    softmax = "two-tower, `configs/ml-1m.yaml` (softmax over ids and features)"
    published = json.loads(PUBLISHED.read_text())["full catalogue, 8:1:1 at random"]
    two_stages = "**and a ranking model, `configs/ml-1m-two-stage.yaml`, answered by the server**"
    ranked = read("two_stage")["rows"]["served"]
    seeds = [each for name, each in ranked.items() if name.startswith("frozen, seed")]
    models = {
        closed_form: read("quality")["rows"]["frozen"]["mean"],
        two_stages: {
            metric: sum(seed["towers and ranking model"][metric] for seed in seeds) / len(seeds)
            for metric in METRICS
        },
        softmax: rows["two-tower"],
        **{f"{name}, same split": rows[key] for key, name in BASELINES.items()},
        **{f"published: {name}": metrics for name, metrics in published.items()},
    }
    return table(
        ["test, k = 10", *METRICS.values()],
        (
            [name, *(f"{values[metric]:.4f}".removeprefix("0") for metric in METRICS)]
            for name, values in models.items()
        ),
    )


def speed() -> str:
    """Latency and throughput of the served model and its peers."""
    cells = read("serving")["rows"]["speed"]["cells"]
    subjects = list(dict.fromkeys(cell["subject"] for cell in cells))
    shown = {
        (cell["wire"], cell["batch"], cell["clients"], cell["subject"]): (
            f"{cell['p50_ms']:.2f} / {cell['p99_ms']:.1f}, {cell['requests_per_s']:,.0f}"
        )
        for cell in cells
    }
    return table(
        ["p50 / p99 in ms, requests/s", *subjects],
        (
            [
                f"{wire}, {count(users, 'user')}, {count(clients, 'client')}",
                *(shown.get((wire, users, clients, subject), "") for subject in subjects),
            ]
            for wire, users, clients in SPEED_CELLS
        ),
    )


def training() -> str:
    """Training speed and memory by batch size, and the checks of training."""
    cells = read("training")["rows"]["speed"]["cells"]
    subjects = list(dict.fromkeys(cell["subject"] for cell in cells))
    sizes = sorted({cell["batch_size"] for cell in cells})
    shown = {
        (cell["batch_size"], cell["subject"]): cell.get("failed")
        or f"{cell['rows_per_s']:,}; {cell['peak_gb']:.1f} GB"
        for cell in cells
    }
    speeds = table(
        ["batch", *subjects],
        ([f"{size:,}", *(shown.get((size, each), "") for each in subjects)] for size in sizes),
    )
    return f"{speeds}\n\n{checks('training')}"


def checks(result: str) -> str:
    """The checks in results/<result>.json."""
    return table(
        ["check", "measured", "limit"],
        (
            [
                check["name"],
                f"{round(check['value'], 4):g}",
                check["limit"] + " **does not hold**" * (not check["holds"]),
            ]
            for check in read(result)["checks"]
        ),
    )


def two_stage_lists() -> str:
    """Test metrics of lists before and after the ranking model, beside baselines."""
    rows = read("two_stage")["rows"]
    seeds = [each for name, each in rows["served"].items() if name.startswith("frozen, seed")]
    metrics = ("recall@10", "ndcg@10", "mrr@10", "coverage@10")
    lines = []
    for title, runs in (
        (f"frozen split of ML-1M, mean of {len(seeds)} seeds", seeds),
        ("ML-100K, each user's last positives", [rows["by time"]]),
    ):
        for name in ("popularity", "ease", "towers", "towers and ranking model"):
            means = [sum(run[name][metric] for run in runs) / len(runs) for metric in metrics]
            gains = [run["NDCG@10 gained"] for run in runs] if "ranking" in name else []
            shown = "; ".join(
                f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" for gain in gains
            )
            lines.append([title, name, *(f"{m:.4f}".removeprefix("0") for m in means), shown])
            title = ""
    names = ["Recall@10", "NDCG@10", "MRR@10", "coverage@10"]
    return table(["test", "", *names, "NDCG@10 gained, 95 % interval"], lines)


def live() -> str:
    """Milliseconds of a request by the store of events, and what is added to one without."""
    rows = read("two_stage")["rows"]["live"]
    times, added = rows["p50, ms"], rows["added to p50, ms"]
    cases = list(next(iter(added.values())))
    lines = [["no store", f"{times['no store'][cases[0]]:.2f}", *[""] * (len(cases) - 1)]]
    for name, own in added.items():
        cells = [f"{times[name][case]:.2f} ({own[case]:+.2f})" for case in cases]
        lines.append([name, *cells])
    return table(["store", *cases], lines)


def scale_sizes() -> str:
    """Seconds and memory of each step by the size of synthetic Ali-CCP data."""
    rows = read("scale")["rows"]
    sizes = {name[5:]: row for name, row in rows.items() if name.startswith("size ")}
    sizes = dict(sorted(sizes.items(), key=lambda size: size[1]["interactions"]))
    whole = [
        ("interactions", lambda row: f"{row['interactions']:,}"),
        ("positives", lambda row: f"{row['positives']:,}"),
        ("users, items", lambda row: f"{row['users']:,}, {row['items']:,}"),
        ("raw files", lambda row: f"{row['raw files, GB']:.1f} GB"),
        ("`twotower run`", lambda row: f"{row['seconds of twotower run']:,.0f} s"),
        ("its most memory", lambda row: f"{row['peak resident, GB']['all']:.1f} GB"),
        ("ingest", lambda row: f"{row['ingest, rows/s']:,} rows/s"),
        ("NDCG@10 over popularity's, synthetic", lambda row: f"{row['over popularity']:g}"),
        ("served: p50, one user", lambda row: f"{row['served']['p50, ms']:g} ms"),
        ("served: memory", lambda row: f"{row['served']['resident, GB']:g} GB"),
    ]
    lines = [[title, *(show(row) for row in sizes.values()), ""] for title, show in whole]
    for step, fit in rows.get("growth", {}).items():
        cells = []
        for row in sizes.values():
            memory = row["peak resident, GB"].get(step)
            held = "" if memory is None else f", {memory:.1f} GB"
            cells.append(f"{row['seconds'][step]:,.0f} s{held}")
        lines.append([step, *cells, f"rows to the power {fit['power']:g}: {fit['words']}"])
    return table(["", *sizes, "growth"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "speed": speed,
    "training": training,
    "quality": partial(checks, "quality"),
    "main-job": partial(checks, "main_job"),
    "own-data": partial(checks, "own_data"),
    "faults": partial(checks, "faults"),
    "scale": partial(checks, "scale"),
    "scale-sizes": scale_sizes,
    "two-stage": partial(checks, "two_stage"),
    "two-stage-lists": two_stage_lists,
    "live": live,
    "checks": partial(checks, "serving"),
}


def read(result: str) -> dict[str, Any]:
    """Read results/<result>.json."""
    return json.loads((RESULTS / f"{result}.json").read_text())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [[f" {cell} " if cell else " " for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def count(number: int, noun: str) -> str:
    """Format a number with its noun: "1 user", "8 users"."""
    return f"{number} {noun}" + "s" * (number != 1)


def fill(text: str, page: str) -> str:
    """Replace the tables between the markers of a page.

    Parameters
    ----------
    text : str
        Content of the page.
    page : str
        Its name, for error messages.

    Raises
    ------
    FiguresError
        If a marker names no table or is not closed.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if match["end"] != "/figures":
            raise FiguresError(f"{page}: <!-- figures: {name} --> needs <!-- /figures --> after it")
        if name not in TABLES:
            raise FiguresError(f"{page}: no figures {name!r}; there are {', '.join(TABLES)}")
        return f"<!-- figures: {name} -->\n{TABLES[name]()}\n<!-- /figures -->"

    filled, blocks = BLOCK.subn(block, text)
    if blocks != len(OPENING.findall(text)):
        raise FiguresError(f"{page}: a <!-- figures: ... --> has no <!-- /figures --> after it")
    return filled


def pages() -> list[Path]:
    """List the pages that may have figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Fill the tables of all pages; print the pages that changed."""
    for path in pages():
        text = path.read_text()
        try:
            filled = fill(text, page=path.name)
        except FiguresError as error:
            sys.exit(str(error))
        if filled != text:
            path.write_text(filled)
            print(f"updated {path}")


if __name__ == "__main__":
    main()
