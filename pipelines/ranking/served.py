"""The trained ranking model as a part of the served graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from twotower.models.ranking.saving import NETWORK, load_ranking
from twotower.pipelines.ranking.candidates import candidate_features, served_history
from twotower.pipelines.ranking.rank import FOLDER
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids
from twotower.serving.operators.rank_candidates import RankingModel
from twotower.serving.operators.saved_ranking import SavedRanking
from twotower.serving.seen import SeenItems

if TYPE_CHECKING:
    from twotower.models.ranking.candidates import Table


def served_ranking(
    run: Run, users: Table, items: Mapping[str, np.ndarray], vectors: np.ndarray, kept: np.ndarray
) -> RankingModel:
    """Return the ranking model of a run, for the items of the index.

    Parameters
    ----------
    run : Run
        With the step `rank` done.
    users, items : mapping of str to ndarray
        The encoded tables.
    vectors : ndarray of float32, shape (n_items, D)
        The vectors of all items.
    kept : ndarray of bool, shape (n_items,)
        Which items the index has.
    """
    folder, (user_ids, item_ids) = run.path / FOLDER, load_ids(run)
    model = load_ranking(folder, users, items)
    network = model.network
    columns = {name: items[name][kept] for name in network.item_columns}
    history = served_history(run, (len(user_ids), len(item_ids)))
    return RankingModel(
        network=SavedRanking(
            folder / NETWORK,
            network.user_columns,
            slope=model.slope,
            intercept=model.intercept,
            bends=model.bends,
        ),
        item_part=network.item_part(columns or {"": np.zeros((kept.sum(), 1), np.int32)}).numpy(),
        features=candidate_features(run, vectors).take(kept),
        history=SeenItems(user_ids, history.indptr.astype(np.int64), item_ids[history.indices]),
        candidates=run.config.ranking.candidates,
        max_rows=run.config.ranking.max_rows,
    )
