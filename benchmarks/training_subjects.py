"""The same two towers trained by this project and by stock Merlin; see training_tfrs.py for TFRS.

Each tower is the L2-normalised sum of one embedding a column. The loss is the softmax over the
batch at one temperature, corrected for how often each item occurs, accidental hits left out, its
mean over the rows; the optimizer is Adam. Metrics are off, and each peer is fed as its users feed
it: Merlin from a Dataset by its Loader, TFRS by tf.data from arrays in memory.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.outputs.base import DotProduct
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection
from merlin.models.tf.transforms.regularization import L2Norm
from merlin.schema import ColumnSchema, Schema, Tags

from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.model import create

if TYPE_CHECKING:
    from benchmarks.training_process import Watch

DIM, TEMPERATURE = 64, 0.2


class Ours:
    """`models.training.fit.fit`; training ends as `config` says, whatever `watch` finds."""

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None:
        towers = TwoTowerConfig(dim=DIM, temperature=TEMPERATURE)
        self.data, self.config = data, config
        self.tower = create(schema, data, towers, config.seed)
        self.model = self.tower.model

    def fit(self, watch: Watch) -> tuple[list[float], list[float]]:
        """(seconds, mean loss) of every epoch."""

        def validate(model) -> dict[str, float]:
            return {self.config.monitor: watch(model)}

        with tempfile.TemporaryDirectory() as out:
            history = fit(self.tower, self.data, self.config, validate, Path(out))
        return history["seconds"], history["loss"]


class Timed(tf.keras.callbacks.Callback):
    """Seconds and loss of every epoch; ends training when `watch` has seen enough."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch, self.seconds, self.losses = watch, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        self.seconds.append(time.perf_counter() - self.started)
        self.losses.append(float(logs["loss"]))
        self.watch(self.model)
        self.model.stop_training = self.watch.enough(sum(self.seconds))


class Stock:
    """Merlin's TwoTowerModelV2 with its own ContrastiveOutput."""

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None:
        tf.keras.utils.set_random_seed(config.seed)
        self.data, self.config, self.schema = data, config, schema
        item_id = schema.select_by_tag(Tags.ITEM_ID)
        # Merlin corrects before it divides by the temperature.
        correction = PopularityLogitsCorrection(
            item_counts(schema, data), schema=item_id, reg_factor=TEMPERATURE
        )
        self.model = mm.TwoTowerModelV2(
            query_tower=self._encoder(schema.select_by_tag(Tags.USER)),
            candidate_tower=self._encoder(schema.select_by_tag(Tags.ITEM)),
            outputs=mm.ContrastiveOutput(
                DotProduct(),
                negative_samplers=["in-batch"],
                schema=item_id,
                logits_temperature=TEMPERATURE,
                post=correction,
                store_negative_ids=True,
            ),
            schema=schema,
        )

    @staticmethod
    def _encoder(schema: Schema) -> mm.Encoder:
        inputs = mm.InputBlockV2(
            schema, categorical=mm.Embeddings(schema, dim=DIM), aggregation="element-wise-sum"
        )
        return mm.Encoder(inputs, post=L2Norm())

    def fit(self, watch: Watch) -> tuple[list[float], list[float]]:
        """(seconds, mean loss) of every epoch."""
        rows = Dataset(pd.DataFrame(expanded(self.data)), schema=self.schema, cpu=True)
        timed = Timed(watch)
        self.model.compile(tf.keras.optimizers.Adam(self.config.learning_rate), metrics=[])
        self.model.fit(
            rows,
            batch_size=self.config.batch_size,
            epochs=self.config.epochs,
            callbacks=[timed],
            verbose=0,
            train_metrics_steps=0,
        )
        return timed.seconds, timed.losses


def expanded(data: TrainingData) -> dict[str, np.ndarray]:
    """Every column of both tables at the training rows: int32 [n]."""
    sides = ((data.users, data.user_rows), (data.items, data.item_rows))
    return {name: table[name][rows, 0] for table, rows in sides for name in table}


def item_counts(schema: Schema, data: TrainingData) -> np.ndarray:
    """float32 [cardinality of the item id]: positives of every id, at least a half."""
    item_id = schema.select_by_tag(Tags.ITEM_ID).first
    codes = data.items[item_id.name][:, 0]
    counts = np.bincount(
        codes, weights=data.positives_per_item, minlength=item_id.int_domain.max + 1
    )
    return np.maximum(counts, 0.5).astype(np.float32)


def without_lists(schema: Schema, data: TrainingData) -> tuple[Schema, TrainingData]:
    """Both without the multi-hot columns."""
    single = [column for column in schema if not column.is_list]
    names = {column.name for column in single}
    users, items = (
        {name: values for name, values in table.items() if name in names}
        for table in (data.users, data.items)
    )
    return Schema(single), TrainingData(users, items, data.user_rows, data.item_rows)


def a_part(data: TrainingData, rows: int) -> TrainingData:
    """`rows` interactions of it, drawn at random."""
    chosen = np.random.default_rng(1).choice(len(data.user_rows), rows, replace=False)
    return TrainingData(data.users, data.items, data.user_rows[chosen], data.item_rows[chosen])


def made_up(users: int, items: int, rows: int) -> tuple[Schema, TrainingData]:
    """Random interactions of so many users and items, which have ids alone."""

    draw, columns, tables = np.random.default_rng(2), [], []
    for name, size, tags in (
        ("user_id", users, [Tags.USER, Tags.USER_ID]),
        ("item_id", items, [Tags.ITEM, Tags.ITEM_ID]),
    ):
        domain = {"domain": {"min": 0, "max": size + 2, "name": name}}
        tags = [Tags.CATEGORICAL, *tags]
        columns.append(ColumnSchema(name, dtype=np.int32, tags=tags, properties=domain))
        # Codes begin after NVTabular's padding, null and out-of-vocabulary.
        tables.append({name: np.arange(3, size + 3, dtype=np.int32)[:, None]})
    pairs = (draw.integers(0, size, rows, np.int32) for size in (users, items))
    return Schema(columns), TrainingData(*tables, *pairs)
