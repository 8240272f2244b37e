"""Accuracy of the shipped recipes on public sets that are sparse or ordered.

Every part takes the folder with gowalla/ and sequences/ and returns rows and checks. Answers come
from a real server. Settings were chosen on valid, and test is measured once per seed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks.quality.accuracy import SEEDS, finished_run
from benchmarks.quality.served import served_ranker
from benchmarks.report import Check, Rows
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import Run
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import preprocess
from twotower.pipelines.steps.train import train
from twotower.pipelines.verdict.recipes import Variant, variants_of

GRAPH, CLOSED_FORM, NEXT_ITEM = "graph", "closed-form-sparse", "next-item"
RANDOM_SPLIT = ("split.method=random", "split.repeats=last", "evaluation.ks=[10, 20]")
AMAZON = ("beauty", "sports")
GOWALLA = {"recall@20": 0.1754, "ndcg@20": 0.147}
NEXT_ITEMS = {
    "ml-1m": {"hit@10": 0.279, "ndcg@10": 0.169},
    "beauty": {"hit@10": 0.088, "ndcg@10": 0.055},
    "sports": {"hit@10": 0.054, "ndcg@10": 0.034},
    "yelp": {"hit@10": 0.062, "ndcg@10": 0.037},
}
"""The limits: those of a ridge regression of full rank from the history to the next item."""
OTHERS_MASKED = "served, others masked"
"""Seen items masked, except the one to be found, see docs/evaluation.md."""

MAX_SECONDS = {"gowalla": 3600, "next item": 180}


@dataclass(frozen=True)
class Case:
    """A data set, its protocol and the recipes to choose from.

    Attributes
    ----------
    config : str
        A name in configs/.
    data : Path
    recipes : tuple of str
        Names in configs/recipes/.
    metrics : tuple of str
    settings : tuple of str
        "section.key=value" settings.
    refit : bool
        Train on valid, too, after choosing the number of epochs on it.
    """

    config: str
    data: Path
    recipes: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: tuple[str, ...] = ()
    refit: bool = False


def measure(case: Case, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
    """Run the main job for each seed, and measure what the server answers on the test part.

    If the recipes have several variants, valid chooses one of them with the first seed.

    Returns
    -------
    dict of str to Any
        A row per seed, the means of the metrics, and what "valid" chose from.
    """
    chosen, valid = _chosen_on_valid(case, seeds[0])
    rows: dict[str, Any] = {}
    for seed in seeds:
        settings = (*chosen.settings, *case.settings, f"training.seed={seed}")
        with finished_run(case.config, case.data, settings, case.refit) as run:
            rows[f"seed {seed}"] = _row(run, case.metrics)
    means = {
        label: {metric: _mean(rows, key, metric) for metric in case.metrics}
        for label, key in (("mean", "served"), ("mean, others masked", OTHERS_MASKED))
    }
    return {**rows, **means, "valid": {"chosen": chosen.label, **valid}}


def _mean(rows: dict[str, Any], key: str, metric: str) -> float:
    return float(np.mean([row[key][metric] for row in rows.values()]))


def _chosen_on_valid(case: Case, seed: int) -> tuple[Variant, dict[str, float]]:
    """The variant of the recipes that is best on valid, and the monitored metric of each."""
    variants = [variant for recipe in case.recipes for variant in variants_of(recipe)]
    if len(variants) == 1:
        return variants[0], {}
    valid = {}
    for variant in variants:
        settings = (*variant.settings, *case.settings, f"training.seed={seed}")
        valid[variant.label] = _valid_metric(case, settings)
        click.echo(f"valid: {valid[variant.label]:.4f} {variant.label}")
    return max(variants, key=lambda variant: valid[variant.label]), valid


def _valid_metric(case: Case, settings: tuple[str, ...]) -> float:
    """The monitored metric on valid after training, without the steps that follow."""
    config = load_config(CONFIGS / f"{case.config}.yaml", settings, case.data)
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        run = Run.create(config, Path(folder) / "run")
        ingest(run, remember=False)
        preprocess(run)
        train(run)
        return run.notes("train")[f"valid_{config.training.monitor}"]


def _row(run: Run, names: tuple[str, ...]) -> dict[str, Any]:
    """What the server of a run answers, measured on test, beside the baselines."""
    evaluator = Evaluator(run, "test")
    with served_ranker(run) as ranker:
        served = evaluator.evaluate(ranker)
        others = evaluator.evaluate(ranker, masked="other") if evaluator.repeats else served
    baselines = {
        name: {metric: values[metric] for metric in names}
        for name, values in run.notes("evaluate")["metrics"].items()
        if name not in ("two-tower", "random")
    }
    open_to_all = run.notes("evaluate").get("metrics_not_masked", {}).get("two-tower")
    notes = run.notes("train")
    chosen = notes.get("chosen", notes)
    monitor = run.config.training.monitor
    return {
        "served": {metric: served.values[metric] for metric in names},
        OTHERS_MASKED: {metric: others.values[metric] for metric in names},
        "users": served.users,
        "baselines": baselines,
        "not masked": open_to_all and {metric: open_to_all[metric] for metric in names},
        "training, s": round(run.manifest["steps"]["train"]["seconds"], 1),
        "epochs": notes["epochs"],
        f"valid {monitor}": chosen[f"valid_{monitor}"],
        "split": run.notes("preprocess")["split"]["protocol"],
    }


def gowalla(data: Path) -> tuple[Rows, list[Check]]:
    """Measure LightGCN's split of Gowalla: valid chooses the epochs, then all of train is used."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        for part in ("train", "test"):
            _write_lists(data / "gowalla" / f"{part}.parquet", Path(folder) / f"{part}.txt")
        case = Case("lightgcn", Path(folder), (GRAPH,), tuple(GOWALLA), refit=True)
        rows = measure(case)
    checks = [
        Check(f"Gowalla: {name}, served, mean of {len(SEEDS)} seeds", rows["mean"][name], ">=", low)
        for name, low in GOWALLA.items()
    ]
    limit = MAX_SECONDS["gowalla"]
    checks.append(Check("Gowalla: training, seconds", _slowest(rows), "<=", limit))
    return {"gowalla": rows}, checks


def random_split(data: Path, name: str) -> tuple[Rows, list[Check]]:
    """Measure an Amazon set at random 8:1:1 beside our own baselines."""
    settings = (*RANDOM_SPLIT, "evaluation.baselines=[popularity, itemknn, ease]")
    case = Case(
        "sequences",
        _sequences(data, name),
        (GRAPH, CLOSED_FORM),
        ("recall@10", "ndcg@10"),
        settings,
    )
    rows, checks = measure(case), []
    for metric in case.metrics:
        best = max(each[metric] for each in rows[f"seed {SEEDS[0]}"]["baselines"].values())
        ratio = rows["mean"][metric] / best
        checks.append(Check(f"{name}, random: {metric} over the best baseline", ratio, ">=", 1))
    return {f"random split, {name}": rows}, checks


def next_item(data: Path, name: str) -> tuple[Rows, list[Check]]:
    """Measure next-item prediction on a set, leave last out.

    Where users may have an item again, the limits are those of masking all seen items but the one
    to be found. There the order says least, so that `graph` is tried, too.
    """
    limits = NEXT_ITEMS[name]
    settings = ("ingest.files.columns.item_id=movie_id",) if name == "ml-1m" else ()
    recipes = (NEXT_ITEM, GRAPH) if name == "yelp" else (NEXT_ITEM,)
    case = Case("sequences", _sequences(data, name), recipes, tuple(limits), settings)
    rows = measure(case)
    masked = ", all seen items masked but the one to be found" if name == "yelp" else ""
    checks = [
        Check(
            f"{name}, leave last out: {metric}, served{masked}",
            rows["mean, others masked"][metric],
            ">=",
            low,
        )
        for metric, low in limits.items()
    ]
    limit = MAX_SECONDS["next item"]
    checks.append(Check(f"{name}, leave last out: training, s", _slowest(rows), "<=", limit))
    return {f"next item, {name}": rows}, checks


def _sequences(data: Path, name: str) -> Path:
    return data / "sequences" / f"{'' if name == 'ml-1m' else 's3_'}{name}_sequences.parquet"


def _slowest(rows: dict[str, Any]) -> float:
    return max(row["training, s"] for row in rows.values() if "training, s" in row)


def _write_lists(source: Path, target: Path) -> None:
    """Write pairs as LightGCN's text files have them: a line per user, the user and its items."""
    pairs = pd.read_parquet(source).astype(str)
    lists = pairs.groupby("user_id", sort=False)["item_id"].agg(" ".join)
    target.write_text("".join(f"{user} {items}\n" for user, items in lists.items()))
