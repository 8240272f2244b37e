"""Saving and loading of ranking models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from twotower.models.ranking.base import RankingNetwork
from twotower.models.ranking.candidates import Table
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.fit import RankingModel

NETWORK, MODEL = "network", "ranking.json"


def save_ranking(model: RankingModel, config: RankingConfig, folder: Path) -> None:
    """Write a model: its network as a SavedModel with a function per part, and ranking.json.

    Parameters
    ----------
    model : RankingModel
    config : RankingConfig
        What it was made with.
    folder : Path
    """
    network = model.network
    assert isinstance(network, RankingNetwork)  # one that was saved is not saved again
    specs = {
        name: _spec(table, columns)
        for name, table, columns in (
            ("user_part", model.users, network.user_columns),
            ("item_part", model.items, network.item_columns),
        )
    }
    module = tf.Module()
    module.variables_of_network = network.variables
    widths = {}
    for name, spec in specs.items():
        function = tf.function(getattr(network, name), input_signature=[spec], autograph=False)
        setattr(module, name, function)
        widths[name] = function.get_concrete_function().structured_outputs.shape[1]
    numbers = [tf.TensorSpec([None, each], tf.float32) for each in widths.values()]
    numbers.append(tf.TensorSpec([None, len(network.means)], tf.float32))
    module.head = tf.function(
        lambda users, items, features: network.head(users, items, features),
        input_signature=numbers,
        autograph=False,
    )
    tf.saved_model.save(module, str(folder / NETWORK))
    record = {
        "config": json.loads(config.json()),
        "user_columns": network.user_columns,
        "item_columns": network.item_columns,
        "slope": model.slope,
        "intercept": model.intercept,
        "bends": list(model.bends),
        "history": model.history,
    }
    (folder / MODEL).write_text(json.dumps(record, indent=2) + "\n")


def load_ranking(folder: Path, users: Table, items: Table) -> RankingModel:
    """Read a model that `save_ranking` has written; it predicts the same.

    Parameters
    ----------
    folder : Path
    users, items : mapping of str to ndarray of int32, shape (rows, width)
        The encoded tables.
    """
    record = json.loads((folder / MODEL).read_text())
    return RankingModel(
        SavedNetwork(folder / NETWORK, record["user_columns"], record["item_columns"]),
        users,
        items,
        slope=record["slope"],
        intercept=record["intercept"],
        bends=record.get("bends", []),  # earlier releases had none
        history=record["history"],
    )


class SavedNetwork:
    """A network that was saved, which cannot be trained; see `Network`."""

    def __init__(self, folder: Path, user_columns: list[str], item_columns: list[str]) -> None:
        self._module = tf.saved_model.load(str(folder))
        self.user_columns, self.item_columns = user_columns, item_columns
        self.user_part, self.item_part = self._module.user_part, self._module.item_part

    def head(
        self, users: tf.Tensor, items: tf.Tensor, features: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        return self._module.head(users, items, features)


def _spec(table: Table, columns: list[str]) -> dict[str, tf.TensorSpec]:
    """Return the signature of a part: its columns, or a column without a name if it has none."""
    if not columns:
        return {"": tf.TensorSpec([None, 1], tf.int32, "rows")}
    return {
        name: tf.TensorSpec([None, np.asarray(table[name]).shape[1]], tf.int32, name)
        for name in columns
    }
