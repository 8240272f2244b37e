"""Items that nobody has seen are answered by their features, without training."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.answers.published import open_published
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.update import add_items
from twotower.serving.client import RetrievalClient
from twotower.serving.client.values import Filters
from twotower.workflows.errors import DataError

NEW = [9001, 9002, 9003]


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    return Run(shutil.copytree(small_run.path, tmp_path / "run"))


def films(run: Run, ids=tuple(NEW)) -> pd.DataFrame:
    """New films: the first two are like the first film, the third like the second."""
    known = pd.read_parquet(run.path / "data" / "items.parquet")
    rows = known.iloc[[0, 0, 1]].copy()
    return rows.assign(item_id=list(ids), title=[f"New {n}" for n in ids])


def scores(run: Run, items: list[int]) -> np.ndarray:
    """The scores of some items for five users."""
    version = open_published(run).version
    users = version.user_ids[:5]
    found, values = version.answer(users, len(items), filters=Filters(allow_item_ids=[items] * 5))
    order = np.argsort(found, axis=1)
    return np.take_along_axis(values, order, axis=1)


def test_new_items_are_answered_and_others_stay_as_they_are(run, tmp_path):
    known = open_published(run).version.item_ids.tolist()
    before = scores(run, known)
    films(run).to_parquet(tmp_path / "films.parquet", index=False)
    assert add_items(run, tmp_path / "films.parquet") == 2
    np.testing.assert_allclose(scores(run, known), before, atol=1e-6)
    new = scores(run, NEW)
    assert np.isfinite(new).all()
    # Equal features give equal scores, and other features other ones.
    np.testing.assert_allclose(new[:, 0], new[:, 1], atol=1e-6)
    assert (np.abs(new[:, 0] - new[:, 2]) > 1e-4).any()
    with serving(run) as addresses, RetrievalClient(addresses.http) as client:
        users = open_published(run).version.user_ids[:1].tolist()
        answer = client.recommend(users, 2, allow_item_ids=[NEW[1:]])
        assert sorted(answer.item_ids[0].tolist()) == NEW[1:]
    assert add_items(run, tmp_path / "films.parquet") == 2  # nothing new: nothing is published


@pytest.mark.slow
def test_a_file_of_another_format_and_with_columns_missing(run, tmp_path):
    table = films(run, ids=[9005, 9006, 9007])
    table.assign(genres=table["genres"].map(list)).to_json(
        tmp_path / "films.jsonl", orient="records", lines=True
    )
    add_items(run, tmp_path / "films.jsonl")
    assert np.isfinite(scores(run, [9005, 9006, 9007])).all()
    table.drop(columns="year").to_parquet(tmp_path / "without.parquet", index=False)
    with pytest.raises(DataError, match="year"):
        add_items(run, tmp_path / "without.parquet")
    assert run.notes("export")["version"] == 2


def test_what_cannot_be_added_is_refused(run, tmp_path):
    with pytest.raises(
        ConfigError, match=r"films\.csv: no such file; give a file with one row per"
    ):
        add_items(run, tmp_path / "films.csv")
    with pytest.raises(ConfigError, match="no such file"):
        add_items(run, tmp_path)
    wrong = films(run)
    wrong["item_id"] = ["a", "b", "c"]
    wrong.to_parquet(tmp_path / "wrong.parquet", index=False)
    with pytest.raises(DataError, match="item_id"):
        add_items(run, tmp_path / "wrong.parquet")


def test_renumbered_items_are_refused_with_the_command_that_adds_them(run, tmp_path):
    known = pd.read_parquet(run.path / "data" / "items.parquet")
    shuffled = known.assign(item_id=np.roll(known["item_id"], 1))
    shuffled.to_parquet(tmp_path / "shuffled.parquet", index=False)
    with pytest.raises(RunError, match=r"twotower add-items .*shuffled\.parquet --run .* --anyway"):
        add_items(run, tmp_path / "shuffled.parquet")


def test_items_without_features_cannot_be_described(run, tmp_path):
    films(run).to_parquet(tmp_path / "films.parquet", index=False)
    run.override(("features.item=[]", "features.item_multi_hot={}"), keep=False)
    with pytest.raises(ConfigError, match="the items have no features, so nothing says what new"):
        add_items(run, tmp_path / "films.parquet")
