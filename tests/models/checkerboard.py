"""A planted pattern that several test modules train on: a checkerboard of users and items."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.two_tower import embed

USERS, ITEMS = 60, 40
CONFIG = TwoTowerConfig(dim=8)
TRAINING = TrainingConfig(
    batch_size=64, epochs=12, patience=12, learning_rate=0.05, learning_rate_decay=1.0
)


@pytest.fixture(scope="module")
def schema():
    return make_schema()


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return make_data()


def make_schema():
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, cardinality, *tags):
        domain = {"min": 0, "max": cardinality - 1, "name": name}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(name, dtype=np.int32, tags=tags, properties={"domain": domain})

    return Schema(
        [
            column("user", USERS + 3, Tags.USER_ID, Tags.USER),
            column("film", ITEMS + 3, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


def make_data() -> TrainingData:
    """Even users take even items, odd users odd ones; half of these pairs are positives."""
    random = np.random.default_rng(0)
    users, items = np.meshgrid(np.arange(USERS), np.arange(ITEMS), indexing="ij")
    taken = ((users + items) % 2 == 0) & (random.random((USERS, ITEMS)) < 0.5)
    rows = np.argwhere(taken)[random.permutation(taken.sum())]
    return TrainingData(
        {"user": np.arange(3, USERS + 3, dtype=np.int32)[:, None]},
        {"film": np.arange(3, ITEMS + 3, dtype=np.int32)[:, None]},
        rows[:, 0].astype(np.int32),
        rows[:, 1].astype(np.int32),
    )


def vectors(model, data):
    return embed(model.query_encoder, data.users), embed(model.candidate_encoder, data.items)


def own_colour(data):
    """Validation metric: share of all pairs whose score is on the right side of the median."""
    colour = np.add.outer(np.arange(USERS), np.arange(ITEMS)) % 2 == 0

    def validate(model):
        users, items = vectors(model, data)
        scores = users @ items.T
        return {"ndcg@10": float(((scores > np.median(scores)) == colour).mean())}

    return validate
