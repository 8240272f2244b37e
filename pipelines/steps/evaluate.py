"""The trained towers and the baselines on the test part, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from twotower.pipelines.console import console, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, writes
from twotower.pipelines.steps.preprocess import load_split, load_tables

if TYPE_CHECKING:
    from twotower.models.evaluation.metrics import Metrics, Ranker, Scorer
    from twotower.pipelines.config import Config

MODEL = "two-tower"
# Fixed, so that trainings with different seeds are validated on the same users.
SAMPLE_SEED = 0
PROTOCOL = "full catalogue ({candidates:,} candidates), seen items masked, mean of {users:,} users"


class Judge:
    """Metrics of any scorer on one part of a run's split, the same way for every model.

    Valid is ranked with the train items masked, test with train and valid masked. A positive
    that is also in a masked part does not exist: a pair is in one part only.

    Attributes
    ----------
    users : slice or ndarray of int
        The rows of the user table that a scorer is asked for as 0, 1, ...; see `sample`.
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

        self.users = slice(None)
        self.train = matrix("train")
        self.relevant = matrix(part)
        self.seen = self.train if part == "valid" else matrix("train", "valid")
        self.candidates = None
        if self.config.catalogue == "interactions":
            self.candidates = np.zeros(rows["items"], bool)
            for pairs in parts.values():
                self.candidates[pairs["item_row"]] = True

    def sample(self, count: int) -> None:
        """Judge only `count` of the users with something to find, always the same random ones."""
        users = np.flatnonzero(np.diff(self.relevant.indptr))
        chosen = np.random.default_rng(SAMPLE_SEED).choice(users, count, replace=False)
        self.users = np.sort(chosen)
        self.relevant, self.seen = self.relevant[self.users], self.seen[self.users]

    def judge(
        self, scorer: Scorer | Ranker, progress: Callable[[int, int], None] | None = None
    ) -> Metrics:
        """Metrics at every cutoff of the config."""
        from twotower.models.evaluation.metrics import evaluate as measure

        return measure(
            scorer,
            self.relevant,
            self.seen,
            self.config.ks,
            self.candidates,
            self.config.batch_size,
            progress,
        )

    def judge_popularity(self, scorer: Scorer | Ranker, k: int) -> dict[str, float]:
        """Recall@k in head, middle and tail, and how popular what is recommended is."""
        from twotower.models.evaluation.popularity import by_popularity

        return by_popularity(
            *(scorer, self.relevant, self.seen, self.train, k),
            *(self.candidates, self.config.batch_size),
        )


@writes
def evaluate(run: Run) -> dict[str, dict]:
    """Measure model and baselines on test; write reports/metrics.json, print the table."""
    run.verified("ingest", "preprocess", "train")
    from twotower.models.evaluation.baselines import fit_baseline
    from twotower.models.evaluation.metrics import metrics_table
    from twotower.models.training.fit import load
    from twotower.models.two_tower import TowerScorer

    with stage("evaluate") as (report, result), run.step("evaluate") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        report(0, 1, "load the towers")
        judge = Judge(run, "test")
        tower = load(run.path / "model")
        metrics = {}
        for name in (MODEL, *run.config.evaluation.baselines):
            report(0, 1, f"{name}: {'vectors' if name == MODEL else 'fit'}")
            scorer = (
                TowerScorer.of(tower.model, *load_tables(run))
                if name == MODEL
                else fit_baseline(name, judge.train, run.config.training.seed)
            )

            def ranked(done: int, total: int, name: str = name) -> None:
                report(done, total, f"{name}: rank", f"{done:,} of {total:,} users")

            metrics[name] = judge.judge(scorer, ranked)
        measured = metrics[MODEL]
        protocol = {
            "part": "test",
            "data": run.notes("ingest")["summary"],
            "synthetic": run.notes("ingest")["synthetic"],
            "split": run.notes("preprocess")["split"]["protocol"],
            "ranking": PROTOCOL.format(candidates=measured.candidates, users=measured.users),
            "chosen_on": chosen_on(run),
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


def chosen_on(run: Run) -> str:
    """The metric that chose the epoch, and of how many users."""
    users = run.notes("train").get("valid_users")
    return f"valid {run.config.training.monitor}" + (f" of {users:,} users" if users else "")


def check_baselines(config: Config, train: pd.DataFrame) -> None:
    """Refuse, before anything is trained, a baseline that the training part is too large for."""
    from twotower.models.evaluation.baselines import EASE_MAX_ITEMS

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
