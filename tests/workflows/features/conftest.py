"""Small tables, and feature graphs fitted on them."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import load_workflow
from twotower.workflows.features.graph import fit_features

CONFIG = FeaturesConfig(user=["city", "age"], item=["year"], item_multi_hot={"genres": 2})


USERS = pd.DataFrame(
    {
        "user_id": [1, 5, 9],
        "city": ["Oslo", None, "Rome"],
        "age": [30, 40, 50],
    }
)


ITEMS = pd.DataFrame(
    {
        "item_id": [10, 20, 30],
        "year": [1999, 2001, 1999],
        "genres": [["War", "Drama", "Noir"], ["Drama"], []],
    }
)


# user 9 and item 30 have no training row; Oslo is counted three times, null once.
TRAIN = pd.DataFrame({"user_id": [1, 1, 5, 1], "item_id": [10, 20, 10, 20]})


# Lists and numbers on both sides. In the training part: height 3, 3, null, 1, so mean 7/3 and
# variance 4/3; price 2, 6, 2, 6, so mean 4 and variance 16/3.
WIDE_CONFIG = FeaturesConfig(
    user_multi_hot={"likes": 2, "codes": 3},
    item_multi_hot={"genres": 2},
    user_numeric=["height", "visits"],
    item_numeric=["price"],
)


WIDE_USERS = pd.DataFrame(
    {
        "user_id": [1, 2, 5, 9],
        "likes": [["a", "b", "c"], [], None, ["b", None, "new"]],
        "codes": [[7], [7, 8], None, [8, 9, 7, 7]],
        "height": [3.0, 1.0, np.nan, 5.0],
        "visits": [1, 1, 2, 3],
    }
)


WIDE_ITEMS = ITEMS.assign(price=[2, 6, np.nan])


WIDE_TRAIN = pd.DataFrame({"user_id": [1, 1, 5, 2], "item_id": [10, 20, 10, 20]})


@pytest.fixture(scope="session")
def workflow(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "workflow"
    out.mkdir()
    fit_features(TRAIN, USERS, ITEMS, CONFIG, out)
    moved = out.with_name("moved")
    shutil.move(out, moved)  # a run folder may be moved: nothing may point to where it was made
    return load_workflow(moved)


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """The workflow of lists and numbers on both sides, loaded again."""
    out = tmp_path_factory.mktemp("fit_wide")
    fit_features(WIDE_TRAIN, WIDE_USERS, WIDE_ITEMS, WIDE_CONFIG, out)
    return load_workflow(out)
