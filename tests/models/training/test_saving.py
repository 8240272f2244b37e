"""Saving and loading: models and single towers predict the same afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.checkerboard import CONFIG, TRAINING, own_colour, vectors
from twotower.models.errors import ModelError
from twotower.models.training.fit import fit
from twotower.models.training.model import create
from twotower.models.training.saving import load, load_tower, save
from twotower.models.two_tower import embed


@pytest.fixture(scope="module")
def fitted(schema, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    tower = create(schema, data, CONFIG, seed=1)
    fit(tower, data, TRAINING, own_colour(data), out / "state")
    save(tower, out)
    return tower, out


def test_reloaded_predicts_the_same(fitted, data):
    tower, out = fitted
    reloaded = load(out)
    for ours, theirs in zip(vectors(reloaded.model, data), vectors(tower.model, data), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_saved_towers_predict_the_same(fitted, data):
    tower, out = fitted
    users, items = vectors(tower.model, data)
    for name, features, expected in (
        ("query_tower", data.users, users),
        ("candidate_tower", data.items, items),
    ):
        np.testing.assert_allclose(embed(load_tower(out / name), features), expected, atol=1e-6)


def test_loading_a_folder_without_a_model_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="no saved model here; run `twotower train` first"):
        load(tmp_path)
