"""Compare a server's answers from an approximate index with brute force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twotower.pipelines.errors import RunError
from twotower.pipelines.run import TRITON, Run
from twotower.serving.repository import ModelRepository

TOLERANCE = 0.05
"""How far the recall may be below the wanted one, which was measured without seen items."""


@dataclass(frozen=True)
class Approximate:
    """How good the answers from an approximate index are.

    Attributes
    ----------
    kind : str
        As `serving.index.kind`.
    recall : float
        The mean fraction of the exact answers that the server gave.
    wanted : float
        The recall that the export wanted, at 100 items.
    excluded : int
        Number of answered items that must not be answered, such as seen ones.
    """

    kind: str
    recall: float
    wanted: float
    excluded: int

    @property
    def holds(self) -> bool:
        """Whether the answers are as an approximate index promises them."""
        return self.recall >= self.wanted - TOLERANCE and not self.excluded

    def __str__(self) -> str:
        return (
            f"{self.kind} index with recall {self.recall:.3f} of brute force (wanted at export: "
            f"{self.wanted:g}), {self.excluded} excluded items"
        )


def index_metadata(run: Run) -> dict[str, Any]:
    """The metadata of the published version's approximate index; empty for an exact one."""
    repository = ModelRepository(run.path / TRITON)
    path = Path(repository.model) / str(repository.published) / "FaissTopK" / "index.json"
    metadata = json.loads(path.read_text()) if path.is_file() else {}
    return metadata if "kind" in metadata else {}


def check_approximate(
    metadata: dict[str, Any],
    answers: Sequence[np.ndarray],
    item_ids: np.ndarray,
    scores: np.ndarray,
) -> Approximate:
    """Compare several answers with brute force, and return the first comparison.

    Parameters are as in `compare`; an answer may be for the first rows of `scores` only.

    Raises
    ------
    RunError
        If an answer has too low a recall or an excluded item.
    """
    found = [compare(metadata, each, item_ids, scores[: len(each)]) for each in answers]
    for each in found:
        if not each.holds:
            raise RunError(f"the server's answers are wrong: {each}; run `twotower export` again")
    return found[0]


def compare(
    metadata: dict[str, Any],
    answered: np.ndarray,
    item_ids: np.ndarray,
    scores: np.ndarray,
) -> Approximate:
    """Compare answers with the scores of all items.

    Parameters
    ----------
    metadata : dict of str to Any
        Of the index.
    answered : ndarray of int64, shape (n, k)
        Codes of items; other numbers where there is none.
    item_ids : ndarray of int64, shape (items,)
        Codes, ascending.
    scores : ndarray of float32, shape (n, items)
        -inf for items that must not be answered.
    """
    places = np.minimum(np.searchsorted(item_ids, answered), len(item_ids) - 1)
    known = item_ids[places] == answered
    own = np.take_along_axis(scores, places, axis=1)
    excluded = int((known & np.isneginf(own)).sum())
    k = min(answered.shape[1], scores.shape[1])
    # An item counts as found if it scores at least as high as the last exact one.
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    least = np.maximum(least, np.finfo(np.float32).min)  # with fewer than k items left
    possible = np.minimum(k, np.isfinite(scores).sum(axis=1))
    found = (known & (own >= least)).sum(axis=1)
    recall = float(np.mean(found[possible > 0] / possible[possible > 0]))
    return Approximate(metadata["kind"], recall, metadata["recall"]["wanted"], excluded)
