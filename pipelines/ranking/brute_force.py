"""What the model `recommend` should answer, from the files of the run, without the served graph."""

from __future__ import annotations

import numpy as np

from twotower.models.evaluation.top_k import topk
from twotower.models.ranking.candidates import Candidates
from twotower.models.ranking.saving import load_ranking
from twotower.models.training.saving import CANDIDATE_TOWER, load_tower
from twotower.models.two_tower import embed
from twotower.pipelines.ranking.candidates import candidate_features, history_of, served_history
from twotower.pipelines.ranking.rank import FOLDER
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_ids, load_tables


def ranked_scores(
    run: Run, users: np.ndarray, item_ids: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Return the probabilities of the candidates of users, by the reloaded ranking model.

    Parameters
    ----------
    run : Run
        With the step `rank` done.
    users : ndarray of int64, shape (n,)
        Codes of users.
    item_ids : ndarray of int64, shape (items,)
        Codes of items, ascending.
    scores : ndarray of float32, shape (n, items)
        Their scores by the towers; -inf for an item that is not recommended.

    Returns
    -------
    ndarray of float32, shape (n, items)
        -inf for items that are no candidates.
    """
    user_ids, every_item = load_ids(run)
    user_table, item_table = load_tables(run)
    vectors = embed(load_tower(run.path / "model" / CANDIDATE_TOWER), item_table)
    features = candidate_features(run, vectors)
    count = min(run.config.ranking.candidates, len(item_ids))
    best, best_scores = topk(scores, count)
    rows, items = np.searchsorted(user_ids, users), np.searchsorted(every_item, item_ids)
    found = np.where(best < 0, -1, items[best])
    history = history_of(served_history(run, (len(user_ids), len(every_item))), rows)
    candidates = Candidates.without_labels(
        rows, found, features.compute(np.maximum(found, 0), best_scores, history)
    )
    model = load_ranking(run.path / FOLDER, user_table, item_table)
    judged = np.where(best < 0, -np.inf, model.probabilities(candidates)).astype(np.float32)
    answer = np.full(scores.shape, -np.inf, np.float32)
    np.put_along_axis(answer, np.maximum(best, 0), judged, axis=1)
    return answer
