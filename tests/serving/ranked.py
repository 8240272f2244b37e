"""A ranking model of the tiny world, with random weights, and its answers by brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.serving.runtime.ranking.reference import features_of

USER_COLUMNS, PROFILE = ["city", "tags"], ["year", "kinds"]
CANDIDATES, MAX_ROWS = 40, 4000
SLOPE, INTERCEPT = 0.7, -0.4
N_FEATURES = 12 + 3 + 2


def positives_of(world: Any) -> np.ndarray:
    """How many seen pairs each item has, in the order of the index."""
    ids = np.sort(world.item_ids)
    return np.bincount(np.searchsorted(ids, world.seen_pairs["item_id"]), minlength=len(ids))


def ranking_of(world: Any, folder: Path) -> Any:
    """The ranking model for `build_ensemble`; every other seen item is in a user's history."""
    from twotower.serving.item_columns import item_columns
    from twotower.serving.operators.rank_candidates import RankingModel
    from twotower.serving.operators.saved_ranking import SavedRanking
    from twotower.serving.runtime.ranking.features import CandidateFeatures
    from twotower.serving.seen import SeenItems

    order, known = np.argsort(world.item_ids), history_pairs(world)
    _save_network(folder)
    columns = item_columns(world.items.take(order), PROFILE)
    return RankingModel(
        network=SavedRanking(folder, USER_COLUMNS, SLOPE, INTERCEPT),
        item_part=item_part(len(order)),
        features=CandidateFeatures.of(world.vectors[order], positives_of(world), columns),
        history=SeenItems.from_pairs(known["user_id"], known["item_id"]).of(
            np.sort(world.users["user_id"].to_numpy())
        ),
        candidates=CANDIDATES,
        max_rows=MAX_ROWS,
    )


def history_pairs(world: Any) -> pd.DataFrame:
    """The histories of the users, whatever they have seen besides."""
    return world.seen_pairs[::2].drop_duplicates()


def item_part(count: int) -> np.ndarray:
    """What the network reads of each item, in the order of the index."""
    return np.random.default_rng(11).normal(size=(count, 3)).astype(np.float32)


def _weights() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(12)
    shapes = {"city": (20, 2), "tags": (20, 2), "hidden": (2 + 2 + 3 + N_FEATURES, 5), "out": (5,)}
    return {name: draw.normal(size=s).astype(np.float32) / 2 for name, s in shapes.items()}


def _save_network(folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.weights = weights = {name: tf.Variable(each) for name, each in _weights().items()}
    columns = {
        "city": tf.TensorSpec([None, 1], tf.int32, "city"),
        "tags": tf.TensorSpec([None, 3], tf.int32, "tags"),
    }
    numbers = [tf.TensorSpec([None, width], tf.float32) for width in (4, 3, N_FEATURES)]

    def user_part(given):
        parts = [tf.reduce_mean(tf.gather(weights[n], given[n]), axis=1) for n in USER_COLUMNS]
        return tf.concat(parts, axis=1)

    def head(users, items, features):
        hidden = tf.nn.relu(tf.concat([users, items, features], axis=1) @ weights["hidden"])
        return tf.linalg.matvec(hidden, weights["out"])

    module.user_part = tf.function(user_part, input_signature=[columns])
    module.head = tf.function(head, input_signature=numbers)
    tf.saved_model.save(module, str(folder))


def brute_force(
    world: Any,
    user_ids: list[int],
    k: int,
    features: dict | None = None,
    allowed: list[np.ndarray] | None = None,
    candidates: int = CANDIDATES,
    histories: dict[int, list[int]] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Item ids, probabilities and scores of retrieval, each [n, k], one candidate at a time.

    `histories` has items that are new in the history of a user. Their `features` then are what the
    server has, and hide nothing.
    """
    ids, order = np.sort(world.item_ids), np.argsort(world.item_ids)
    found, scores = world.brute_force(user_ids, candidates, histories is None, features, allowed)
    columns = {
        name: [each[name] for each in world.items.take(order).to_pylist()] for name in PROFILE
    }
    rows = pd.DataFrame({"user_id": user_ids}).merge(world.users, how="left", on="user_id")
    rows.loc[~rows["user_id"].isin(world.users["user_id"]), ["city", "age", "income"]] = [
        "no such city",
        -1,
        -1.0,
    ]
    codes = world.arrays(world.encode(rows.assign(**(features or {}))))
    weights, known = _weights(), history_pairs(world)
    known = known[known["user_id"].isin(world.users["user_id"])]
    answer = (
        np.full((len(rows), k), -1),
        np.full((len(rows), k), -np.inf),
        np.full((len(rows), k), -np.inf),
    )
    for row, user in enumerate(user_ids):
        history = known["item_id"][known["user_id"] == user]
        if histories is not None:
            history = [*history, *histories.get(user, [])]
        elif features and world.history in features:
            history = features[world.history][row] or []
        history = [int(np.searchsorted(ids, i)) for i in sorted(set(history)) if i in ids]
        own = [int(np.searchsorted(ids, i)) for i in found[row][np.isfinite(scores[row])]]
        of_user = np.concatenate([weights[n][codes[n][row]].mean(axis=0) for n in USER_COLUMNS])
        judged = []
        for place, item in enumerate(own):
            numbers = features_of(
                place,
                own,
                scores[row].tolist(),
                history,
                vectors=world.vectors[order],
                positives=positives_of(world),
                columns=columns,
            )
            inputs = np.concatenate([of_user, item_part(len(ids))[item], numbers])
            logit = np.maximum(inputs @ weights["hidden"], 0) @ weights["out"]
            judged.append(1 / (1 + np.exp(-(SLOPE * logit + INTERCEPT))))
        best = np.argsort(-np.array(judged), kind="stable")[:k]
        for values, each in zip(answer, (ids[own], judged, scores[row]), strict=True):
            values[row, : len(best)] = np.array(each)[best]
    return answer
