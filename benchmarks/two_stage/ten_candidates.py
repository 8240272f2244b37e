"""Part `ten_candidates`: the protocol of TFRS's blog on ML-100K, and what that protocol rewards.

The ratings are split 80:20 at random and seen items are not masked. Each rating in the test part is
looked for among ten candidates of its user: nDCG@10 is 1 / log2(rank + 1), or 0 if it is not among
them, averaged over the ratings. Most of a user's ten best items are seen ones, which are never in
the test part, so any order that puts them last looks like progress.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from scipy.sparse import csr_matrix

from benchmarks.quality.accuracy import finished_run
from benchmarks.report import Check, Rows
from benchmarks.two_stage.served import ServedLists
from twotower.models.evaluation.baselines import EASE, Popularity
from twotower.models.evaluation.ranking import Ranker, Scorer, is_relevant, rank_in_batches
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.steps.serve import serving
from twotower.serving.client import RetrievalClient

TEN = 10
# A tenth of the tutorial's train part is the valid part here.
OVERRIDES = (
    "positives.at_least=1",
    "split.ratios=[0.72,0.08,0.2]",
    "split.k_core=0",
    "serving.seen=train_valid",
)
PUBLISHED = {"TFRS, before ranking": 0.0057, "TFRS, after ranking": 0.0077}


def ten_candidates(data: Path) -> tuple[Rows, list[Check]]:
    """Measure ten candidates in several orders; no limits."""
    with finished_run("ml-100k-two-stage", data / "ml-100k", OVERRIDES) as run:
        evaluator = Evaluator(run, "test")
        users = np.flatnonzero(np.diff(evaluator.relevant.indptr))
        seen, relevant = evaluator.seen[users], evaluator.relevant[users]
        with serving(run) as addresses, RetrievalClient(addresses.grpc, protocol="grpc") as client:
            lists = {
                "towers": _listed(ServedLists(run, client, rank=False), users, evaluator),
                "towers and ranking model": _listed(
                    ServedLists(run, client, rank=True, candidates=TEN), users, evaluator
                ),
            }
        train = evaluator.train
        lists["popularity"] = _listed(Popularity().fit(train), users, evaluator)
        lists["ease"] = _listed(EASE().fit(train), users, evaluator)
        protocol = run.notes("preprocess")["split"]["protocol"]
    known, found = is_relevant(seen, lists["towers"]), is_relevant(relevant, lists["towers"])
    lists["towers, seen items moved last"] = _reordered(lists["towers"], known)
    lists["towers, perfect order"] = _reordered(lists["towers"], ~found)
    values = {name: _per_rating(each, relevant) for name, each in lists.items()}
    for name, value in values.items():
        click.echo(f"  {name}: {value:.4f}")
    return {
        "ten candidates": {
            "nDCG@10 per rating of the test part": values,
            "published": PUBLISHED,
            "seen among the ten of the towers": float(known.mean()),
            "split": protocol,
        }
    }, []


def _listed(model: Scorer | Ranker, users: np.ndarray, evaluator: Evaluator) -> np.ndarray:
    """The ten best items of users by a model, seen ones included, as rows int64 [n, 10]."""
    nothing = csr_matrix(evaluator.train.shape, dtype=bool)
    everything = np.ones(evaluator.train.shape[1], bool)
    batches = rank_in_batches(model, users, nothing, TEN, everything, batch_size=1024)
    return np.concatenate([ranked for _, ranked in batches])


def _reordered(ranked: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The lists with some items moved to their end, in the same order otherwise."""
    return np.take_along_axis(ranked, np.argsort(last, axis=1, kind="stable"), axis=1)


def _per_rating(ranked: np.ndarray, relevant: csr_matrix) -> float:
    hits = is_relevant(relevant, ranked)
    return float((hits / np.log2(np.arange(TEN) + 2)).sum() / relevant.nnz)
