"""Rows of a log of impressions, as candidates that the ranking model learns from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twotower.models.ranking.candidates import NO_ITEM, Candidates
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.options import TWO_LABELS
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.ranking.candidates import USERS_AT_ONCE, CandidateSource, history_of
from twotower.pipelines.ranking.interactions import POSITIVE, load_interactions
from twotower.pipelines.run import Run
from twotower.workflows.order import positions

FIRST, BOTH = "first", "both"
"""Columns with the labels: that a row is a positive, and that it is a conversion as well."""
PLACE = "place"
"""Column with the number of each row's position."""
MAX_PLACES = 1000


def load_log(run: Run) -> pd.DataFrame:
    """Read the interactions with their parts and labels.

    Returns
    -------
    DataFrame
        user_row, item_row, part, `FIRST` and `BOTH`, and `PLACE` with `ranking.position`. Without
        `ranking.conversion`, both labels are whether a row is a positive.

    Raises
    ------
    ConfigError
        If the interactions lack a column, or the position has too many values.
    """
    config = run.config.ranking
    rows = load_interactions(run, config.columns)
    rows[FIRST] = rows[BOTH] = rows[POSITIVE]
    if config.conversion is not None:
        converted = rows[config.conversion.column] >= config.conversion.at_least
        rows[BOTH] = rows[FIRST] & converted.fillna(False).to_numpy(bool)
    if config.position is not None:
        # A missing position is a position of its own.
        rows[PLACE], values = pd.factorize(rows[config.position], use_na_sentinel=False)
        if len(values) > MAX_PLACES:
            raise ConfigError(
                f"ranking.position: column {config.position!r} has {len(values):,} values, but at "
                f"most {MAX_PLACES:,} can be places in a list; name another column"
            )
    return rows


def impressions(
    log: pd.DataFrame,
    users: np.ndarray,
    source: CandidateSource,
    config: RankingConfig,
    seed: int,
) -> Candidates:
    """Return rows of users as candidates, in the order of the towers' scores.

    Parameters
    ----------
    log : DataFrame
        Rows of `load_log`.
    users : ndarray of int, shape (n,)
        Rows of the user table, each once.
    source : CandidateSource
        What computes scores and features.
    config : RankingConfig
        At most `candidates` rows of a user are used.
    seed : int
        Of the draw.

    Returns
    -------
    Candidates
    """
    place = np.full(source.history.shape[0], -1)
    place[users] = np.arange(len(users))
    log = log[place[log["user_row"]] >= 0]
    user, order = place[log["user_row"]], np.random.default_rng(seed).permutation(len(log))
    number, _ = positions(user, order)
    kept = np.flatnonzero(number < config.candidates)
    rows = np.full((len(users), number[kept].max(initial=0) + 1), -1)
    rows[user[kept], number[kept]] = kept
    of_rows = log["item_row"].to_numpy(np.int64)
    features = []
    for start in range(0, len(users), USERS_AT_ONCE):
        batch = slice(start, start + USERS_AT_ONCE)
        given, own = rows[batch] >= 0, of_rows[rows[batch]]
        scores = np.einsum(
            "nd,ncd->nc", source.scorer.users[users[batch]], source.scorer.items[own]
        )
        scores = np.where(given, scores, -np.inf).astype(np.float32)
        best = np.argsort(-scores, axis=1, kind="stable")
        rows[batch] = np.take_along_axis(rows[batch], best, axis=1)
        own, scores = (np.take_along_axis(each, best, axis=1) for each in (own, scores))
        history = history_of(source.history, users[batch])
        features.append(source.features.compute(own, scores, history))
    given = rows >= 0
    first, both = (log[name].to_numpy(bool)[rows] & given for name in (FIRST, BOTH))
    return Candidates(
        users=users,
        items=np.where(given, of_rows[rows], NO_ITEM),
        features=np.concatenate(features),
        labels=both,
        relevant=both.sum(axis=1),
        clicks=first if config.model in TWO_LABELS else None,
        positions=np.where(given, log[PLACE].to_numpy()[rows], 0) if PLACE in log else None,
    )
