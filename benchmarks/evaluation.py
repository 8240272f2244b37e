"""Speed, memory and exactness of ranking: the part `evaluation` of benchmarks.quality.

Speed is measured on made-up interactions of the size of Last.fm and of 10 million rows, exactness
on the frozen split of MovieLens-1M against the figures that an earlier commit measured there with
a full partition of each user's scores (ranking_reference.json).
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
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

from benchmarks.report import Check
from twotower.models.evaluation.baselines import fit_baseline
from twotower.models.evaluation.config import count_valid_users
from twotower.models.evaluation.metrics import evaluate
from twotower.models.two_tower import TowerScorer
from twotower.pipelines.child import apart

REFERENCE = Path(__file__).parent / "ranking_reference.json"
KS, DIM, SEED, ROUNDS = (10, 20, 50, 100), 64, 42, 5
THREADS = "2"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class World:
    """Made-up interactions, and what is measured on them.

    baselines : fitted on all users, and evaluated on all; `random` only on `timed`
    timed : users for whom the towers are evaluated
    """

    name: str
    users: int
    items: int
    interactions: int
    baselines: tuple[str, ...]
    timed: int

    def parts(self) -> tuple[csr_matrix, csr_matrix, csr_matrix]:
        """Train, what is masked in the test, and test, bool [users, items].

        Users' activity is log-normal, items' popularity falls with a power of their rank; items
        have their places at random.
        """
        rng = np.random.default_rng(SEED)
        activity = rng.lognormal(0, 1.2, self.users)
        popularity = rng.permutation(np.arange(1, self.items + 1) ** -0.8)
        users, items = (
            rng.choice(len(weights), self.interactions, p=weights / weights.sum())
            for weights in (activity, popularity)
        )
        pairs = rng.permutation(np.unique(users * self.items + items))
        ends = (len(pairs) * 8 // 10, len(pairs) * 9 // 10)
        return tuple(
            csr_matrix(
                (np.ones(len(some), bool), (some // self.items, some % self.items)),
                (self.users, self.items),
            )
            for some in (pairs[: ends[0]], pairs[: ends[1]], pairs[ends[1] :])
        )


WORLDS = {
    "Last.fm": World(
        "Last.fm-shaped, made up",
        users=1_892,
        items=17_632,
        interactions=92_834,
        baselines=("popularity", "random", "itemknn"),
        timed=1_892,
    ),
    "large": World(
        "137k x 156k, made up",
        users=137_000,
        items=156_000,
        interactions=10_000_000,
        baselines=("popularity", "random"),
        timed=8_192,
    ),
}


def evaluation(data: Path) -> tuple[dict, list[Check]]:
    """Measure both worlds and compare ML-1M with the reference, each in a process of its own."""
    jobs = {name: partial(measure, world) for name, world in WORLDS.items()}
    jobs["ML-1M"] = partial(compare_with_reference, data / "ml-1m" / "recbole_split.parquet")
    with tempfile.TemporaryDirectory() as folder, _threads():
        rows = {
            name: apart(job, Path(folder) / f"{name}.log", click.echo) for name, job in jobs.items()
        }
    checks = [
        Check(
            f"{WORLDS[name].name}: towers, times faiss.knn with k = {KS[-1]}",
            rows[name]["towers"]["times faiss.knn"],
            relation="<=",
            limit=2,
        )
        for name in WORLDS
    ]
    itemknn, popularity = rows["Last.fm"]["itemknn"], rows["large"]["popularity"]
    peak = max(rows[name]["peak memory, GB"] for name in WORLDS)
    for name, value, limit in (
        ("Last.fm-shaped, made up: ItemKNN, seconds", itemknn["seconds"], 10),
        ("137k x 156k, made up: popularity, seconds", popularity["seconds"], 5),
        ("ranking: peak memory, GB", peak, 8),
    ):
        checks.append(Check(name, value, relation="<=", limit=limit))
    differing = len(rows["ML-1M"]["differing"])
    checks.append(Check("ML-1M: metrics that are not as before", differing, "==", 0))
    return {"evaluation": rows}, checks


@contextmanager
def _threads():
    """Two threads for FAISS and for NumPy's products in the processes that are started here."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, THREADS))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def measure(world: World, tell: Tell) -> dict[str, Any]:
    """Seconds of the baselines and of the towers, and how much memory it took."""
    train, seen, test = world.parts()
    row: dict[str, Any] = {
        "data": world.name,
        "users": world.users,
        "items": world.items,
        "train rows": train.nnz,
        "threads": int(THREADS),
    }
    timed = slice(world.timed)
    for name in world.baselines:
        some = timed if name == "random" else slice(None)
        began = time.perf_counter()
        scorer = fit_baseline(name, train, SEED)
        fitted = time.perf_counter()
        metrics = evaluate(scorer, test[some], seen[some], KS)
        ended = time.perf_counter()
        row[name] = {
            "seconds": round(ended - began, 2),
            "of them fit": round(fitted - began, 2),
            "users ranked": metrics.users,
        }
        tell(f"  {world.name}: {name} {row[name]['seconds']:.2f} s")
    row["towers"] = towers(test[timed], seen[timed])
    tell(f"  {world.name}: towers {row['towers']['seconds']:.2f} s")
    validated = count_valid_users(None, users=world.users, items=world.items, rows=train.nnz)
    row["users of a validation by default"] = validated
    row["peak memory, GB"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2
    )
    return row


def towers(test: csr_matrix, seen: csr_matrix) -> dict[str, Any]:
    """The evaluation of random vectors beside `faiss.knn` of the same users and items.

    `faiss.knn` neither leaves seen items out nor orders ties nor computes metrics: it is a lower
    bound. Both are measured in turn; medians are compared.
    """
    import faiss

    users, items = _vectors(test.shape)
    asked = users[np.diff(test.indptr) > 0]
    scorer, seconds = TowerScorer(users, items), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        faiss.knn(asked, items, KS[-1], metric=faiss.METRIC_INNER_PRODUCT)
        searched = time.perf_counter()
        evaluate(scorer, test, seen, KS)
        seconds.append((searched - began, time.perf_counter() - searched))
    knn, ours = (median(each) for each in zip(*seconds, strict=True))
    return {
        "seconds": round(ours, 3),
        "faiss.knn, seconds": round(knn, 3),
        "times faiss.knn": round(ours / knn, 2),
        "users ranked": len(asked),
        "dim": DIM,
    }


def _vectors(shape: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, DIM), dtype=np.float32) for n in shape]


def compare_with_reference(split: Path, tell: Tell) -> dict[str, Any]:
    """The metrics on the frozen split of ML-1M that are not those of the reference."""
    rows = pd.read_parquet(split)
    users, items = (rows[name].factorize(sort=True)[0] for name in ("user_id", "item_id"))
    shape = int(users.max()) + 1, int(items.max()) + 1

    def part(*names: str) -> csr_matrix:
        some = rows["part"].isin(names)
        return csr_matrix((np.ones(some.sum(), bool), (users[some], items[some])), shape)

    train, seen, test = part("train"), part("train", "valid"), part("test")
    reference = json.loads(REFERENCE.read_text())
    differing = {}
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
        tell(f"  ML-1M: {name} ndcg@10 {found['ndcg@10']:.6f}, before {expected['ndcg@10']:.6f}")
    compared = sum(len(expected) for expected in reference["metrics"].values())
    return {"reference": reference["commit"], "compared": compared, "differing": differing}
