"""Command line of the benchmark of large data.

    make bench-scale [PARTS='index ...']

All data is synthetic. Part `sizes` needs 60 GB of disk and two hours; --size chooses some of its
sizes. Writes its figures to results/scale.json and draws results/scale.png.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.report import RESULTS, Check, Part, Rows, measure_parts
from benchmarks.scale.convert import measure_convert
from benchmarks.scale.evaluation import measure_evaluation
from benchmarks.scale.index import measure_index, measure_served_index
from benchmarks.scale.plot import draw
from benchmarks.scale.preprocess import measure_encode, measure_workers
from benchmarks.scale.sizes import (
    MAX_GB,
    REAL_ROWS,
    ROWS_PER_SECOND,
    SIZES,
    growths,
    sizes,
)
from benchmarks.scale.trained_index import trained_index
from benchmarks.scale.training import measure_epoch, measure_step_time
from twotower.pipelines.cli import quiet

RESULT = "scale"
PARTS = (
    "sizes",
    "convert",
    "index",
    "trained_index",
    "served_index",
    "evaluation",
    "training",
    "preprocess",
)
TRAINED_ITEMS, ALL_ITEMS, DIM = 568_847, 3_078_306, 64
"""Items with a click in the real Ali-CCP, all of its items, and the length of a vector."""
WEAK_CENTRES = 6_156
"""So many that half of the nearest items are near by chance: a set without much structure."""
FASTER = {TRAINED_ITEMS: 10, ALL_ITEMS: 20}
"""How many times faster than an exact search an index must be."""


def convert(folder: Path) -> tuple[Rows, list[Check]]:
    """Convert raw files of a quarter of the real size to parquet."""
    row = measure_convert(REAL_ROWS // 4, folder)
    return {"convert": row}, [
        Check("raw files to parquet, rows/s", row["rows/s"], ">=", ROWS_PER_SECOND),
        Check("raw files to parquet: resident, GB", row["resident peak, GB"], "<=", MAX_GB),
        Check("rate of the last tenth over the first", row["last tenth over first"], ">=", 0.8),
    ]


def index(folder: Path) -> tuple[Rows, list[Check]]:
    """Measure an approximate index at both sizes of the catalogue."""
    rows: Rows = {}
    checks = []
    for items, limit in FASTER.items():
        name = f"index of {items:,} items"
        row = rows[name] = measure_index(items, DIM, folder / "index")
        checks += [
            Check(f"{name}: recall@100", row["recall@100"], ">=", 0.95),
            Check(f"{name}: times faster than flat", row["times faster than flat"], ">=", limit),
            Check(f"{name}: memory over vectors", row["memory over float vectors"], "<=", 0.5),
        ]
    name = f"index of {ALL_ITEMS:,} weakly clustered items"
    rows[name] = measure_index(ALL_ITEMS, DIM, folder / "index", count=WEAK_CENTRES)
    return rows, checks


def served_index(folder: Path) -> tuple[Rows, list[Check]]:
    """Ask Triton for lists from an approximate index."""
    name = f"served index of {TRAINED_ITEMS:,} items"
    row = measure_served_index(TRAINED_ITEMS, folder / "served")
    different = row["answers"] - row["equal to the index directly"]
    return {name: row}, [
        Check(f"{name}: answers unlike the index searched directly", different, "==", 0),
        Check(f"{name}: p50 over a small model's", row["p50 over small model"], "<=", 2),
    ]


def evaluation() -> tuple[Rows, list[Check]]:
    """Evaluate 200,000 users on the whole catalogue."""
    row = measure_evaluation(items=TRAINED_ITEMS, dim=DIM)
    return {"evaluation": row}, [
        Check("evaluation: seconds over faiss.knn", row["ratio"], "<=", 2),
        Check("evaluation: memory added, GB", row["added by evaluation, GB"], "<=", 0.5),
    ]


def training() -> tuple[Rows, list[Check]]:
    """Train an epoch over as many clicks as the real set has, and compare the time of steps."""
    epoch, step = measure_epoch(items=TRAINED_ITEMS), measure_step_time(items=TRAINED_ITEMS)
    own = measure_step_time(items=TRAINED_ITEMS, same_batches=False)
    rows = {"epoch": epoch, "step": step, "step, each with its own batches": own}
    return rows, [
        Check("epoch over 1.6 M clicks: resident, GB", epoch["resident peak, GB"], "<=", MAX_GB),
        Check("step over that of a tenth of the vocabulary", step["ratio"], "<=", 1.2),
    ]


def preprocess(folder: Path) -> tuple[Rows, list[Check]]:
    """Encode 18 columns, and share preprocessing between two workers."""
    encode, workers = measure_encode(), measure_workers(folder=folder)
    few = measure_workers(10_000_000, 200_000, folder)
    rows = {"encode": encode, "workers": workers, "workers, few rows": few}
    return rows, [
        Check("encode 18 columns, rows/s", encode["rows/s"], ">=", 60_000),
        Check("encode: codes equal NVTabular's", encode["equal"], "==", 1),
        Check("two workers: times as fast as one process", workers["ratio"], ">=", 1.2),
        Check("two workers: the same result", workers["equal"], "==", 1),
    ]


def draw_sizes() -> None:
    """Draw what the result file has on the sizes, if it has several, and note how costs grow."""
    path = RESULTS / f"{RESULT}.json"
    record = json.loads(path.read_text())
    rows = [row for name in SIZES if (row := record["rows"].get(f"size {name}"))]
    if len(rows) > 1:
        record["rows"]["growth"] = growths(rows)
        path.write_text(json.dumps(record, indent=1) + "\n")
        draw(rows, record["rows"]["growth"], RESULTS / f"{RESULT}.png")


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
@click.option("--size", "names", multiple=True, type=click.Choice(list(SIZES)))
@click.option("--work", type=click.Path(path_type=Path, exists=True), help="Folder for the data.")
def main(parts: tuple[str, ...], names: tuple[str, ...], work: Path | None) -> None:
    """Measure the parts (default: all) one after another, on an idle machine."""
    quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="two-tower-", dir=work) as name:
        folder = Path(name)
        measures: dict[str, Part] = {
            "sizes": lambda: sizes(folder, names or tuple(SIZES)),
            "convert": lambda: convert(folder),
            "index": lambda: index(folder),
            "trained_index": lambda: trained_index(folder),
            "served_index": lambda: served_index(folder),
            "evaluation": evaluation,
            "training": training,
            "preprocess": lambda: preprocess(folder),
        }
        measure_parts(RESULT, {part: measures[part] for part in parts or PARTS})
    draw_sizes()


if __name__ == "__main__":
    main()
