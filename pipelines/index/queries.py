"""The query vectors of a run's users, by the trained query tower."""

from __future__ import annotations

import numpy as np

from twotower.pipelines.evaluation.evaluator import encoded, load_histories
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids, load_tables

SEED = 2


def query_vectors(run: Run, users: np.ndarray) -> np.ndarray:
    """Compute the query vectors of users whose context is unknown.

    Parameters
    ----------
    run : Run
        Has the towers.
    users : ndarray of int64, shape (n,)
        Codes of users.

    Returns
    -------
    ndarray of float32, shape (n, D)
    """
    from twotower.models.training.saving import QUERY_TOWER, load_tower
    from twotower.models.two_tower import embed

    user_table, item_table = load_tables(run)
    histories = load_histories(run)
    if histories is not None:  # the tables have those of the training part
        side = run.config.features.sides[1].internal
        user_table[run.config.features.history_column] = encoded(histories, item_table[side.id])
    rows = np.searchsorted(load_ids(run)[0], users)
    tower = load_tower(run.path / "model" / QUERY_TOWER)
    return embed(tower, {name: column[rows] for name, column in user_table.items()})


def sample_queries(run: Run, count: int) -> np.ndarray:
    """Compute the query vectors float32 [n, D], n <= count, of random users, the same each time."""
    user_ids = load_ids(run)[0]
    chosen = np.random.default_rng(SEED).permutation(len(user_ids))[:count]
    return query_vectors(run, user_ids[chosen])
