"""Feature columns of any name, from the file to the exported version."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.config import parse_config
from twotower.pipelines.run import Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_tables, preprocess
from twotower.pipelines.steps.train import train
from twotower.serving.runtime.compiled_engine import CompiledEngine
from twotower.serving.runtime.contract import Contract
from twotower.serving.runtime.manifest import MODEL_FILE
from twotower.workflows.features.names import internal_name

USER_NAMES = [
    *("zip-code", "a.b", "2nd", "class", "país/región", " lead ", "x" * 240, "self", "Age"),
    *("k", "score", "filter_seen", "labels", "order", "user_id__state"),
]
ITEM_NAMES = ["product/category", "カテゴリ", "..", "history", "age", "a[0]*?"]
NUMBER, LIST = "price (EUR)", "tags/all"
USERS, ITEMS = 40, 25


@pytest.fixture(scope="module")
def tables():
    draw = np.random.default_rng(3)

    def side(name: str, size: int, names: list[str]) -> pd.DataFrame:
        words = {
            name: draw.permutation([*"abcd", *draw.choice([*"abcd"], size - 4)]) for name in names
        }
        lists = [draw.choice([*"xyz"], 2).tolist() for _ in range(size)]
        columns = {f"{name}_id": np.arange(size), NUMBER + name: draw.normal(size=size)}
        return pd.DataFrame({**columns, **words, LIST + name: lists})

    pairs = draw.permutation(USERS * ITEMS)[:300]
    log = pd.DataFrame({"user_id": pairs % USERS, "item_id": pairs // USERS})
    return log, side("user", USERS, USER_NAMES), side("item", ITEMS, ITEM_NAMES)


@pytest.fixture(scope="module")
def run(tables, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("names")
    files, features = {}, {}
    for name, table in zip(("interactions", "users", "items"), tables, strict=True):
        table.to_parquet(folder / f"{name}.parquet")
        files[name] = f"{name}.parquet"
    for side, names in (("user", USER_NAMES), ("item", ITEM_NAMES)):
        features |= {side: names, f"{side}_numeric": [NUMBER + side]}
        features[f"{side}_multi_hot"] = {LIST + side: 2}
    tree = {
        "name": "names",
        "ingest": {"source": "files", "path": str(folder), "files": files},
        "features": features,
        "model": {"dim": 8, "feature_dim": 4, "hidden": [8]},
        "training": {"epochs": 1, "batch_size": 64},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = Run.create(parse_config(tree, "test"), folder / "run")
        for step in (ingest, preprocess, train, export):
            step(run)
    return run


@pytest.mark.slow
def test_a_column_of_any_name_is_encoded(run, tables):
    encoded = load_tables(run)
    for table, names, found in zip(tables[1:], (USER_NAMES, ITEM_NAMES), encoded, strict=True):
        for name in names:
            codes = found[internal_name(name)][:, 0]
            values = pd.Series(codes).groupby(table[name].to_numpy()).agg(["min", "max"])
            assert (values["min"] == values["max"]).all(), name
            assert sorted(values["min"]) == [3, 4, 5, 6], name  # the vocabulary, by frequency


def test_requests_name_features_as_the_data_does(run, tables):
    from twotower.models.training.saving import CANDIDATE_TOWER, QUERY_TOWER, load_tower
    from twotower.models.two_tower import embed

    version = run.path / "triton" / "retrieval" / "1"
    model = json.loads((version / MODEL_FILE).read_text())
    contract, engine = Contract(**model["contract"]), CompiledEngine(version)
    names = [*USER_NAMES, NUMBER + "user", LIST + "user"]
    assert set(contract.features) == set(names)

    asked, as_if = 5, 11  # one user with the features of another
    row = tables[1].iloc[as_if]
    inputs = {name: np.array([[str(row[name]).encode()]], object) for name in USER_NAMES}
    inputs[NUMBER + "user"] = np.array([[row[NUMBER + "user"]]])
    inputs[LIST + "user"] = np.array([[value.encode() for value in row[LIST + "user"]]], object)
    inputs["user_id"] = np.array([[asked]])
    answer = engine.run(contract.read(inputs, {"k": ITEMS, "filter_seen": False}))

    users, items = load_tables(run)
    features = {name: column[[as_if]] for name, column in users.items()}
    features["user_id"] = users["user_id"][[asked]]
    query = embed(load_tower(run.path / "model" / QUERY_TOWER), features)
    scores = query @ embed(load_tower(run.path / "model" / CANDIDATE_TOWER), items).T
    expected = scores[0][answer["item_id"][0]]
    np.testing.assert_allclose(answer["score"][0], expected, atol=1e-5)
    np.testing.assert_allclose(np.sort(expected)[::-1], expected, atol=1e-5)
