"""Parts `served` and `by_time`: lists before and after the ranking model, by a real server.

And part `served_speed`: what the ranking model costs.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from benchmarks.quality.accuracy import SEEDS, finished_run, frozen_split
from benchmarks.report import Check, Rows
from benchmarks.serving.subjects import resident_memory
from twotower.models.evaluation.metrics import USER_METRICS
from twotower.models.evaluation.significance import paired_difference
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import load_ids, read_ids
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.verify import Verification, verify
from twotower.serving.client import RetrievalClient
from twotower.serving.repository import ModelRepository
from twotower.serving.triton.server import TritonServer

K, USERS_PER_REQUEST = 10, 64
BEFORE, AFTER = "towers", "towers and ranking model"
BATCH, WARM_UP, ROUNDS, REQUESTS = 256, 30, 9, 100
LIMITS = {"one user": 3.0}


class ServedLists:
    """Ranks by asking a server for items that are not seen, by either model.

    Parameters
    ----------
    run : Run
    client : RetrievalClient
    rank : bool
        Whether to ask the model `recommend`.
    candidates : int, optional
        How many items the ranking model orders.
    """

    def __init__(
        self, run: Run, client: RetrievalClient, rank: bool, candidates: int | None = None
    ) -> None:
        ids, (users, items) = read_ids(run), load_ids(run)
        self.users, self.items = ids.users.decode(users), ids.items.decode(items)
        self.rows = pd.Index(self.items)
        self.client, self.rank_them, self.candidates = client, rank, candidates

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return item rows int64 [n, k] of user rows [n], best first, padded with -1."""
        ranked = np.full((len(users), k), -1)
        others = np.flatnonzero(~candidates)
        for start in range(0, len(users), USERS_PER_REQUEST):
            rows = range(start, min(start + USERS_PER_REQUEST, len(users)))
            left_out = [
                np.union1d(seen.indices[seen.indptr[row] : seen.indptr[row + 1]], others)
                for row in rows
            ]
            found = self.client.recommend(
                self.users[users[list(rows)]].tolist(),
                k,
                filter_seen=False,
                exclude_item_ids=[self.items[each].tolist() for each in left_out],
                rank=self.rank_them,
                candidates=self.candidates,
            )
            places = self.rows.get_indexer(np.ravel(found.item_ids)).reshape(found.item_ids.shape)
            ranked[list(rows)] = np.where(np.isfinite(found.scores), places, -1)
        return ranked


def measure(run: Run) -> dict[str, Any]:
    """Measure both models of a run's server on the test part, with a paired interval."""
    run.override((f"evaluation.ks=[{K}]",), keep=False)
    evaluator = Evaluator(run, "test")
    place = USER_METRICS.index("ndcg")
    values: dict[str, list[np.ndarray]] = {BEFORE: [], AFTER: []}
    rows: dict[str, Any] = {}
    with serving(run) as addresses, RetrievalClient(addresses.grpc, protocol="grpc") as client:
        for name, rank in ((BEFORE, False), (AFTER, True)):

            def keep(users: np.ndarray, each: np.ndarray, name: str = name) -> None:
                values[name].append(each[:, place, 0])

            metrics = evaluator.evaluate(ServedLists(run, client, rank), on_users=keep)
            rows[name] = metrics.values
    found = paired_difference(np.concatenate(values[AFTER]), np.concatenate(values[BEFORE]))
    baselines = run.notes("evaluate")["metrics"]
    rows |= {name: _at_k(baselines[name]) for name in ("popularity", "ease")}
    rows["NDCG@10 gained"] = {"mean": found.mean, "low": found.low, "high": found.high}
    rows["ranking model"] = {
        key: run.notes("rank")[key] for key in ("epochs", "metrics", "users", "held_out")
    }
    rows["training of the ranking model, s"] = run.manifest["steps"]["rank"]["seconds"]
    rows["split"] = run.notes("preprocess")["split"]["protocol"]
    click.echo(f"  {rows[BEFORE]['ndcg@10']:.4f} -> {rows[AFTER]['ndcg@10']:.4f}")
    return rows


def _at_k(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.endswith(f"@{K}")}


def served(data: Path) -> tuple[Rows, list[Check]]:
    """Measure three seeds on the frozen split of ML-1M."""
    rows: Rows = {}
    for seed in SEEDS:
        overrides = (*frozen_split(data), f"training.seed={seed}")
        with finished_run("ml-1m-two-stage", data / "ml-1m", overrides) as run:
            rows[f"frozen, seed {seed}"] = measure(run)
            verified = verify(run, count=200, k=20)
            assert isinstance(verified, Verification)  # the index is exact
            found = verified
    gains = [rows[f"frozen, seed {seed}"]["NDCG@10 gained"]["mean"] for seed in SEEDS]
    before = [rows[f"frozen, seed {seed}"][BEFORE]["ndcg@10"] for seed in SEEDS]
    after = [rows[f"frozen, seed {seed}"][AFTER]["ndcg@10"] for seed in SEEDS]
    errors = [
        rows[f"frozen, seed {seed}"]["ranking model"]["metrics"]["calibration_error"]
        for seed in SEEDS
    ]
    rows["frozen, mean"] = {BEFORE: float(np.mean(before)), AFTER: float(np.mean(after))}
    share = float(np.mean(gains) / np.mean(before))
    return {"served": rows}, [
        Check("frozen split: NDCG@10 gained by ranking, worst of 3 seeds", min(gains), ">=", 0),
        Check("frozen split: NDCG@10 gained by ranking, share, mean", share, ">=", 0.01),
        Check("ranking model, served lists: calibration error", max(errors), "<=", 0.02),
        Check(
            "recommend: ids that differ from an offline computation", found.wrong_ranked, "==", 0
        ),
        Check(
            "recommend: largest difference of a probability",
            found.largest_probability_difference,
            "<=",
            1e-5,
        ),
    ]


def by_time(data: Path) -> tuple[Rows, list[Check]]:
    """Measure ML-100K with each user's last positives as test."""
    with chronological_split(data) as split:
        overrides = ("split.method=file", f"split.path={split}", "split.k_core=0")
        with finished_run("ml-100k-two-stage", data / "ml-100k", overrides) as run:
            row = measure(run)
    high = row["NDCG@10 gained"]["high"]
    check = Check("ML-100K by time: NDCG@10 gained, upper end of 95 %", high, ">=", 0)
    return {"by time": row}, [check]


@contextlib.contextmanager
def chronological_split(data: Path) -> Iterator[Path]:
    """Write the split of ML-100K in which each user's last positives are valid and test."""
    names = ["user_id", "item_id", "rating", "time"]
    rows = pd.read_csv(data / "ml-100k" / "u.data", sep="\t", names=names)
    rows = rows[rows["rating"] >= 3].sort_values(["user_id", "time"], kind="stable")
    place = rows.groupby("user_id").cumcount()
    count = rows.groupby("user_id")["item_id"].transform("size")
    rows, place, count = (each[count >= 10] for each in (rows, place, count))
    share = (place + 0.5) / count
    rows["part"] = np.select([share < 0.8, share < 0.9], ["train", "valid"], "test")
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        path = Path(folder) / "by-time.parquet"
        rows[["user_id", "item_id", "part"]].to_parquet(path, index=False)
        yield path


def served_speed(data: Path) -> tuple[Rows, list[Check]]:
    """Measure the time of a request to both models, in turn, and the memory of the server."""
    with finished_run("ml-1m-history", data / "ml-1m", frozen_split(data)) as bare:
        alone = _memory(bare, ranked=False)
    with finished_run("ml-1m-two-stage", data / "ml-1m", frozen_split(data)) as run:
        users = load_ids(run)[0].tolist()
        together, files = _memory(run, ranked=True), _ranking_megabytes(run)
        with serving(run) as addresses, RetrievalClient(addresses.http) as client:
            medians = {
                name: _medians(client, users, count)
                for name, count in (("one user", 1), (f"{BATCH} users", BATCH))
            }
    ratio = together / (alone + files)
    checks = [
        Check(
            f"recommend, {name}: p50 over retrieval", each["recommend"] / each["retrieval"], "<=", 3
        )
        for name, each in medians.items()
        if name in LIMITS
    ]
    checks.append(Check("all models: resident memory over retrieval alone", ratio, "<=", 1.5))
    rows = {
        "p50, ms": medians,
        "candidates": run.config.ranking.candidates,
        "resident memory, MB": {"retrieval alone": alone, "all models": together},
        "files of the ranking model, MB": files,
    }
    return {"served speed": rows}, checks


def _medians(client: RetrievalClient, users: list[int], count: int) -> dict[str, float]:
    """The median ms of a request of each model, the models in turn, always for other users."""
    draw = np.random.default_rng(0)
    times: dict[str, list[float]] = {"retrieval": [], "recommend": []}
    requests = REQUESTS if count == 1 else 5

    def ask(rank: bool) -> float:
        asked = draw.choice(users, count, replace=False).tolist()
        started = time.perf_counter()
        client.recommend(asked, K, rank=rank)
        return time.perf_counter() - started

    for _ in range(WARM_UP):
        ask(rank=False)
        ask(rank=True)
    for _ in range(ROUNDS):
        for name, rank in (("retrieval", False), ("recommend", True)):
            times[name] += [ask(rank) for _ in range(requests)]
    medians = {name: round(float(np.median(each)) * 1e3, 3) for name, each in times.items()}
    click.echo(f"  {count} users, ms: {medians}")
    return medians


def _memory(run: Run, ranked: bool) -> float:
    """The resident memory of a server, in MB, after requests to `retrieval`, or to all models."""
    log = run.path / "logs" / "triton.log"
    with TritonServer(run.path / TRITON, log=log) as server:
        with RetrievalClient(server.http) as client:
            users = read_ids(run).users.decode(load_ids(run)[0][:BATCH]).tolist()
            item = int(client.recommend(users, K).item_ids[0, 0])
            if ranked:
                client.recommend(users, K, rank=True)
                client.similar([[item]])
        return resident_memory(server)["whole_mb"]


def _ranking_megabytes(run: Run) -> float:
    repository = ModelRepository(run.path / TRITON)
    folder = repository.model / str(repository.published) / "RankCandidates"
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6
