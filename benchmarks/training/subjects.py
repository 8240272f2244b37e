"""The same two towers trained by this project and by stock Merlin; tfrs.py has those of TFRS.

Each tower is the L2-normalised sum of one embedding per column. The loss is the mean in-batch
softmax at one temperature, with logQ correction and without accidental hits; the optimizer is
Adam. Metrics are off. Each peer reads data as its users do: Merlin from a Dataset with its Loader,
TFRS with tf.data from arrays in memory.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.models.retrieval import TwoTowerModelV2
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
    from benchmarks.training.process import Monitor

DIM, TEMPERATURE = 64, 0.2


class Subject(Protocol):
    """A trainer of the two towers."""

    model: tf.keras.Model

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None: ...

    def fit(self, monitor: Monitor) -> tuple[list[float], list[float]]:
        """Train; return the seconds and the loss of every epoch."""


class Ours:
    """Trains with `models.training.fit.fit`, which stops as `config` says."""

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None:
        towers = TwoTowerConfig(dim=DIM, temperature=TEMPERATURE)
        self.data, self.config = data, config
        self.tower = create(schema, data, towers, config.seed)
        self.model = self.tower.model

    def fit(self, monitor: Monitor) -> tuple[list[float], list[float]]:
        """Train; return the seconds and the mean loss of every epoch."""

        def validate(model: Any) -> dict[str, float]:
            return {self.config.monitor: monitor(model)}

        with tempfile.TemporaryDirectory() as out:
            history = fit(self.tower, self.data, self.config, validate, Path(out))
        # Only a closed-form start has an entry without seconds or loss.
        seconds, losses = (
            [each for each in history[name] if each is not None] for name in ("seconds", "loss")
        )
        return seconds, losses


class EpochTimer(tf.keras.callbacks.Callback):
    """Records seconds and loss of every epoch; stops the training when the monitor says so."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        self.seconds.append(time.perf_counter() - self.started)
        self.losses.append(float(logs["loss"]))
        self.monitor(self.model)
        self.model.stop_training = self.monitor.should_stop(sum(self.seconds))


class Stock:
    """Trains Merlin's TwoTowerModelV2 with Merlin's ContrastiveOutput."""

    def __init__(self, schema: Schema, data: TrainingData, config: TrainingConfig) -> None:
        tf.keras.utils.set_random_seed(config.seed)
        self.data, self.config, self.schema = data, config, schema
        item_id = schema.select_by_tag(Tags.ITEM_ID)
        # Merlin applies the correction before it divides by the temperature.
        correction = PopularityLogitsCorrection(
            item_counts(schema, data), schema=item_id, reg_factor=TEMPERATURE
        )
        self.model = TwoTowerModelV2(
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

    def fit(self, monitor: Monitor) -> tuple[list[float], list[float]]:
        """Train; return the seconds and the mean loss of every epoch."""
        rows = Dataset(pd.DataFrame(training_columns(self.data)), schema=self.schema, cpu=True)
        timer = EpochTimer(monitor)
        self.model.compile(tf.keras.optimizers.Adam(self.config.learning_rate), metrics=[])
        self.model.fit(
            rows,
            batch_size=self.config.batch_size,
            epochs=self.config.epochs,
            callbacks=[timer],
            verbose=0,
            train_metrics_steps=0,
        )
        return timer.seconds, timer.losses


def training_columns(data: TrainingData) -> dict[str, np.ndarray]:
    """Gather every column of both tables at the training rows: int32 arrays of shape (n,)."""
    sides = ((data.users, data.user_rows), (data.items, data.item_rows))
    return {name: table[name][rows, 0] for table, rows in sides for name in table}


def item_counts(schema: Schema, data: TrainingData) -> np.ndarray:
    """Count the positives of every item id; an item without one counts as a half.

    Returns
    -------
    ndarray of float32, shape (cardinality of the item id,)
    """
    item_id = schema.select_by_tag(Tags.ITEM_ID).first
    codes = data.items[item_id.name][:, 0]
    counts = np.bincount(
        codes, weights=data.positives_per_item, minlength=item_id.int_domain.max + 1
    )
    return np.maximum(counts, 0.5).astype(np.float32)


def without_lists(schema: Schema, data: TrainingData) -> tuple[Schema, TrainingData]:
    """Remove the multi-hot columns from schema and data."""
    single = [column for column in schema if not column.is_list]
    names = {column.name for column in single}
    users, items = (
        {name: values for name, values in table.items() if name in names}
        for table in (data.users, data.items)
    )
    return Schema(single), TrainingData(users, items, data.user_rows, data.item_rows)


def sample_rows(data: TrainingData, rows: int) -> TrainingData:
    """Draw `rows` interactions at random, without replacement."""
    chosen = np.random.default_rng(1).choice(len(data.user_rows), rows, replace=False)
    return TrainingData(data.users, data.items, data.user_rows[chosen], data.item_rows[chosen])


def random_data(users: int, items: int, rows: int) -> tuple[Schema, TrainingData]:
    """Draw `rows` random interactions of users and items that have ids and no features."""
    draw = np.random.default_rng(2)
    columns: list[ColumnSchema] = []
    tables: list[dict[str, np.ndarray]] = []
    for name, size, tags in (
        ("user_id", users, [Tags.USER, Tags.USER_ID]),
        ("item_id", items, [Tags.ITEM, Tags.ITEM_ID]),
    ):
        domain = {"domain": {"min": 0, "max": size + 2, "name": name}}
        tags = [Tags.CATEGORICAL, *tags]
        columns.append(ColumnSchema(name, dtype=np.int32, tags=tags, properties=domain))
        # Codes begin after NVTabular's codes for padding, null and out-of-vocabulary.
        tables.append({name: np.arange(3, size + 3, dtype=np.int32)[:, None]})
    user_rows, item_rows = (draw.integers(0, size, rows, np.int32) for size in (users, items))
    return Schema(columns), TrainingData(tables[0], tables[1], user_rows, item_rows)
