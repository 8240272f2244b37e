"""The evaluation step: the trained towers and the baselines, measured on the test part."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.panel import Panel

from twotower.pipelines.console import console, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, writes
from twotower.pipelines.steps.preprocess import (
    load_contexts,
    load_ids,
    load_split,
    load_tables,
)
from twotower.pipelines.verdict.facts import gather, overlap_of
from twotower.pipelines.verdict.per_user import OneMetric, both, check_user_file, user_file
from twotower.pipelines.verdict.verdict import MODEL, Verdict, judge
from twotower.pipelines.verdict.words import objection, paragraph
from twotower.workflows.availability import read_available

if TYPE_CHECKING:
    from twotower.models.evaluation.metrics import Metrics, OnUsers
    from twotower.models.evaluation.queries import Queries
    from twotower.models.evaluation.ranking import Ranker, Scorer
    from twotower.models.two_tower import TowerScorer
    from twotower.pipelines.config import Config

# Fixed, so that trainings with different seeds are validated on the same users.
SAMPLE_SEED = 0
PROTOCOL = "{catalogue} ({candidates:,} candidates), seen items masked, mean of {users:,} users"
WITH_CONTEXT = ", each pair in its own context"
QUERY_TIMES = {
    False: "; the time of a query is that of its pair",
    True: "; the time of a query is that of the user's positive before it",
}
"""Which time a query has, by whether the split leaves the last positives out."""


class Evaluator:
    """Measures any model on one part of a run's split, always in the same way.

    On the valid part a user's train items are masked; on the test part train and valid items are.
    A pair of user and item is in one part only, so that masking never hides a positive.

    Parameters
    ----------
    run : Run
        With the steps `ingest` and `preprocess` done.
    part : str
        "valid" or "test".

    Attributes
    ----------
    train, relevant, seen : csr_matrix of bool, shape (n_users, n_items)
        Interactions of the train part, of `part`, and those that are masked.
    candidates : ndarray of bool, shape (n_items,), or None
        Items that may be recommended; None for all. Withdrawn items may not, so they are not
        relevant either.
    withdrawn_items, withdrawn_pairs : int
        The number of withdrawn items, and of their pairs that are not in `relevant`.
    users : slice or ndarray of int
        Rows of the user table that a model scores as users 0, 1, ...; see `sample`.
    queries : Queries or None
        With features of the context: each pair of `part` is to be found in its own context.
    """

    def __init__(self, run: Run, part: str):
        from scipy.sparse import csr_matrix

        self.config = run.config.evaluation
        parts = load_split(run.path / "processed")
        features = run.config.features
        n_users, n_items = map(len, load_ids(run))

        def matrix(*names: str) -> csr_matrix:
            pairs = pd.concat([parts[name] for name in names])
            ones = np.ones(len(pairs), dtype=bool)
            indices = (pairs["user_row"], pairs["item_row"])
            return csr_matrix((ones, indices), shape=(n_users, n_items))

        self.users: slice | np.ndarray = slice(None)
        self.train = matrix("train")
        self.relevant = matrix(part)
        self.seen = self.train if part == "valid" else matrix("train", "valid")
        self.candidates: np.ndarray | None = None
        if self.config.catalogue != "items":
            self.candidates = np.zeros(n_items, bool)
            for pairs in [parts[part]] if self.config.catalogue == "part" else parts.values():
                self.candidates[pairs["item_row"]] = True
        available = read_available(run.path / "data")
        self._leave_out_withdrawn(available)
        self.queries: Queries | None = None
        if features.context_columns:
            from twotower.models.evaluation.queries import Queries

            pairs = parts[part][available[parts[part]["item_row"]]]
            self.queries = Queries.of(pairs, load_contexts(run), n_items)

    def _leave_out_withdrawn(self, available: np.ndarray) -> None:
        """Remove withdrawn items from the candidates and from the relevant items."""
        pairs = self.relevant.nnz
        self.withdrawn_items = int((~available).sum())
        if self.withdrawn_items:
            is_candidate = True if self.candidates is None else self.candidates
            self.candidates = available & is_candidate
            self.relevant.data &= available[self.relevant.indices]
            self.relevant.eliminate_zeros()
        self.withdrawn_pairs = pairs - self.relevant.nnz

    def sample(self, count: int) -> None:
        """Use only some of the users with relevant items, always the same random ones.

        Parameters
        ----------
        count : int
            Number of users to keep.
        """
        users = np.flatnonzero(np.diff(self.relevant.indptr))
        chosen = np.random.default_rng(SAMPLE_SEED).choice(users, count, replace=False)
        self.users = np.sort(chosen)
        self.relevant, self.seen = self.relevant[self.users], self.seen[self.users]
        if self.queries is not None:
            self.queries = self.queries.of_users(self.users)

    def tower_scorer(
        self, model: Any, users: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]
    ) -> TowerScorer:
        """Create the scorer of a model, which answers each query with its context.

        Parameters
        ----------
        model : RetrievalModelV2
        users, items : mapping of str to ndarray
            The encoded tables, with all users.

        Returns
        -------
        TowerScorer
        """
        from twotower.models.two_tower import TowerScorer

        users = {name: column[self.users] for name, column in users.items()}
        if self.queries is None:
            return TowerScorer.of(model, users, items)
        return self.queries.tower_scorer(model, users, items)

    def baselines(self) -> list[str]:
        """The names of the baselines to measure."""
        from twotower.models.evaluation.baselines import default_baselines

        if self.config.baselines is not None:
            return list(self.config.baselines)
        users = np.count_nonzero(np.diff(self.relevant.indptr))
        return default_baselines(self.train, users)

    def evaluate(
        self,
        scorer: Scorer | Ranker,
        progress: Callable[[int, int], None] | None = None,
        on_users: OnUsers | None = None,
    ) -> Metrics:
        """Compute the metrics at all cutoffs in the settings.

        Parameters
        ----------
        scorer : Scorer or Ranker
            One that does not know the context answers all queries of a user alike.
        progress : callable (done, total), optional
            Called after each batch of users.
        on_users : callable (users, values), optional
            Called after each batch with the metrics of each user.

        Returns
        -------
        Metrics
        """
        from twotower.models.evaluation.metrics import evaluate

        return evaluate(
            **self._rows(scorer),
            ks=self.config.ks,
            candidates=self.candidates,
            batch_size=self.config.batch_size,
            progress=progress,
            on_users=on_users,
            user_of=None if self.queries is None else self.queries.users,
        )

    def popularity_metrics(self, scorer: Scorer | Ranker, k: int) -> dict[str, float]:
        """Compute recall@k in head, middle and tail, and the popularity of recommended items.

        Parameters
        ----------
        scorer : Scorer or Ranker
        k : int
            Cutoff.

        Returns
        -------
        dict of str to float
        """
        from twotower.models.evaluation.popularity import popularity_metrics

        return popularity_metrics(
            **self._rows(scorer),
            train=self.train,
            k=k,
            candidates=self.candidates,
            batch_size=self.config.batch_size,
        )

    def _rows(self, scorer: Scorer | Ranker) -> dict[str, Any]:
        """What a ranking is of: users or, with a context, queries."""
        if self.queries is None:
            return {"scorer": scorer, "relevant": self.relevant, "seen": self.seen}
        return {
            "scorer": self.queries.by_user(scorer),
            "relevant": self.queries.relevant,
            "seen": self.seen[self.queries.users],
        }


@writes
def evaluate(run: Run, per_user: Path | None = None) -> dict[str, dict]:
    """Measure the model and the baselines on the test part, and say what the numbers mean.

    Writes reports/metrics.json and prints a table and the verdict.

    Parameters
    ----------
    run : Run
    per_user : Path, optional
        A parquet file to write, with the metrics of each user for each model.

    Returns
    -------
    dict of str to dict
        Name of each model to its metrics.
    """
    run.verified("ingest", "preprocess", "train")
    if per_user is not None:
        check_user_file(per_user)
    from twotower.models.evaluation.metrics import metrics_table

    with stage("evaluate") as (report, result), run.step("evaluate") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        report(0, 1, "load the towers")
        evaluator = Evaluator(run, "test")
        kept = OneMetric(run.config.training.monitor, run.config.evaluation.ks)
        with _user_file(run, evaluator, per_user) as write:
            metrics = {
                name: _measured(run, evaluator, name, both(kept, write, name), report)
                for name in (MODEL, *evaluator.baselines())
            }
        report(0, 1, "verdict")
        verdict = _verdict(run, evaluator, kept)
        protocol = _protocol(run, evaluator, metrics[MODEL])
        values = {name: m.to_dict() for name, m in metrics.items()}
        notes |= {"protocol": protocol, "metrics": values, "verdict": verdict.to_dict()}
        compared = "recipes" in run.notes("preprocess")  # see pipelines.verdict.auto
        notes["verdict"]["text"] = paragraph(verdict, run.config, compared)
        notes["verdict"]["objection"] = objection(verdict)
        (out / "reports" / "metrics.json").write_text(json.dumps(notes, indent=1))
        result(protocol["ranking"])
    table = metrics_table(metrics, _title(protocol), run.config.evaluation.ks[:2])
    table.caption = f"test part of: {protocol['split']}"
    console.print(table)
    color = "red" if notes["verdict"]["objection"] else "green"
    panel = Panel(escape(notes["verdict"]["text"]), title="verdict", border_style=color)
    console.print(panel, soft_wrap=False)
    return values


def _measured(
    run: Run, evaluator: Evaluator, name: str, on_users: OnUsers, report: Callable[..., None]
) -> Metrics:
    """The metrics of the trained towers, or of a baseline that is fitted first."""
    from twotower.models.evaluation.baselines import fit_baseline
    from twotower.models.training.saving import load

    report(0, 1, f"{name}: {'vectors' if name == MODEL else 'fit'}")
    scorer: Scorer | Ranker
    if name == MODEL:
        model = load(run.path / "model").model
        scorer = evaluator.tower_scorer(model, *load_tables(run))
    else:
        scorer = fit_baseline(name, evaluator.train, run.config.training.seed)

    def ranked(done: int, total: int) -> None:
        report(done, total, f"{name}: rank", f"{done:,} of {total:,} users")

    return evaluator.evaluate(scorer, ranked, on_users)


def _user_file(
    run: Run, evaluator: Evaluator, path: Path | None
) -> contextlib.AbstractContextManager[Any]:
    """The file of the users' metrics, see `user_file`; nothing without a path."""
    if path is None:
        return contextlib.nullcontext()
    from twotower.workflows.ids import RunIds

    ids = RunIds.read(run.path / "data").users
    sizes = np.diff(evaluator.relevant.indptr).astype(np.int64)
    return user_file(path, run.config.evaluation.ks, load_ids(run)[0], ids, sizes)


def _verdict(run: Run, evaluator: Evaluator, kept: OneMetric) -> Verdict:
    facts = gather(
        relevant=evaluator.relevant,
        train=evaluator.train,
        candidates=evaluator.candidates,
        split=run.config.split.method,
        overlap=overlap_of(run),
    )
    return judge(kept.name, kept.values, facts)


def chosen_on(run: Run) -> str:
    """Describe the metric that chose the epoch, and on how many users it was measured.

    Parameters
    ----------
    run : Run
        With the step `train` done.

    Returns
    -------
    str
    """
    users = run.notes("train").get("valid_users")
    return f"valid {run.config.training.monitor}" + (f" of {users:,} users" if users else "")


def check_baselines(config: Config, train: pd.DataFrame) -> None:
    """Check before training that no baseline is too expensive for the training part.

    Parameters
    ----------
    config : Config
    train : DataFrame
        The training part of the split.

    Raises
    ------
    ConfigError
        If `ease` would have to invert too large a matrix.
    """
    from twotower.models.evaluation.baselines import EASE_MAX_ITEMS

    items = train[config.features.item_id].nunique()
    if "ease" in (config.evaluation.baselines or ()) and items > EASE_MAX_ITEMS:
        raise ConfigError(
            f"evaluation.baselines: ease takes up to {EASE_MAX_ITEMS:,} items, and the training "
            f"part has {items:,}; take it out (itemknn has no such limit)"
        )


def _protocol(run: Run, evaluator: Evaluator, metrics: Metrics) -> dict[str, Any]:
    """How the metrics were measured, for the report."""
    catalogue = "items of the part" if evaluator.config.catalogue == "part" else "full catalogue"
    ranking = PROTOCOL.format(catalogue=catalogue, **metrics.to_dict())
    ranking += WITH_CONTEXT if evaluator.queries is not None else ""
    if run.config.features.time:
        ranking += QUERY_TIMES[run.config.split.method == "leave_last_out"]
    if evaluator.withdrawn_items:
        ranking += (
            f"; {evaluator.withdrawn_items:,} withdrawn items and their "
            f"{evaluator.withdrawn_pairs:,} pairs left out"
        )
    return {
        "part": "test",
        "data": run.notes("ingest")["summary"],
        "synthetic": run.notes("ingest")["synthetic"],
        "split": run.notes("preprocess")["split"]["protocol"],
        "ranking": ranking,
        "chosen_on": chosen_on(run),
    }


def _title(protocol: dict[str, Any]) -> str:
    """The name of the data set, with a warning if it is synthetic."""
    label = "SYNTHETIC DATA: these numbers say nothing about real people\n"
    return (label if protocol["synthetic"] else "") + protocol["data"]
