"""Items that are similar to an item or to a basket of items, by the cosine of their vectors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from twotower.pipelines.answers.published import open_published
from twotower.pipelines.answers.request import ALL, FiltersForAll, Id
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
        The id of each item asked for, or the ids of all items of a basket as a tuple, to the result
        of `most_similar`.
    shown : DataFrame
        The columns that the setting `show` names, by item id.
    """

    version: int
    items: dict[Any, pd.DataFrame]
    shown: pd.DataFrame


def similar(
    run: Run,
    items: Sequence[Id],
    k: int,
    together: bool = False,
    filters: FiltersForAll = ALL,
) -> Similar:
    """Print, for each of the items, a table of the k items that are most similar to it.

    Parameters
    ----------
    run : Run
        Has a published version.
    items : sequence of int or str
        Raw item ids.
    k : int
        Items per table.
    together : bool
        Whether to print one table of the items that are similar to all of them, as a basket.
    filters : FiltersForAll, optional
        What the answers may hold.

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
        asked: dict[Any, Sequence[Id]] = {item: [item] for item in items}
        if together:
            asked = {tuple(asked): list(asked)}
        found = {key: most_similar(version, each, k, filters) for key, each in asked.items()}
    for key, rows in found.items():
        title = f"similar to {', '.join(map(str, asked[key]))}"
        rendered = Table(title=as_text(title), title_justify="left")
        for name in ("#", version.contract.item_id, *shown.columns, "cosine"):
            rendered.add_column(Text(name), justify="left" if name in shown else "right")
        columns = shown.reindex(rows["item"])
        for place, (item_id, score) in enumerate(zip(rows["item"], rows["score"], strict=True)):
            cells = [as_text(value) for value in columns.iloc[place]]
            rendered.add_row(str(place + 1), as_text(item_id), *cells, f"{score:.4f}")
        console.print(rendered)
    return Similar(number, found, shown)


def most_similar(
    version: LocalVersion, items: Sequence[Id], k: int, filters: FiltersForAll = ALL
) -> pd.DataFrame:
    """The k items that are most similar to some items together, see `RetrievalClient.similar`.

    Parameters
    ----------
    version : LocalVersion
    items : sequence of int or str
        Raw item ids.
    k : int
        Number of items.
    filters : FiltersForAll, optional
        What the answer may hold.

    Returns
    -------
    DataFrame
        Columns item, rank (from 1), score (cosine); best first, equal scores by item id.

    Raises
    ------
    RunError
        If the version does not answer with one of the items.
    """
    ids = version.item_ids
    if unknown := [item for item in items if item not in ids]:
        raise RunError(
            f"item {unknown[0]} is not among the {len(ids):,} items that the model answers with"
            f"{_near(ids, unknown[0])}"
        )
    size = min(k, len(ids))
    (found,), (scores,) = version.similar([items], size, filters.of(1))
    left = np.isfinite(scores)
    ranks = np.arange(1, int(left.sum()) + 1)
    return pd.DataFrame({"item": found[left], "rank": ranks, "score": scores[left]})


def _near(ids: np.ndarray, item: Any) -> str:
    """Name items with a similar text id, if there are any."""
    if ids.dtype != object or len(ids) > MAX_MATCHED:
        return ""
    matches = difflib.get_close_matches(str(item), ids.tolist())
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
