"""Users without a history get what their features predict, and no other user's scores change."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.columns import code_column
from twotower.models.cold_users import fill_cold_users
from twotower.models.config import TwoTowerConfig
from twotower.models.training.closed_form.towers import set_closed_form_weights
from twotower.models.training.config import ClosedFormConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.model import create
from twotower.models.two_tower import embed

USERS, COLD, ITEMS, LENGTH, DIM = 60, 6, 12, 5, 4
CONFIG = TwoTowerConfig(dim=DIM, history_pooling="sum", normalize=False)


def schema_of(*features):
    from merlin.schema import Schema, Tags

    seen = code_column(
        "seen", ITEMS + 3, Tags.USER, Tags.SEQUENCE, value_count={"min": 5, "max": 5}
    )
    return Schema(
        [
            code_column("user", USERS + 3 - COLD, Tags.USER_ID, Tags.USER),
            seen.with_dtype(np.int32, is_list=True, is_ragged=False),
            *(code_column(name, 5, Tags.USER) for name in features),
            code_column("film", ITEMS + 3, Tags.ITEM_ID, Tags.ITEM),
        ]
    )


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Users of taste 3 like the first half of the films, those of taste 4 the second half.

    The last six users have no positives; their id is out of vocabulary.
    """
    draw = np.random.default_rng(0)
    taste = np.tile([3, 4], USERS // 2).astype(np.int32)
    rows = np.stack([draw.permutation(ITEMS // 2)[:LENGTH] for _ in range(USERS)])
    rows += (taste[:, None] == 4) * (ITEMS // 2)
    user = np.arange(3, USERS + 3, dtype=np.int32)
    user[-COLD:] = 2
    seen = (rows + 3).astype(np.int32)
    seen[-COLD:] = 0
    users = {"user": user[:, None], "seen": seen, "taste": taste[:, None]}
    items = {"film": np.arange(3, ITEMS + 3, dtype=np.int32)[:, None]}
    known = USERS - COLD
    return TrainingData(
        users,
        items,
        np.repeat(np.arange(known, dtype=np.int32), LENGTH),
        rows[:known].ravel().astype(np.int32),
    )


def solved(data: TrainingData, *features: str):
    tower = create(schema_of(*features), data, CONFIG, seed=1)
    set_closed_form_weights(tower, data, ClosedFormConfig(l2=1.0))
    return tower


def scores_of(tower, users):
    items = embed(tower.model.candidate_encoder, {"film": np.arange(3, ITEMS + 3)[:, None]})
    return embed(tower.model.query_encoder, users) @ items.T


def test_a_cold_user_gets_what_their_feature_says(data):
    tower = solved(data, "taste")
    before = scores_of(tower, data.users)
    assert fill_cold_users(tower, data) is not None
    after, cold = scores_of(tower, data.users), slice(USERS - COLD, None)
    np.testing.assert_allclose(after[:-COLD], before[:-COLD], atol=1e-5)
    # Before, all strangers had the same scores.
    assert np.ptp(before[cold], axis=0).max() < 1e-6
    of_taste = after[cold].reshape(COLD, 2, ITEMS // 2).mean(axis=2).argmax(axis=1)
    assert of_taste.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_cold_user_is_the_average_item_of_users_like_them(data):
    tower = solved(data, "taste")
    vectors = embed(tower.model.query_encoder, data.users)
    fill_cold_users(tower, data)
    found = embed(tower.model.query_encoder, data.users)[-COLD:]
    for row, taste in ((0, 3), (1, 4)):
        alike = data.users["taste"][: USERS - COLD, 0] == taste
        mean = vectors[: USERS - COLD][alike].mean(axis=0) / LENGTH
        # The ridge shrinks it towards everybody's mean, by little.
        everybody = vectors[: USERS - COLD].mean(axis=0) / LENGTH
        left = np.linalg.norm(found[row] - mean) / np.linalg.norm(everybody - mean)
        assert left < 0.05


def test_told_items_add_to_what_the_features_say(data):
    tower = solved(data, "taste")
    fill_cold_users(tower, data)
    stranger = {name: column[-COLD : -COLD + 1].copy() for name, column in data.users.items()}
    told = {**stranger, "seen": np.array([[ITEMS + 2, ITEMS + 1, 0, 0, 0]], np.int32)}
    alone = {**told, "taste": np.array([[0]], np.int32), "user": np.array([[0]], np.int32)}
    found = [embed(tower.model.query_encoder, each) for each in (stranger, told, alone)]
    np.testing.assert_allclose(found[1], found[0] + found[2], atol=1e-5)
    assert scores_of(tower, told)[0].argmax() >= ITEMS // 2  # two items outweigh the taste


def test_without_features_nothing_changes(data):
    plain = {name: column for name, column in data.users.items() if name != "taste"}
    plain_data = TrainingData(plain, data.items, data.user_rows, data.item_rows)
    tower = solved(plain_data)
    before = embed(tower.model.query_encoder, plain)
    assert fill_cold_users(tower, plain_data) is None
    assert np.array_equal(embed(tower.model.query_encoder, plain), before)
