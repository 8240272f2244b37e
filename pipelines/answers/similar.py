"""Items that are similar to an item, by the cosine of their vectors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from twotower.pipelines.answers.published import open_published
from twotower.pipelines.console import console
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.query import as_text, shown_items
from twotower.serving.local import LocalVersion

MAX_MATCHED = 100_000
"""Maximum number of items that an unknown text id is compared with, which takes a second."""


class Similar(NamedTuple):
    """The items that are similar to some items.

    Attributes
    ----------
    version : int
        The number of the version that answered.
    items : dict
        The id of each item asked for, to the result of `most_similar`.
    shown : DataFrame
        The columns that the setting `show` names, by item id.
    """

    version: int
    items: dict[Any, pd.DataFrame]
    shown: pd.DataFrame


def similar(run: Run, items: Sequence[Any], k: int) -> Similar:
    """Print, for each of the items, a table of the k items that are most similar to it.

    Parameters
    ----------
    run : Run
        Has a published version.
    items : sequence of int or str
        Raw item ids.
    k : int
        Items per table.

    Returns
    -------
    Similar

    Raises
    ------
    RunError
        If nothing is published, or the version does not answer with one of the items.
    """
    with run.reading("ingest"):
        shown = shown_items(run)
        number, version = open_published(run)
        found = {item: most_similar(version, item, k) for item in items}
    for item, rows in found.items():
        rendered = Table(title=as_text(f"similar to {item}"), title_justify="left")
        for name in ("#", version.contract.item_id, *shown.columns, "cosine"):
            rendered.add_column(Text(name), justify="left" if name in shown else "right")
        columns = shown.reindex(rows["item"])
        for place, (item_id, score) in enumerate(zip(rows["item"], rows["score"], strict=True)):
            cells = [as_text(value) for value in columns.iloc[place]]
            rendered.add_row(str(place + 1), as_text(item_id), *cells, f"{score:.4f}")
        console.print(rendered)
    return Similar(number, found, shown)


def most_similar(version: LocalVersion, item: Any, k: int) -> pd.DataFrame:
    """The k items whose vectors have the highest cosine similarity to that of an item.

    Parameters
    ----------
    version : LocalVersion
    item : int or str
        Raw item id.
    k : int
        Number of items.

    Returns
    -------
    DataFrame
        Columns item, rank (from 1), score (cosine); best first, equal scores by item id.

    Raises
    ------
    RunError
        If the version does not answer with the item.
    """
    ids, vectors = version.item_ids, version.item_vectors
    positions = np.flatnonzero(ids == item)
    if not len(positions):
        raise RunError(
            f"item {item} is not among the {len(ids):,} items that the model answers with"
            f"{_near(ids, item)}"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    own = positions[0]
    scores = vectors @ vectors[own] / np.maximum(lengths * lengths[own], 1e-12)
    scores[own] = -np.inf
    scores[version.denied] = -np.inf
    best = np.argsort(-scores, kind="stable")[: min(k, int(np.isfinite(scores).sum()))]
    ranks = np.arange(1, len(best) + 1)
    return pd.DataFrame({"item": ids[best], "rank": ranks, "score": scores[best]})


def _near(ids: np.ndarray, item: Any) -> str:
    """Name items with a similar text id, if there are any."""
    if ids.dtype != object or len(ids) > MAX_MATCHED:
        return ""
    matches = difflib.get_close_matches(str(item), ids.tolist())
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
