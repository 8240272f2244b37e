"""A two-tower model together with its schema, its settings and its training history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from merlin.schema import Schema, Tags

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.config import TwoTowerConfig
from twotower.models.training.data import TrainingData
from twotower.models.two_tower import build_two_tower, hide_item_ids

if TYPE_CHECKING:
    import merlin.models.tf as mm

History = dict[str, list[Any]]
"""One list entry per epoch, all floats: "loss" (None for initial weights that were not trained),
"seconds", "validation_seconds", and "val_<name>" for each validation metric."""


@dataclass
class TwoTower:
    """A model and what is needed to fit it.

    Attributes
    ----------
    model : mm.RetrievalModelV2
    schema : Schema
        Columns of the user and the item table.
    config : TwoTowerConfig
    item_counts : ndarray of float64, shape (item cardinality,)
        Positives per encoded item id, for the logQ correction.
    history : History
        Of the last fit; empty before the first.
    """

    model: mm.RetrievalModelV2
    schema: Schema
    config: TwoTowerConfig
    item_counts: np.ndarray
    history: History = field(default_factory=dict)


def create(schema: Schema, data: TrainingData, config: TwoTowerConfig, seed: int) -> TwoTower:
    """Create an untrained model.

    Parameters
    ----------
    schema : Schema
        Output schema of the feature workflow.
    data : TrainingData
        Its positives are counted for the logQ correction.
    config : TwoTowerConfig
    seed : int
        Random seed of the initial weights.

    Returns
    -------
    TwoTower
    """
    tf.keras.utils.set_random_seed(seed)
    _, counts = item_id_hiding(schema, data, config)
    model = build_two_tower(schema, counts, config, data.positives_per_item)
    # Calling both towers once creates the variables, so that a checkpoint can be restored.
    model({name: tf.constant(v[:2]) for name, v in {**data.users, **data.items}.items()})
    return TwoTower(model, schema, config, counts)


def item_id_hiding(
    schema: Schema, data: TrainingData, config: TwoTowerConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often item ids are hidden in training, and the counts that remain.

    Parameters
    ----------
    schema : Schema
    data : TrainingData
    config : TwoTowerConfig

    Returns
    -------
    probability : ndarray of float32, shape (n_items,)
        Probability of hiding the id of each item row; see `hide_item_ids`.
    counts : ndarray of float64, shape (item cardinality,)
        Expected number of positives per encoded id, for the logQ correction.
    """
    item_id = schema.select_by_tag(Tags.ITEM_ID).first
    return hide_item_ids(
        codes=data.items[item_id.name][:, 0],
        positives=data.positives_per_item,
        cold_count=config.cold_count,
        cardinality=item_id.int_domain.max + 1,
        oov=OUT_OF_VOCABULARY,
    )


def best_epoch(history: History, monitor: str) -> int:
    """Return the epoch, from 0, with the highest validation metric; the first of equal ones.

    Without users to validate on, it is the last epoch.

    Parameters
    ----------
    history : History
    monitor : str
        Name of the metric, such as "ndcg@10".

    Returns
    -------
    int
    """
    scores = history[f"val_{monitor}"]
    if history.get("val_users") and not any(history["val_users"]):
        return len(scores) - 1
    return max(range(len(scores)), key=lambda epoch: scores[epoch])
