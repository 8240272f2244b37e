"""Accuracy of the served towers beside EASE and popularity, and the default comparisons.

Every part takes the folder with ml-1m/ and ml-100k/ and returns rows and checks.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from scipy.sparse import csr_matrix

from benchmarks.quality.served import served_ranker
from benchmarks.report import Check, Rows
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.experiments.compare import compare
from twotower.pipelines.experiments.rows import rows as report_rows
from twotower.pipelines.job import main_job
from twotower.pipelines.run import Run

if TYPE_CHECKING:
    from twotower.models.evaluation.ranking import Ranker, Scorer

SEEDS, FRESH_SPLITS = (42, 43, 44), (1, 2)
WHOLE_CATALOGUE = "serving.max_k=10000"
METRICS = ("recall@10", "ndcg@10", "mrr@10", "hit@10", "coverage@10")
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())


@contextlib.contextmanager
def finished_run(
    name: str, data: Path, overrides: tuple[str, ...], refit: bool = False
) -> Iterator[Run]:
    """Run the main job of configs/<name>.yaml in a temporary folder."""
    click.echo(f"{name} {' '.join(overrides)}")
    config = load_config(CONFIGS / f"{name}.yaml", (*overrides, WHOLE_CATALOGUE), data)
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        os.chdir(folder)  # the main job writes the name of the last run to this folder
        try:
            yield main_job(config, Path(folder) / "runs" / name, refit=refit)
        finally:
            os.chdir(before)


def metrics_on_test(run: Run) -> dict[str, dict[str, float]]:
    """Compute test metrics of the baselines, and of the served model as "two-tower, served"."""
    values = {
        name: each
        for name, each in run.notes("evaluate")["metrics"].items()
        if name not in ("two-tower", "random")
    }
    with served_ranker(run) as ranker:
        values["two-tower, served"] = Evaluator(run, "test").evaluate(ranker).values
    return {name: {key: each[key] for key in METRICS} for name, each in values.items()}


def training_notes(run: Run) -> dict[str, Any]:
    """Read training seconds, validation metric and split of a run."""
    notes = run.notes("train")
    return {
        "training, s": round(run.manifest["steps"]["train"]["seconds"], 1),
        "valid ndcg@10": notes["valid_ndcg@10"],
        "split": run.notes("preprocess")["split"]["protocol"],
    }


def frozen_split(data: Path) -> tuple[str, ...]:
    """Return the settings of the frozen split in the data folder."""
    split = data / "ml-1m" / "recbole_split.parquet"
    return ("split.method=file", f"split.path={split}", "split.k_core=0")


def frozen(data: Path) -> tuple[Rows, list[Check]]:
    """Measure three seeds on the frozen split of ML-1M."""
    rows: Rows = {}
    for seed in SEEDS:
        overrides = (*frozen_split(data), f"training.seed={seed}")
        with finished_run("ml-1m-history", data / "ml-1m", overrides) as run:
            rows[f"seed {seed}"] = {"metrics": metrics_on_test(run), **training_notes(run)}
    ours = [row["metrics"]["two-tower, served"] for row in rows.values()]
    mean = {name: float(np.mean([each[name] for each in ours])) for name in METRICS}
    rows["mean"] = mean
    slowest = max(row["training, s"] for name, row in rows.items() if name != "mean")
    return {"frozen": rows}, [
        Check("frozen split: recall@10, served", round(mean["recall@10"], 4), ">=", 0.2115),
        Check("frozen split: ndcg@10, served", round(mean["ndcg@10"], 4), ">=", 0.2870),
        Check("frozen split: recall@10 over the best published", mean["recall@10"], ">=", 0.2163),
        Check("frozen split: ndcg@10 over the best published", mean["ndcg@10"], ">=", 0.2904),
        Check("frozen split: training, seconds", slowest, "<=", 900),
    ]


def fresh(data: Path) -> tuple[Rows, list[Check]]:
    """Measure the same configuration and EASE on splits of other seeds."""
    rows: Rows = {}
    checks = []
    for seed in FRESH_SPLITS:
        with finished_run("ml-1m-history", data / "ml-1m", (f"split.seed={seed}",)) as run:
            metrics = metrics_on_test(run)
            rows[f"split {seed}"] = {"metrics": metrics, **training_notes(run)}
        for name in ("recall@10", "ndcg@10"):
            over = metrics["two-tower, served"][name] - metrics["ease"][name]
            checks.append(Check(f"split {seed}: {name} over EASE's", round(over, 4), ">=", 0))
    return {"fresh": rows}, checks


def tutorial(data: Path) -> tuple[Rows, list[Check]]:
    """Measure top-100 accuracy on ML-100K as in TFRS's tutorial: all ratings, 20 % test at random.

    A tenth of the tutorial's train part is the valid part here.
    """
    from twotower.models.evaluation.baselines import EASE, Popularity

    overrides = ("positives.at_least=1", "split.ratios=[0.72,0.08,0.2]", "split.k_core=0")
    with finished_run("ml-100k-history", data / "ml-100k", overrides) as run:
        evaluator = Evaluator(run, "test")
        nothing = csr_matrix(evaluator.train.shape, dtype=bool)
        with served_ranker(run) as ranker:
            models: dict[str, Scorer | Ranker] = {
                "two-tower, served": ranker,
                "ease": EASE().fit(evaluator.train),
                "popularity": Popularity().fit(evaluator.train),
            }
            rows = {
                name: {
                    "train items not masked": accuracy(each, evaluator.relevant, nothing),
                    "train items masked": accuracy(each, evaluator.relevant, evaluator.train),
                }
                for name, each in models.items()
            }
        protocol = run.notes("preprocess")["split"]["protocol"]
    ours = rows["two-tower, served"]
    return {"tutorial": {"top-100 accuracy": rows, "split": protocol}}, [
        Check(
            "ML-100K, TFRS protocol: top-100 accuracy, train items not masked",
            round(ours["train items not masked"], 4),
            ">=",
            0.28,
        )
    ]


def accuracy(
    scorer: Scorer | Ranker, relevant: csr_matrix, masked: csr_matrix, k: int = 100
) -> float:
    """Compute top-k accuracy: the share of relevant interactions whose item is in the top k.

    Parameters
    ----------
    scorer : Scorer or Ranker
    relevant, masked : csr_matrix of bool, shape (n_users, n_items)
        The interactions to find, and the items that are left out per user.
    k : int
    """
    from twotower.models.evaluation.ranking import binary, is_relevant, rank_in_batches

    relevant, everything = binary(relevant), np.ones(relevant.shape[1], bool)
    users = np.flatnonzero(np.diff(relevant.indptr))
    hits = sum(
        int(is_relevant(relevant[batch], ranked).sum())
        for batch, ranked in rank_in_batches(scorer, users, masked, k, everything, batch_size=1024)
    )
    return hits / relevant.nnz


def last_out(data: Path) -> tuple[Rows, list[Check]]:
    """Measure ML-1M with each user's last rating as test, all ratings positive; no limits."""
    overrides = ("positives.at_least=1", "split.method=leave_last_out", "split.k_core=5")
    with finished_run("ml-1m-history", data / "ml-1m", overrides) as run:
        row = {
            "metrics": metrics_on_test(run),
            "published": PUBLISHED["full catalogue, leave last out"],
            **training_notes(run),
        }
    return {"last out": row}, []


def grids(data: Path) -> tuple[Rows, list[Check]]:
    """Run the default comparisons, except what has been run before; write reports to docs/."""
    rows: Rows = {}
    checks = []
    plan = (("ml-100k", 24, ()), ("ml-1m", 10, frozen_split(data)))
    for name, min_variants, overrides in plan:
        file = CONFIGS / "compare" / f"{name}.yaml"
        found = compare(file, data / name, Path("docs"), overrides)
        lines = report_rows(found)
        done = [row for row in lines if row.curves and not row.failed]
        rows[name] = {
            row.name: {column: str(value) for column, value in row.values.items()} for row in lines
        }
        min_seeds = min((len(row.curves) for row in done), default=0)
        checks += [
            Check(f"{name} grid: variants", len(done), ">=", min_variants),
            Check(f"{name} grid: variants not done", len(found.plan.variants) - len(done), "==", 0),
            Check(f"{name} grid: seeds per variant", min_seeds, ">=", 3),
            Check(f"{name} grid: runs that failed", len(found.failed), "==", 0),
        ]
    return {"grids": rows}, checks
