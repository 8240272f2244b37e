"""How good the most accurate towers are, answered by a served index, beside EASE and popularity.

And the default comparisons, with their reports in docs/, and how fast all of them are ranked.

python -m benchmarks.quality --data <folder with ml-1m/ and ml-100k/> [--part frozen ...]
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from benchmarks.evaluation import evaluation
from benchmarks.report import Check, merge
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.experiments.compare import compare
from twotower.pipelines.experiments.report import rows as table
from twotower.pipelines.job import main_job
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import Evaluator
from twotower.pipelines.steps.preprocess import ITEMS, USERS
from twotower.pipelines.steps.serve import ask, serving

SEEDS, FRESH_SPLITS = (42, 43, 44), (1, 2)
AT_ONCE = 64  # users in a request, each answered with the whole catalogue: gRPC takes 4 MB
WHOLE_CATALOGUE = "serving.max_k=10000"
TOLD = ("recall@10", "ndcg@10", "mrr@10", "hit@10", "coverage@10")
PUBLISHED = {"SASRec, BCE": {"recall@10": 0.2500, "ndcg@10": 0.1341}}


class Served:
    """The scores that the published version answers for every user and item of a run.

    Asked of the real server, for all items and with seen ones; an item that is not answered
    scores -inf.
    """

    def __init__(self, run: Run):
        names = run.config.features
        users = pd.read_parquet(run.path / "data" / USERS)[names.user_id].to_numpy()
        items = pd.read_parquet(run.path / "data" / ITEMS)[names.item_id].to_numpy()
        self.scores = np.full((len(users), len(items)), -np.inf, np.float32)
        with serving(run) as addresses:
            for start in range(0, len(users), AT_ONCE):
                batch = users[start : start + AT_ONCE].tolist()
                answer = ask(addresses, batch, len(items), ["grpc"], filter_seen=False)["grpc"]
                rows, places = np.nonzero(answer.item_ids >= 0)
                columns = np.searchsorted(items, answer.item_ids[rows, places])
                self.scores[start + rows, columns] = answer.scores[rows, places]

    def score(self, users: np.ndarray) -> np.ndarray:
        """float32 [len(users), n_items] for rows of the user table."""
        return self.scores[users]


@contextlib.contextmanager
def ran(name: str, data: Path, *overrides: str) -> Iterator[Run]:
    """The main job of configs/<name>.yaml in a folder that is removed."""
    click.echo(f"{name} {' '.join(overrides)}")
    config = load_config(CONFIGS / f"{name}.yaml", (*overrides, WHOLE_CATALOGUE), data)
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        os.chdir(folder)  # where the name of the last run is kept
        try:
            yield main_job(config, Path(folder) / "runs" / name)
        finally:
            os.chdir(before)


def measured(run: Run) -> dict[str, dict[str, float]]:
    """Test metrics of the baselines, and of the served model as "two-tower, served"."""
    values = {
        name: each
        for name, each in run.notes("evaluate")["metrics"].items()
        if name not in ("two-tower", "random")
    }
    values["two-tower, served"] = Evaluator(run, "test").evaluate(Served(run)).values
    return {name: {key: each[key] for key in TOLD} for name, each in values.items()}


def of_training(run: Run) -> dict[str, Any]:
    """How long the towers took, and what they were chosen by."""
    notes = run.notes("train")
    return {
        "training, s": round(run.manifest["steps"]["train"]["seconds"], 1),
        "valid ndcg@10": notes["valid_ndcg@10"],
        "split": run.notes("preprocess")["split"]["protocol"],
    }


def frozen_split(data: Path) -> tuple[str, ...]:
    """Settings of the split that the data folder has, by the protocol of published tables."""
    split = data / "ml-1m" / "recbole_split.parquet"
    return ("split.method=file", f"split.path={split}", "split.k_core=0")


def frozen(data: Path) -> tuple[dict, list[Check]]:
    """The frozen split of ML-1M, three seeds."""
    given = frozen_split(data)
    rows: dict[str, Any] = {}
    for seed in SEEDS:
        with ran("ml-1m-history", data / "ml-1m", *given, f"training.seed={seed}") as run:
            metrics = measured(run)
            rows[f"seed {seed}"] = {"metrics": metrics, **of_training(run)}
    ours = [row["metrics"]["two-tower, served"] for row in rows.values()]
    mean = {name: float(np.mean([each[name] for each in ours])) for name in TOLD}
    rows["mean"] = mean
    slowest = max(row["training, s"] for name, row in rows.items() if name != "mean")
    return {"frozen": rows}, [
        Check("frozen split: recall@10, served", round(mean["recall@10"], 4), ">=", 0.2115),
        Check("frozen split: ndcg@10, served", round(mean["ndcg@10"], 4), ">=", 0.2870),
        Check("frozen split: recall@10 over the best published", mean["recall@10"], ">=", 0.2163),
        Check("frozen split: ndcg@10 over the best published", mean["ndcg@10"], ">=", 0.2904),
        Check("frozen split: training, seconds", slowest, "<=", 900),
    ]


def fresh(data: Path) -> tuple[dict, list[Check]]:
    """The same recipe on splits of other seeds, beside EASE there."""
    rows, checks = {}, []
    for seed in FRESH_SPLITS:
        with ran("ml-1m-history", data / "ml-1m", f"split.seed={seed}") as run:
            metrics = measured(run)
            rows[f"split {seed}"] = {"metrics": metrics, **of_training(run)}
        for name in ("recall@10", "ndcg@10"):
            over = metrics["two-tower, served"][name] - metrics["ease"][name]
            checks.append(Check(f"split {seed}: {name} over EASE's", round(over, 4), ">=", 0))
    return {"fresh": rows}, checks


def tutorial(data: Path) -> tuple[dict, list[Check]]:
    """ML-100K as in TFRS's tutorial: all ratings, random, 20 % test, top-100 accuracy.

    A tenth of the tutorial's train part is valid here and not learnt from. Every test interaction
    counts: whether its item is among the user's first 100 of the whole catalogue.
    """
    from twotower.models.evaluation.baselines import EASE, Popularity

    overrides = ("positives.at_least=1", "split.ratios=[0.72,0.08,0.2]", "split.k_core=0")
    with ran("ml-100k-history", data / "ml-100k", *overrides) as run:
        evaluator = Evaluator(run, "test")
        models = {
            "two-tower, served": Served(run),
            "ease": EASE().fit(evaluator.train),
            "popularity": Popularity().fit(evaluator.train),
        }
        nothing = csr_matrix(evaluator.train.shape, dtype=bool)
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
            *(">=", 0.28),
        )
    ]


def accuracy(scorer: Any, relevant: csr_matrix, masked: csr_matrix, k: int = 100) -> float:
    """The share of the interactions `relevant` whose item is among the user's k best."""
    from twotower.models.evaluation.ranking import binary, is_relevant, rank_in_batches

    relevant, everything = binary(relevant), np.ones(relevant.shape[1], bool)
    users = np.flatnonzero(np.diff(relevant.indptr))
    hits = sum(
        int(is_relevant(relevant[batch], ranked).sum())
        for batch, ranked in rank_in_batches(scorer, users, masked, k, everything, batch_size=1024)
    )
    return hits / relevant.nnz


def last_out(data: Path) -> tuple[dict, list[Check]]:
    """ML-1M with the last rating as test, all ratings positive: reported, without a limit."""
    overrides = ("positives.at_least=1", "split.method=leave_last_out", "split.k_core=5")
    with ran("ml-1m-history", data / "ml-1m", *overrides) as run:
        metrics = measured(run)
        row = {"metrics": metrics, "published": PUBLISHED, **of_training(run)}
    return {"last out": row}, []


def grids(data: Path) -> tuple[dict, list[Check]]:
    """The default comparisons, whose reports go to docs/; what is there is not run again."""
    rows, checks = {}, []
    for name, least, overrides in (("ml-100k", 24, ()), ("ml-1m", 10, frozen_split(data))):
        file = CONFIGS / "compare" / f"{name}.yaml"
        found = compare(file, data / name, Path("docs"), overrides)
        lines = table(found)
        done = [row for row in lines if row.curves and not row.failed]
        rows[name] = {
            row.name: {column: str(value) for column, value in row.values.items()} for row in lines
        }
        fewest = min((len(row.curves) for row in done), default=0)
        checks += [
            Check(f"{name} grid: variants", len(done), ">=", least),
            Check(f"{name} grid: variants not done", len(found.plan.variants) - len(done), "==", 0),
            Check(f"{name} grid: seeds of each", fewest, ">=", 3),
            Check(f"{name} grid: runs that failed", len(found.failed), "==", 0),
        ]
    return {"grids": rows}, checks


PARTS = {
    "frozen": frozen,
    "fresh": fresh,
    "tutorial": tutorial,
    "last_out": last_out,
    "grids": grids,
    "evaluation": evaluation,
}
RESULTS = {"evaluation": "faults"}
"""Of the parts whose figures do not go to quality.json."""


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
def main(data: Path, parts: tuple[str, ...]) -> None:
    """Measure, and write benchmarks/results/quality.json (faults.json for `evaluation`)."""
    for part in parts or PARTS:
        rows, checks = PARTS[part](data.resolve())
        path = merge(RESULTS.get(part, "quality"), rows, checks)
        for check in checks:
            record = check.record()
            click.echo(f"  {check.name}: {check.value:g} ({record['limit']})")
    click.echo(f"  written to {path}")


if __name__ == "__main__":
    main()
