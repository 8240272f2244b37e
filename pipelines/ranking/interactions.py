"""The part of the split of each interaction, of those that are no positives as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from twotower.models.evaluation.ranking import binary, is_relevant
from twotower.models.ranking.candidates import Candidates
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids
from twotower.pipelines.steps.processed import INTERACTIONS, PARTS, SPLIT, rows_of
from twotower.workflows.features.positives import is_positive
from twotower.workflows.order import ORDER, in_time
from twotower.workflows.split import SplitConfig, split

POSITIVE = "positive"
PAIR = ["user_id", "item_id"]


def load_interactions(run: Run, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read the interactions of the users and items of the run, with their parts.

    A pair of user and item is in one part, with all its rows. If it has a positive, it is in the
    part of that positive. Other pairs are divided by the method of the split where it can: by time
    (temporal, leave_last_out), by item (cold_items), or by the column `part`. The methods random
    and file say nothing about them; each user's are divided at random then, in the shares of the
    positives.

    Parameters
    ----------
    run : Run
        With the step `preprocess` done. `positives.column` is set.
    columns : sequence of str
        Further columns of the interactions.

    Returns
    -------
    DataFrame
        user_row, item_row, positive (bool), part (train, valid or test; null for none) and the
        columns, in file order.

    Raises
    ------
    ConfigError
        If the interactions do not have a column.
    """
    path, positives = run.path / "data" / INTERACTIONS, run.config.positives
    there = pq.read_schema(path).names
    if missing := [name for name in columns if name not in there]:
        raise ConfigError(
            f"ranking: the interactions have no column {missing[0]!r}; they have "
            f"{', '.join(there)}. If the files have it, run `twotower ingest` again"
        )
    wanted = {*PAIR, "timestamp", ORDER, "part", positives.column, *columns}
    rows = pd.read_parquet(path, columns=[name for name in there if name in wanted])
    rows[POSITIVE] = is_positive(rows, positives).to_numpy()
    rows["part"] = _parts(rows, run)
    for name, ids in zip(("user_row", "item_row"), load_ids(run), strict=True):
        rows[name] = rows_of(rows[name.replace("row", "id")], ids)
    return rows[["user_row", "item_row", POSITIVE, "part", *columns]]


def with_clicks(found: Candidates, run: Run, shape: tuple[int, int]) -> Candidates:
    """Say which candidates the users interacted with in the valid part, whatever the value.

    Parameters
    ----------
    found : Candidates
        Labelled by the positives of the valid part.
    run : Run
    shape : tuple of int
        Number of users and of items.

    Returns
    -------
    Candidates
    """
    rows = load_interactions(run)
    valid = rows[rows["part"] == "valid"]
    places = (valid["user_row"].to_numpy(), valid["item_row"].to_numpy())
    clicked = binary(csr_matrix((np.ones(len(valid), bool), places), shape=shape))
    return replace(found, clicks=is_relevant(clicked[found.users], found.items) | found.labels)


def _parts(rows: pd.DataFrame, run: Run) -> pd.Series:
    """Return the part of each row."""
    known = pd.read_parquet(run.path / "processed" / SPLIT, columns=[*PAIR, "part"])
    known = known.drop_duplicates(PAIR, keep="last")
    place = np.empty(len(rows), np.int64)
    place[in_time(rows)] = np.arange(len(rows))
    pairs = rows.assign(place=place).drop_duplicates(PAIR, keep="last")
    positive = rows[rows[POSITIVE]].assign(place=place[rows[POSITIVE]])
    positive = positive.drop_duplicates(PAIR, keep="last").merge(known, on=PAIR, suffixes=("_", ""))
    has_positive = rows.groupby(PAIR, sort=False)[POSITIVE].any().rename("any").reset_index()
    others = pairs.merge(has_positive, on=PAIR)
    others = others[~others["any"]].drop(columns="any")
    # Positives that k-core has left out have no part, so they are in neither.
    others["part"] = _METHODS[run.config.split.method](others, positive, run.config.split)
    both = pd.concat([known.astype({"part": object}), others[[*PAIR, "part"]]])
    return rows[PAIR].merge(both, on=PAIR, how="left")["part"].to_numpy()


def _at_random(others: pd.DataFrame, positive: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    sizes = positive["part"].value_counts()
    shares = [float(sizes.get(part, 0)) / len(positive) for part in PARTS]
    return _again(others, SplitConfig(method="random", ratios=shares, seed=config.seed))


def _by_column(others: pd.DataFrame, positive: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    return _again(others, config.copy(update={"k_core": 0}))


def _by_item(others: pd.DataFrame, positive: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    known = positive.drop_duplicates("item_id").set_index("item_id")["part"].astype(object)
    return others["item_id"].map(known).to_numpy()


def _by_time(others: pd.DataFrame, positive: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    """Divide at the times of the first positives of valid and test, the same for all users."""
    starts = [positive.loc[positive["part"] == part, "timestamp"].min() for part in PARTS[1:]]
    return _named(np.searchsorted(starts, others["timestamp"].to_numpy(), side="right"))


def _by_last(others: pd.DataFrame, positive: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    """Divide after each user's last positive in train and before the first one in test."""
    never = np.iinfo(np.int64).max
    by_part = {part: positive[positive["part"] == part] for part in PARTS}
    users = others["user_id"]
    end = users.map(by_part["train"].groupby("user_id")["place"].max()).fillna(-1)
    test = users.map(by_part["test"].groupby("user_id")["place"].min()).fillna(never)
    place = others["place"].to_numpy()
    # A user with few positives has all of them in train, and so the others.
    in_valid = (place > end) & (test < never)
    return _named(in_valid.astype(np.int64) + (place > test))


def _again(others: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    """Return the parts of pairs by a split of their own, which keeps all of them."""
    if others.empty:
        return np.zeros(0, object)
    return split(others, config)["part"].to_numpy(object)


def _named(codes: np.ndarray) -> np.ndarray:
    return np.array(PARTS, object)[codes]


_METHODS = {
    "random": _at_random,
    "file": _at_random,
    "column": _by_column,
    "cold_items": _by_item,
    "temporal": _by_time,
    "leave_last_out": _by_last,
}
