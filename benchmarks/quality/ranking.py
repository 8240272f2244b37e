"""Part `evaluation`: speed, memory and exactness of the evaluation's ranking.

Speed is measured on synthetic interactions, as many as Last.fm has and 10 million. Exactness is
measured on the frozen split of MovieLens-1M: ranking_reference.json has the metrics of an earlier
commit, which partitioned each user's scores; those of `random` are newer, because it has since
drawn its items instead of scoring them.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from benchmarks.report import Check, Rows
from twotower.models.evaluation.baselines import fit_baseline
from twotower.models.evaluation.config import count_valid_users
from twotower.models.evaluation.metrics import evaluate
from twotower.models.two_tower import TowerScorer
from twotower.pipelines.child import run_in_subprocess

REFERENCE = Path(__file__).parent / "ranking_reference.json"
KS, DIM, SEED, ROUNDS = (10, 20, 50, 100), 64, 42, 5
THREADS = "2"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OnMessage = Callable[[str], None]
"""Receives a line of progress."""


@dataclass(frozen=True)
class SyntheticData:
    """Random interactions of a given size, and what is measured on them.

    Attributes
    ----------
    name : str
    users, items, interactions : int
        Sizes; repeated interactions are drawn once.
    baselines : tuple of str
        Fitted and evaluated on all users, except `random`, which ranks for `ranked_users`.
    ranked_users : int
        Users for whom the towers rank.
    """

    name: str
    users: int
    items: int
    interactions: int
    baselines: tuple[str, ...]
    ranked_users: int

    def parts(self) -> tuple[csr_matrix, csr_matrix, csr_matrix]:
        """Draw the interactions and split them 8:1:1.

        The activity of users is log-normal; the popularity of items is a power of their rank.

        Returns
        -------
        train, masked, test : csr_matrix of bool, shape (users, items)
            `masked` is train and valid together: what a test leaves out.
        """
        rng = np.random.default_rng(SEED)
        activity = rng.lognormal(0, 1.2, self.users)
        popularity = rng.permutation(np.arange(1, self.items + 1) ** -0.8)
        users, items = (
            rng.choice(len(weights), self.interactions, p=weights / weights.sum())
            for weights in (activity, popularity)
        )
        pairs = rng.permutation(np.unique(users * self.items + items))
        train_end, valid_end = len(pairs) * 8 // 10, len(pairs) * 9 // 10

        def matrix(chosen: np.ndarray) -> csr_matrix:
            rows, columns = chosen // self.items, chosen % self.items
            return csr_matrix(
                (np.ones(len(chosen), bool), (rows, columns)), (self.users, self.items)
            )

        return matrix(pairs[:train_end]), matrix(pairs[:valid_end]), matrix(pairs[valid_end:])


LAST_FM = SyntheticData(
    name="Last.fm-sized, synthetic",
    users=1_892,
    items=17_632,
    interactions=92_834,
    baselines=("popularity", "random", "itemknn"),
    ranked_users=1_892,
)
LARGE = SyntheticData(
    name="137k x 156k, synthetic",
    users=137_000,
    items=156_000,
    interactions=10_000_000,
    baselines=("popularity", "random"),
    ranked_users=8_192,
)


def evaluation(data: Path) -> tuple[Rows, list[Check]]:
    """Measure both synthetic data sets and compare ML-1M with the reference, each in a process."""
    jobs: dict[str, Callable[[OnMessage], dict[str, Any]]] = {
        "Last.fm": partial(measure, LAST_FM),
        "large": partial(measure, LARGE),
        "ML-1M": partial(compare_with_reference, data / "ml-1m" / "recbole_split.parquet"),
    }
    with tempfile.TemporaryDirectory() as folder, _threads():
        rows = {
            name: run_in_subprocess(job, Path(folder) / f"{name}.log", click.echo)
            for name, job in jobs.items()
        }
    last_fm, large, ml_1m = rows["Last.fm"], rows["large"], rows["ML-1M"]
    over_faiss = f"towers, times faiss.knn with k = {KS[-1]}"
    peak = max(last_fm["peak memory, GB"], large["peak memory, GB"])
    return {"evaluation": rows}, [
        Check(f"{LAST_FM.name}: {over_faiss}", last_fm["towers"]["times faiss.knn"], "<=", 2),
        Check(f"{LARGE.name}: {over_faiss}", large["towers"]["times faiss.knn"], "<=", 2),
        Check(f"{LAST_FM.name}: ItemKNN, seconds", last_fm["itemknn"]["seconds"], "<=", 10),
        Check(f"{LARGE.name}: popularity, seconds", large["popularity"]["seconds"], "<=", 5),
        Check("ranking: peak memory, GB", peak, "<=", 8),
        Check("ML-1M: metrics that differ from the reference", len(ml_1m["differing"]), "==", 0),
    ]


@contextmanager
def _threads() -> Iterator[None]:
    """Let FAISS and NumPy use two threads in the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, THREADS))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def measure(data: SyntheticData, on_message: OnMessage) -> dict[str, Any]:
    """Measure the seconds of the baselines and of the towers, and peak memory."""
    train, seen, test = data.parts()
    row: dict[str, Any] = {
        "data": data.name,
        "users": data.users,
        "items": data.items,
        "train rows": train.nnz,
        "threads": int(THREADS),
    }
    ranked = slice(data.ranked_users)
    for name in data.baselines:
        users = ranked if name == "random" else slice(None)
        started = time.perf_counter()
        scorer = fit_baseline(name, train, SEED)
        fitted = time.perf_counter()
        metrics = evaluate(scorer, test[users], seen[users], KS)
        ended = time.perf_counter()
        row[name] = {
            "seconds": round(ended - started, 2),
            "seconds of fitting": round(fitted - started, 2),
            "users ranked": metrics.users,
        }
        on_message(f"  {data.name}: {name} {row[name]['seconds']:.2f} s")
    row["towers"] = measure_towers(test[ranked], seen[ranked])
    on_message(f"  {data.name}: towers {row['towers']['seconds']:.2f} s")
    validated = count_valid_users(None, users=data.users, items=data.items, rows=train.nnz)
    row["users per validation by default"] = validated
    row["peak memory, GB"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2
    )
    return row


def measure_towers(test: csr_matrix, seen: csr_matrix) -> dict[str, Any]:
    """Measure the evaluation of random vectors beside `faiss.knn` on the same vectors.

    `faiss.knn` is a lower bound: it does not mask seen items, order ties or compute metrics. Both
    are measured in turn; medians are compared.
    """
    import faiss

    users, items = _vectors(test.shape)
    with_test_items = users[np.diff(test.indptr) > 0]
    scorer, seconds = TowerScorer(users, items), []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        faiss.knn(with_test_items, items, KS[-1], metric=faiss.METRIC_INNER_PRODUCT)
        searched = time.perf_counter()
        evaluate(scorer, test, seen, KS)
        seconds.append((searched - started, time.perf_counter() - searched))
    knn, ours = (median(each) for each in zip(*seconds, strict=True))
    return {
        "seconds": round(ours, 3),
        "faiss.knn, seconds": round(knn, 3),
        "times faiss.knn": round(ours / knn, 2),
        "users ranked": len(with_test_items),
        "dim": DIM,
    }


def _vectors(shape: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, DIM), dtype=np.float32) for n in shape]


def compare_with_reference(split: Path, on_message: OnMessage) -> dict[str, Any]:
    """List the metrics on the frozen split of ML-1M that differ from the reference."""
    rows = pd.read_parquet(split)
    users, items = (rows[name].factorize(sort=True)[0] for name in ("user_id", "item_id"))
    shape = int(users.max()) + 1, int(items.max()) + 1

    def part(*names: str) -> csr_matrix:
        chosen = rows["part"].isin(names)
        return csr_matrix((np.ones(chosen.sum(), bool), (users[chosen], items[chosen])), shape)

    train, seen, test = part("train"), part("train", "valid"), part("test")
    reference = json.loads(REFERENCE.read_text())
    differing: dict[str, list[float]] = {}
    for name, expected in reference["metrics"].items():
        scorer = (
            TowerScorer(*_vectors(shape))
            if name == "random vectors"
            else fit_baseline(name, train, SEED)
        )
        found = evaluate(scorer, test, seen, KS).to_dict()
        differing |= {
            f"{name} {metric}": [found[metric], value]
            for metric, value in expected.items()
            if found[metric] != value
        }
        on_message(
            f"  ML-1M: {name} ndcg@10 {found['ndcg@10']:.6f}, reference {expected['ndcg@10']:.6f}"
        )
    compared = sum(len(expected) for expected in reference["metrics"].values())
    return {"reference": reference["commit"], "compared": compared, "differing": differing}
