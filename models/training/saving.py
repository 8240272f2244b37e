"""Saving and loading of fitted models and of single towers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from merlin.schema import Schema
from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.training.checkpoint import weights_checkpoint
from twotower.models.training.model import TwoTower
from twotower.models.two_tower import build_two_tower, example_input

if TYPE_CHECKING:
    import merlin.models.tf as mm

QUERY_TOWER, CANDIDATE_TOWER = "query_tower", "candidate_tower"
WEIGHTS, SCHEMA, ITEM_COUNTS = "weights", "schema.pbtxt", "item_counts.npy"
CONFIG, HISTORY = "two_tower.json", "history.json"


def save(tower: TwoTower, folder: Path) -> None:
    """Write a model: both towers as SavedModels, and the files from which `load` rebuilds it.

    Parameters
    ----------
    tower : TwoTower
    folder : Path
    """
    save_tower(tower.model.query_encoder, tower.schema, folder / QUERY_TOWER)
    save_tower(tower.model.candidate_encoder, tower.schema, folder / CANDIDATE_TOWER)
    weights_checkpoint(tower.model).write(str(folder / WEIGHTS))
    TensorflowMetadata.from_merlin_schema(tower.schema).to_proto_text_file(str(folder), SCHEMA)
    np.save(folder / ITEM_COUNTS, tower.item_counts)
    (folder / CONFIG).write_text(tower.config.json(indent=2) + "\n")
    (folder / HISTORY).write_text(json.dumps(tower.history, indent=2) + "\n")


def load(folder: Path) -> TwoTower:
    """Read a model that `save` has written; it predicts the same.

    The model is rebuilt from its settings, schema and weights, because Keras's own reload of a
    ContrastiveOutput loses the logQ correction.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    TwoTower

    Raises
    ------
    ModelError
        If there is no model in the folder, or one of a release whose towers have other weights.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: no saved model here; run `twotower train` first")
    config = TwoTowerConfig.parse_raw((folder / CONFIG).read_text())
    schema = TensorflowMetadata.from_proto_text_file(str(folder), SCHEMA).to_merlin_schema()
    counts = np.load(folder / ITEM_COUNTS)
    history = json.loads((folder / HISTORY).read_text())
    model = build_two_tower(schema, counts, config)
    # Calling both towers once creates the variables, so that the weights can be restored.
    model({column.name: tf.constant(example_input(column, rows=2)) for column in schema})
    try:
        weights_checkpoint(model).read(str(folder / WEIGHTS)).assert_consumed()
    except (AssertionError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ModelError(
            f"{folder}: the saved weights are not those of the towers that this release builds "
            "from the settings; another release saved them. Run `twotower train` again"
        ) from error
    return TwoTower(model, schema, config, counts, history)


def save_tower(encoder: mm.Encoder, schema: Schema, folder: Path) -> None:
    """Write one tower as a SavedModel with a single function, from encoded columns to vectors.

    Columns are int32 or float32 of shape (n, 1); lists have any length, vectors have their own.
    Keras's own format would trace every layer separately, which takes seconds, and fix the length
    of the lists.

    Parameters
    ----------
    encoder : mm.Encoder
    schema : Schema
        Columns of the user and the item table.
    folder : Path
    """
    columns = {}
    for column in schema:
        if column.name in encoder.schema.column_names:
            example = example_input(column, rows=1)
            is_code = example.dtype == np.int32
            width = None if column.is_list and is_code else example.shape[1]
            columns[column.name] = tf.TensorSpec([None, width], example.dtype, column.name)

    @tf.function(input_signature=[columns], autograph=False)
    def vectors(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return encoder(features, training=False)

    module = tf.Module()
    module.weights, module.vectors = encoder.weights, vectors
    signature = tf.function(lambda **features: vectors(features), autograph=False)
    tf.saved_model.save(module, str(folder), signature.get_concrete_function(**columns))


def load_tower(folder: Path) -> Callable[[Mapping[str, tf.Tensor]], tf.Tensor]:
    """Read a tower that `save_tower` has written.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    callable
        From encoded columns to vectors, float32 of shape (n, dim). Columns that the tower does not
        read are ignored.
    """
    tower = tf.saved_model.load(str(folder))
    columns = tower.signatures["serving_default"].structured_input_signature[1]
    # `tower.vectors` alone would not keep the weights alive.
    return lambda features: tower.vectors({name: features[name] for name in columns})
