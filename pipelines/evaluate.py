"""The trained towers and the baselines on the test part, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipelines.console import console, stage
from pipelines.errors import ConfigError
from pipelines.libraries import load_libraries
from pipelines.preprocess import load_split, load_tables
from pipelines.run import Run

if TYPE_CHECKING:
    from models.evaluation import Metrics, Scorer
    from pipelines.config import Config

MODEL = "two-tower"
PROTOCOL = "full catalogue ({candidates:,} candidates), seen items masked, mean of {users:,} users"


class Judge:
    """Metrics of any scorer on one part of a run's split, the same way for every model.

    Valid is ranked with the train items masked, test with train and valid masked. A positive
    that is also in a masked part does not exist: a pair is in one part only.
    """

    def __init__(self, run: Run, part: str):
        from scipy.sparse import csr_matrix

        self.config = run.config.evaluation
        parts = load_split(run.path / "processed")
        rows = {
            name: len(pd.read_parquet(run.path / "data" / f"{name}.parquet", columns=[id_]))
            for name, id_ in (
                ("users", run.config.features.user_id),
                ("items", run.config.features.item_id),
            )
        }
        shape = (rows["users"], rows["items"])

        def matrix(*names: str) -> csr_matrix:
            pairs = pd.concat([parts[name] for name in names])
            ones = np.ones(len(pairs), dtype=bool)
            return csr_matrix((ones, (pairs["user_row"], pairs["item_row"])), shape=shape)

        self.train = matrix("train")
        self.relevant = matrix(part)
        self.seen = matrix("train") if part == "valid" else matrix("train", "valid")
        everything = matrix("train", "valid", "test")
        self.candidates = (
            np.asarray(everything.sum(axis=0)).ravel() > 0
            if self.config.catalogue == "interactions"
            else None
        )

    def judge(self, scorer: Scorer, progress: Callable[[int, int], None] | None = None) -> Metrics:
        """Metrics at every cutoff of the config."""
        from models.evaluation import evaluate as measure

        return measure(
            scorer,
            self.relevant,
            self.seen,
            self.config.ks,
            self.candidates,
            self.config.batch_size,
            progress,
        )

    def judge_popularity(self, scorer: Scorer, k: int) -> dict[str, float]:
        """Recall@k in head, middle and tail, and how popular what is recommended is."""
        from models.popularity import by_popularity

        return by_popularity(
            *(scorer, self.relevant, self.seen, self.train, k),
            *(self.candidates, self.config.batch_size),
        )


def evaluate(run: Run) -> dict[str, dict]:
    """Measure model and baselines on test; write reports/metrics.json, print the table."""
    run.verified("ingest", "preprocess", "train")
    from models.baselines import fit_baseline
    from models.evaluation import metrics_table
    from models.training import load
    from models.two_tower import TowerScorer

    with stage("evaluate") as (report, result), run.step("evaluate") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        report(0, 1, "load the towers")
        judge = Judge(run, "test")
        tower = load(run.path / "model")
        metrics = {}
        for name in (MODEL, *run.config.evaluation.baselines):
            scorer = (
                TowerScorer.of(tower.model, *load_tables(run))
                if name == MODEL
                else fit_baseline(name, judge.train, run.config.training.seed)
            )
            metrics[name] = judge.judge(
                scorer, lambda done, total, name=name: report(done, total, name)
            )
        measured = metrics[MODEL]
        protocol = {
            "part": "test",
            "data": run.notes("ingest")["summary"],
            "synthetic": run.notes("ingest")["synthetic"],
            "split": run.notes("preprocess")["split"]["protocol"],
            "ranking": PROTOCOL.format(candidates=measured.candidates, users=measured.users),
            "chosen_on": f"valid {run.config.training.monitor}",
        }
        values = {name: m.to_dict() for name, m in metrics.items()}
        report_path = out / "reports" / "metrics.json"
        report_path.write_text(json.dumps({"protocol": protocol, "metrics": values}, indent=1))
        notes |= {"protocol": protocol, "metrics": values}
        result(protocol["ranking"])
    table = metrics_table(metrics, _title(protocol), run.config.evaluation.ks[:2])
    table.caption = f"test part of: {protocol['split']}"
    console.print(table)
    return values


def check_baselines(config: Config, train: pd.DataFrame) -> None:
    """Refuse, before anything is trained, a baseline that the training part is too large for."""
    from models.baselines import EASE_MAX_ITEMS

    items = train[config.features.item_id].nunique()
    if "ease" in config.evaluation.baselines and items > EASE_MAX_ITEMS:
        raise ConfigError(
            f"evaluation.baselines: ease takes up to {EASE_MAX_ITEMS:,} items, and the training "
            f"part has {items:,}; take it out (itemknn has no such limit)"
        )


def _title(protocol: dict) -> str:
    """The data set's line; synthetic data says so."""
    label = "SYNTHETIC DATA: these numbers say nothing about real people\n"
    return (label if protocol["synthetic"] else "") + protocol["data"]
