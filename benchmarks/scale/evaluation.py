"""Evaluation over a catalogue as large as Ali-CCP's, beside an exact search by FAISS."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twotower.pipelines.child import run_in_subprocess

KS, CHUNK, SEEN, COMPARED = (10, 100), 8192, 8, 500
EVERY = 4
"""FAISS searches for every fourth chunk of users, because it takes longer than the evaluation."""


def measure_evaluation(users: int = 200_000, items: int = 568_847, dim: int = 64) -> dict:
    """Measure `evaluate` beside `faiss.knn` on the same vectors, with the same k and threads.

    Both take turns, `CHUNK` users each, so that what disturbs the machine disturbs both, but
    `faiss.knn` only every fourth. It masks no seen items, does not order ties and computes no
    metrics.

    Parameters
    ----------
    users, items, dim : int
        Sizes; the vectors are random, each user has `SEEN` seen items and one to be found.

    Returns
    -------
    dict
        "seconds", "faiss.knn, seconds" (of all users, from those searched for) and their "ratio";
        "vectors, GB" and "resident peak, GB" of the process, and "added by evaluation, GB"; "equal
        ids": the share of the items of `COMPARED` users that both find at the same rank, if nothing
        is masked. FAISS and NumPy have a BLAS each, whose rounding may swap items with nearly equal
        scores.
    """
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        work = partial(_measure, users=users, items=items, dim=dim)
        return run_in_subprocess(work, Path(folder) / "child.log")


def _measure(send: Callable[[Any], None], users: int, items: int, dim: int) -> dict:
    import faiss
    from scipy.sparse import csr_matrix

    from benchmarks.scale.memory import peak_gb
    from twotower.models.evaluation.metrics import evaluate
    from twotower.models.two_tower import TowerScorer

    random = np.random.default_rng(0)
    queries, vectors = (random.standard_normal((n, dim), dtype=np.float32) for n in (users, items))
    wanted = random.integers(0, items, users)
    everyone = np.arange(users)
    seen = csr_matrix(
        (
            np.ones(users * SEEN, bool),
            (np.repeat(everyone, SEEN), random.integers(0, items, users * SEEN)),
        ),
        shape=(users, items),
    )
    scorer, k = TowerScorer(queries, vectors), max(KS)
    search = partial(faiss.knn, xb=vectors, k=k, metric=faiss.METRIC_INNER_PRODUCT)

    def measured(chunk: slice) -> None:
        rows = everyone[chunk]
        relevant = csr_matrix((np.ones(len(rows), bool), (rows, wanted[chunk])), seen.shape)
        evaluate(scorer, relevant, seen, KS, repeats=True)

    measured(slice(9))  # what the libraries take once
    before, ours, theirs, searched = peak_gb(), 0.0, 0.0, 0
    for start in range(0, users, CHUNK):
        began = time.perf_counter()
        measured(slice(start, start + CHUNK))
        ours += time.perf_counter() - began
        send(f"{start:,} of {users:,} users")
        if start == 0:
            added = peak_gb() - before
        if start // CHUNK % EVERY == 0:
            began = time.perf_counter()
            searched += len(search(queries[start : start + CHUNK])[1])
            theirs += time.perf_counter() - began
    theirs *= users / searched
    some = everyone[:COMPARED]
    nothing = csr_matrix((len(some), items), dtype=bool)
    ranked = scorer.rank(some, nothing, k, np.ones(items, bool))
    return {
        "users": users,
        "items": items,
        "dim": dim,
        "k": k,
        "threads": faiss.omp_get_max_threads(),
        "seconds": round(ours, 1),
        "faiss.knn, seconds": round(theirs, 1),
        "ratio": round(ours / theirs, 3),
        "vectors, GB": round((queries.nbytes + vectors.nbytes) / 1e9, 3),
        "added by evaluation, GB": round(added, 3),
        "resident peak, GB": round(peak_gb(), 3),
        "equal ids": float((ranked == search(queries[:COMPARED])[1]).mean()),
    }
