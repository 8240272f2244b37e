"""Sets the weights of the towers to a solution in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from merlin.schema import Tags
from scipy.linalg import orthogonal_procrustes
from scipy.sparse import csr_matrix

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.errors import ModelError
from twotower.models.training.closed_form.regression import solve
from twotower.models.training.closed_form.sparse import solve_sparse
from twotower.models.training.config import ClosedFormConfig, unmet_requirements
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower
from twotower.models.training.solved import set_vectors
from twotower.models.two_tower import embedding_tables, history_column

EXACT_BYTES = 24
"""Memory of the exact solution per pair of items."""


def uses_exact(n_items: int, config: ClosedFormConfig) -> bool:
    """Whether the method `exact` solves for a catalogue.

    Parameters
    ----------
    n_items : int
        Number of items with positives.
    config : ClosedFormConfig
    """
    if config.method == "auto":
        return n_items <= config.most_items
    return config.method == "exact"


def set_closed_form_weights(
    tower: TwoTower,
    data: TrainingData,
    config: ClosedFormConfig,
    align: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> None:
    """Set the weights of the towers to the closed-form solution, and all others to 0.

    Unknown users get the mean of all users' vectors, see `set_vectors`.

    Parameters
    ----------
    tower : TwoTower
        Its weights are changed.
    data : TrainingData
        The data to solve for.
    config : ClosedFormConfig
    align : bool
        Rotate the solution to the candidate embeddings that the tower has (orthogonal Procrustes).
        Scores stay the same, and other users of the vectors can keep using them.
    progress : callable (done, total, text)
        Called as the sparse solution proceeds.

    Raises
    ------
    ModelError
        If the towers are not sums of embeddings with a summed history, or solving would take more
        than `max_memory`.
    """
    history_name = history_column(tower.schema)
    has_context = bool(tower.schema.select_by_tag(Tags.CONTEXT).column_names)
    unmet = unmet_requirements(tower.config, history_name is not None, has_context)
    if unmet or history_name is None:
        raise ModelError(f"training.start solves for sums of embeddings; it requires {unmet}")
    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
    positives = _positives(data)
    users, n_items = None, np.count_nonzero(data.positives_per_item)
    if uses_exact(n_items, config):
        _check_exact_memory(n_items, config)
        history, candidates = solve(positives, tower.config.dim, config)
    else:
        users, history, candidates = solve_sparse(positives, tower.config.dim, config, progress)
    if align:
        codes = data.items[item_id][:, 0]
        known = codes > OUT_OF_VOCABULARY
        before = embedding_tables(tower.model)[item_id].table.embeddings.numpy()[codes]
        rotation = orthogonal_procrustes(candidates[known], before[known])[0].astype(np.float32)
        history, candidates = history @ rotation, candidates @ rotation
        users = None if users is None else users @ rotation
    set_vectors(tower, data, history, candidates, users)


def _positives(data: TrainingData) -> csr_matrix:
    """The weights of the positives, [n_users, n_items]; True if they have none."""
    weights = np.ones(len(data.user_rows), bool) if data.weights is None else data.weights
    return csr_matrix((weights, (data.user_rows, data.item_rows)), (data.n_users, data.n_items))


def _check_exact_memory(n_items: int, config: ClosedFormConfig) -> None:
    """Raise ModelError if the exact solution would take more than `max_memory`."""
    needed = EXACT_BYTES * min(n_items, config.most_items) ** 2 / 1e9
    if needed > config.max_memory:
        raise ModelError(
            f"training.start would take about {needed:.2g} GB for {n_items:,} items, more than "
            f"training.start.max_memory, {config.max_memory:g}; raise that, lower "
            "training.start.most_items, or set training.start.method: sparse"
        )
