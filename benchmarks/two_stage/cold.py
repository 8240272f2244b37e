"""Parts `cold_users` and `cold_items`: people and films that training has not seen."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from benchmarks.quality.accuracy import finished_run
from benchmarks.report import Check, Rows
from twotower.models.evaluation.baselines import Popularity
from twotower.models.evaluation.metrics import evaluate
from twotower.models.evaluation.ranking import Ranker, Scorer
from twotower.pipelines.answers.published import open_published
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate as evaluate_step
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_ids, preprocess, read_ids
from twotower.pipelines.steps.processed import ITEMS
from twotower.pipelines.steps.train import train
from twotower.serving.client.values import Filters
from twotower.serving.local import LocalVersion

COLD_SHARE, MIN_POSITIVES, SEEDS = 0.2, 20, (1, 2, 3)
TOLD = (0, 1, 3, 5, 10)
KS, BATCH = (10, 100), 256
FEATURES = "features.user=[gender, age, occupation]"
CONFIGS_OF_USERS = ("ml-1m-history", "ml-1m")
CONTENT = (
    "split={method: cold_items}",
    "features.item=[year]",
    "features.item_multi_hot={genres: 6}",
    "features.item_text={title: 8}",
    "evaluation.catalogue=part",
    "evaluation.baselines=[popularity, random]",
)


class ToldLists:
    """Ranks for users of whom only some items are known, which a request names."""

    def __init__(self, run: Run, version: LocalVersion, told: csr_matrix) -> None:
        ids, (users, items) = read_ids(run), load_ids(run)
        self.users, self.items = ids.users.decode(users), ids.items.decode(items)
        self.rows, self.version, self.told = pd.Index(self.items), version, told
        self.history = run.config.features.history_column

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return item rows int64 [n, k] of user rows [n], best first, padded with -1."""
        ranked = np.full((len(users), k), -1)
        others = self.items[~candidates].tolist()
        for start in range(0, len(users), BATCH):
            batch = users[start : start + BATCH]
            lists = [self.items[self.told[user].indices].tolist() for user in batch]
            features: dict[str, Any] = {}
            if self.told.nnz and self.history is not None:
                features[self.history] = lists
            filters = Filters(exclude_item_ids=[[*own, *others] for own in lists])
            asked = self.users[batch].tolist()
            found, scores = self.version.answer(asked, k, False, features, filters)
            places = self.rows.get_indexer(np.ravel(found)).reshape(found.shape)
            ranked[start : start + len(batch)] = np.where(np.isfinite(scores), places, -1)
        return ranked


def cold_users(data: Path) -> tuple[Rows, list[Check]]:
    """Measure users without a row in training: by their features, and with a few items told."""
    rows: Rows = {}
    for name in CONFIGS_OF_USERS:
        own = [FEATURES] if name == "ml-1m-history" else []
        with users_left_out(data) as split:
            overrides = ("split.method=file", f"split.path={split}", "split.k_core=0", *own)
            with finished_run(name, data / "ml-1m", overrides) as run:
                rows[name] = _measure(run, TOLD if name == "ml-1m-history" else (0,))
    base = rows["ml-1m-history"]
    five = base["5 items told"]
    by_features = {
        name: rows[name]["0 items told"]["recall@100 over popularity"] for name in CONFIGS_OF_USERS
    }
    return {"cold users": rows}, [
        Check(
            "cold users by features: R@100 over popularity", max(by_features.values()), ">=", 1.03
        ),
        Check(
            "cold users, 5 items told: R@10 over popularity",
            five["recall@10 over popularity"],
            ">=",
            1.3,
        ),
    ]


@contextlib.contextmanager
def users_left_out(data: Path) -> Iterator[Path]:
    """Write a split of ML-1M in which a fifth of the users has all positives in test."""
    names = ["user_id", "item_id", "rating", "time"]
    rows = pd.read_csv(data / "ml-1m" / "ratings.dat", sep="::", engine="python", names=names)
    rows = rows[rows["rating"] >= 3]
    rows = rows[rows.groupby("user_id")["item_id"].transform("size") >= MIN_POSITIVES]
    draw = np.random.default_rng(1)
    users = draw.permutation(rows["user_id"].unique())
    is_cold = rows["user_id"].isin(users[: round(COLD_SHARE * len(users))])
    is_valid = draw.random(len(rows)) < 0.1
    rows["part"] = np.select([is_cold, is_valid], ["test", "valid"], "train")
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        path = Path(folder) / "cold-users.parquet"
        rows[["user_id", "item_id", "part"]].to_parquet(path, index=False)
        yield path


def _measure(run: Run, numbers: tuple[int, ...]) -> dict[str, Any]:
    """Recall of users of the test part beside popularity, with some of their items told."""
    evaluator, version = Evaluator(run, "test"), open_published(run).version
    popularity = Popularity().fit(evaluator.train)
    rows: dict[str, Any] = {"split": "a fifth of the users has no positive in training"}
    for number in numbers:
        told, rest = _tell(evaluator.relevant, number)
        values = {
            "towers": _recall(ToldLists(run, version, told), rest, told),
            "popularity": _recall(popularity, rest, told),
        }
        ratios = {
            f"{metric} over popularity": values["towers"][metric] / values["popularity"][metric]
            for metric in values["towers"]
        }
        rows[f"{number} items told"] = {**values, **ratios}
        click.echo(f"  {run.config.name}, {number} told: {values}")
    return rows


def _tell(relevant: csr_matrix, number: int) -> tuple[csr_matrix, csr_matrix]:
    """Divide the positives of each user at random into some that are told and the others."""
    draw = np.random.default_rng(2)
    rows = np.repeat(np.arange(relevant.shape[0]), np.diff(relevant.indptr))
    order = np.lexsort((draw.random(len(rows)), rows))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - np.repeat(relevant.indptr[:-1], np.diff(relevant.indptr))
    found = []
    for part in (place < number, place >= number):
        pairs = (rows[part], relevant.indices[part])
        found.append(csr_matrix((np.ones(part.sum(), bool), pairs), relevant.shape))
    return found[0], found[1]


def _recall(model: Scorer | Ranker, relevant: csr_matrix, seen: csr_matrix) -> dict[str, float]:
    values = evaluate(model, relevant, seen, KS).values
    return {f"recall@{k}": values[f"recall@{k}"] for k in KS}


class GenreNeighbours:
    """Scores items by the cosine of their genres to those of the user's history."""

    def __init__(self, run: Run, train: csr_matrix) -> None:
        genres = pd.read_parquet(run.path / "data" / ITEMS, columns=["item_id", "genres"])
        genres = genres.sort_values("item_id")["genres"].reset_index(drop=True)
        has = pd.get_dummies(genres.explode()).groupby(level=0).max().to_numpy(np.float32)
        self.items = has / np.maximum(np.linalg.norm(has, axis=1, keepdims=True), 1e-9)
        self.users = train.astype(np.float32) @ self.items

    def score(self, users: np.ndarray) -> np.ndarray:
        """Return scores float32 [n, n_items]."""
        return self.users[users] @ self.items.T


def cold_items(data: Path) -> tuple[Rows, list[Check]]:
    """Measure films without a row in training among each other, by genres, year and title words."""
    found: dict[str, dict[str, float]] = {}
    for seed in SEEDS:
        config = load_config(
            CONFIGS / "ml-1m-history.yaml", (*CONTENT, f"split.seed={seed}"), data / "ml-1m"
        )
        with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
            run = Run.create(config, Path(folder) / "cold")
            ingest(run, remember=False)
            preprocess(run)
            train(run)
            metrics = evaluate_step(run)
            evaluator = Evaluator(run, "test")
            neighbours = evaluator.evaluate(GenreNeighbours(run, evaluator.train)).values
        found[str(seed)] = {
            "towers": metrics["two-tower"]["recall@10"],
            "genre neighbours": neighbours["recall@10"],
            "random": metrics["random"]["recall@10"],
        }
        click.echo(f"  cold items, seed {seed}: {found[str(seed)]}")
    mean = pd.DataFrame(found).mean(axis=1)
    rows = {
        "recall@10 among the cold items of the test part": {
            name: round(float(value), 4) for name, value in mean.items()
        },
        "seeds": found,
        "split": "items at random 80:10:10",
        "content": "genres, year, words of the title",
    }
    over_random = float(mean["towers"] / mean["random"])
    over_genres = float(mean["towers"] / mean["genre neighbours"])
    return {"cold items": rows}, [
        Check("cold items: R@10 over random", over_random, ">=", 3),
        Check("cold items: R@10 over genre neighbours", over_genres, ">=", 1),
    ]
