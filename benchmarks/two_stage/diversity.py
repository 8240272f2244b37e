"""Part `diversity`: how much accuracy a more diverse list costs."""

from __future__ import annotations

import click
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from benchmarks.report import Check, Rows
from twotower.pipelines.answers.published import open_published
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids, read_ids
from twotower.pipelines.steps.processed import ITEMS
from twotower.serving.client.values import Filters
from twotower.serving.local import LocalVersion

K, BATCH = 10, 256
VALUES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
GAIN = 1.08
"""How much more diverse lists are to be."""
LOST = 0.02
"""How much of NDCG@10 that may cost."""


class DiverseRanker:
    """Ranks by a version of a run, in this process, with a given `diversity`.

    Attributes
    ----------
    cosines, genres : list of float
        Of each ranked list, the mean over its pairs of items of 1 - the cosine of their vectors,
        and of 1 - the Jaccard index of their genres.
    """

    def __init__(self, run: Run, version: LocalVersion, diversity: float, by: str | None) -> None:
        ids, (users, items) = read_ids(run), load_ids(run)
        self.users, self.items = ids.users.decode(users), ids.items.decode(items)
        self.version, self.diversity, self.by = version, diversity, by
        lengths = np.linalg.norm(version.item_vectors, axis=1, keepdims=True)
        self.units = version.item_vectors / np.where(lengths > 0, lengths, 1)
        table = pd.read_parquet(run.path / "data" / ITEMS).set_index("item_id")["genres"]
        names = table.reindex(ids.items.codes(version.item_ids))
        self.has = pd.get_dummies(names.explode()).groupby(level=0).max().reindex(names.index)
        self.has = self.has.to_numpy(np.float32)
        self.cosines: list[float] = []
        self.genres: list[float] = []

    def rank(
        self, users: np.ndarray, seen: csr_matrix, k: int, candidates: np.ndarray
    ) -> np.ndarray:
        """Return item rows int64 [n, k] of user rows [n], best first, padded with -1."""
        ranked = np.full((len(users), k), -1)
        for first in range(0, len(users), BATCH):
            rows = range(first, min(first + BATCH, len(users)))
            left_out = [
                np.union1d(
                    seen.indices[seen.indptr[row] : seen.indptr[row + 1]],
                    np.flatnonzero(~candidates),
                )
                for row in rows
            ]
            filters = Filters(
                exclude_item_ids=[self.items[each].tolist() for each in left_out],
                diversity=self.diversity,
                diversity_by=self.by,
            )
            asked = self.users[users[list(rows)]].tolist()
            found, scores = self.version.answer(asked, k, False, filters=filters)
            for row, items, kept in zip(rows, found, np.isfinite(scores), strict=True):
                places = np.searchsorted(self.items, items[kept])
                ranked[row, : len(places)] = places
                self._measure(items[kept])
        return ranked

    def _measure(self, items: np.ndarray) -> None:
        places = np.searchsorted(self.version.item_ids, items)
        pairs, units, has = np.triu_indices(len(items), 1), self.units[places], self.has[places]
        self.cosines.append(float(1 - (units @ units.T)[pairs].mean()))
        both, sizes = has @ has.T, has.sum(axis=1)
        either = sizes[:, None] + sizes - both
        self.genres.append(float(1 - (both / np.maximum(either, 1))[pairs].mean()))


def diversity(run: Run) -> tuple[Rows, list[Check]]:
    """Choose `diversity` on valid, so that lists are GAIN more diverse, and measure it on test."""
    run.override((f"evaluation.ks=[{K}]",), keep=False)  # lists of K items, and not longer ones
    version = open_published(run).version
    rows: Rows = {}
    checks: list[Check] = []
    for by in ("genres", None):
        valid = {value: _measured(run, version, "valid", value, by) for value in VALUES}
        plain = valid[0.0]["distance of genres"]
        enough = [each for each in VALUES if valid[each]["distance of genres"] >= GAIN * plain]
        chosen = min(enough, default=max(VALUES))
        test = {value: _measured(run, version, "test", value, by) for value in (0.0, chosen)}
        gain = test[chosen]["distance of genres"] / test[0.0]["distance of genres"]
        lost = 1 - test[chosen]["ndcg@10"] / test[0.0]["ndcg@10"]
        rows[f"diversity by {by or 'vectors'}"] = {
            "valid": {str(value): each for value, each in valid.items()},
            "chosen on valid": chosen,
            "test": {str(value): each for value, each in test.items()},
            "gain": gain,
            "NDCG@10 lost": lost,
            "split": run.notes("preprocess")["split"]["protocol"],
        }
        if by:
            checks = [
                Check(f"diversity by {by}: distance in a list, test", gain, ">=", GAIN - 0.01),
                Check(f"diversity by {by}: NDCG@10 lost, test", lost, "<=", LOST),
            ]
    return rows, checks


def _measured(
    run: Run, version: LocalVersion, part: str, value: float, by: str | None
) -> dict[str, float]:
    ranker = DiverseRanker(run, version, value, by)
    metrics = Evaluator(run, part).evaluate(ranker).values
    found = {
        "ndcg@10": metrics["ndcg@10"],
        "distance of vectors": float(np.mean(ranker.cosines)),
        "distance of genres": float(np.mean(ranker.genres)),
    }
    click.echo(f"  {part}, diversity {value} by {by or 'vectors'}: {found}")
    return found
