"""Pretrained vectors, from the files to the answers: cold items are found by their vectors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.pipelines.config import parse_config, set_keys
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_ids, load_tables, preprocess
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import update
from twotower.serving.local import LocalVersion
from twotower.workflows.errors import DataError

TASTES, EACH, COLD, DIM = 4, 12, 3, 6
N_ITEMS = TASTES * (EACH + COLD)
"""Of each taste `EACH` items have interactions; the `COLD` last ones have only a vector."""
TREE = {
    "name": "made-up",
    "ingest": {
        "source": "files",
        "files": {"interactions": "log.parquet", "items": "items.parquet"},
    },
}
SETTINGS = {
    "features.item_vectors": {"image": DIM},
    "training.batch_size": 64,
    "training.epochs": 8,
    "training.learning_rate": 0.05,
    "model.dim": 8,
    "evaluation.ks": [5],
    "training.monitor": "ndcg@5",
    "update.max_changed": 1,
}


def taste(items: np.ndarray) -> np.ndarray:
    """Items have their taste by turns; users as well."""
    return items % TASTES


def item_vectors(items: np.ndarray, seed: int = 0) -> np.ndarray:
    """The direction of the item's taste, a little noise, and any length."""
    draw = np.random.default_rng(seed)
    vectors = np.eye(DIM)[taste(items)] + draw.normal(size=(len(items), DIM)) * 0.1
    return (vectors * draw.uniform(0.5, 9, (len(items), 1))).astype(np.float32)


def write_data(folder: Path, users: int = 80) -> Path:
    """Users like items of their taste; cold items have none. Item 5 has no vector."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(1)
    warm = np.arange(TASTES * EACH)
    rows = [
        (user, item)
        for user in range(users)
        for item in draw.choice(warm[taste(warm) == user % TASTES], 7, replace=False)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id"]).sample(frac=1, random_state=0)
    log.to_parquet(folder / "log.parquet", index=False)
    items = np.arange(N_ITEMS)
    vectors = [None if item == 5 else row for item, row in enumerate(item_vectors(items).tolist())]
    pq.write_table(pa.table({"item_id": items, "image": vectors}), folder / "items.parquet")
    return folder


def made(folder: Path, data: Path, **settings) -> Run:
    tree = set_keys(TREE, {"ingest.path": str(data), **SETTINGS, **settings}, "here")
    run = Run.create(parse_config(tree, "here"), folder)
    ingest(run, remember=False)
    return run


def trained(folder: Path, data: Path, **settings) -> Run:
    run = made(folder, data, **settings)
    preprocess(run)
    train(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("vectors")
    return trained(folder / "run", write_data(folder / "data"))


def cold_scores(run: Run) -> np.ndarray:
    """Scores of users 0 to 7 for the cold items, by the trained towers."""
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    model, (users, items) = load(run.path / "model").model, load_tables(run)
    users = {name: column[:8] for name, column in users.items()}
    cold = {name: column[TASTES * EACH :] for name, column in items.items()}
    return embed(model.query_encoder, users) @ embed(model.candidate_encoder, cold).T


def share_of_own_taste(scores: np.ndarray) -> float:
    """The share of the user's taste among the `COLD` best cold items of each user."""
    best = np.argsort(-scores, axis=1)[:, :COLD] + TASTES * EACH
    return float((taste(best) == taste(np.arange(len(scores)))[:, None]).mean())


def test_cold_items_are_found_by_their_vectors(run, tmp_path):
    assert share_of_own_taste(cold_scores(run)) == 1
    ids = trained(tmp_path, run.config.ingest.path, **{"features.item_vectors": {}})
    # All cold items have the id that is out of vocabulary, so the same score.
    assert np.ptp(cold_scores(ids), axis=1).max() < 1e-6


CLOSED = {
    "features.history": 20,
    "model.history_pooling": "sum",
    "model.normalize": False,
    "training.start": {"l2": 1.0},
    "training.epochs": 1,
    "evaluation.catalogue": "part",
}


@pytest.fixture(scope="module")
def solved(run, tmp_path_factory) -> Run:
    """Towers in closed form, without the positives of some items."""
    folder = tmp_path_factory.mktemp("solved")
    return trained(folder, run.config.ingest.path, **CLOSED, **{"split.method": "cold_items"})


def test_the_closed_form_gives_cold_items_a_vector(solved):
    assert share_of_own_taste(cold_scores(solved)) == 1
    found = evaluate(solved)
    # Cold items of the test part among each other, for which popularity says nothing.
    assert found["two-tower"]["candidates"] == 5
    assert found["two-tower"]["ndcg@5"] > 0.9 > found["random"]["ndcg@5"] + 0.2
    assert "items of the part (5 candidates)" in solved.notes("evaluate")["protocol"]["ranking"]


@pytest.mark.slow
def test_an_update_of_the_closed_form_keeps_old_vectors_in_place(solved, tmp_path):
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    copy = Run(Path(shutil.copytree(solved.path, tmp_path / "run")))
    export(copy)
    publish(copy)
    before = embed(load(copy.path / "model").model.candidate_encoder, load_tables(copy)[1])
    day = tmp_path / "day"
    day.mkdir()
    rows = [(1000 + user, item) for user in range(8) for item in range(user % 4, 24, 4)]
    log = pd.DataFrame([*rows, (1000, 2000)], columns=["user_id", "item_id"])
    log.to_parquet(day / "log.parquet", index=False)
    update(copy, day, anyway=True)
    after = embed(load(copy.path / "model").model.candidate_encoder, load_tables(copy)[1])
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after[: len(before)], axis=1)
    cosines = (before * after[: len(before)]).sum(axis=1) / norms
    assert np.median(cosines) > 0.95 and share_of_own_taste(cold_scores(copy)) == 1


def test_the_arrays_have_the_vectors_of_the_rows(run):
    _, items = load_tables(run)
    expected = item_vectors(np.arange(N_ITEMS))
    expected[5] = 0
    np.testing.assert_array_equal(items["image"], expected)
    assert items["image"].dtype == np.float32
    findings = (run.path / "data" / "report.json").read_text()
    assert f"1 of {N_ITEMS} items have no vector in the column image" in findings


def test_an_answer_ranks_the_cold_items_of_the_users_taste(run):
    number = export(run)["version"]
    version = LocalVersion(run.path / TRITON / "retrieval" / str(number))
    found, _ = version.answer([0, 1, 2, 3], EACH + COLD)
    assert (taste(found) == np.arange(4)[:, None]).mean() > 0.95
    assert (found >= TASTES * EACH).sum(axis=1).min() >= COLD - 1


def test_an_update_brings_items_with_vectors_and_changes_others(run, tmp_path):
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    export(copy)
    publish(copy)
    day = tmp_path / "day"
    day.mkdir()
    new = np.array([TASTES * EACH, 1000, 1001])  # a cold item of taste 0 turns into one of taste 1
    vectors = np.eye(DIM)[[1, 2, 3]].tolist()
    pq.write_table(pa.table({"item_id": new, "image": vectors}), day / "items.parquet")
    update(copy, day)
    _, items = load_tables(copy)
    rows = np.searchsorted(load_ids(copy)[1], new)
    np.testing.assert_array_equal(items["image"][rows], np.float32(vectors))
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    model, (users, _) = load(copy.path / "model").model, load_tables(copy)
    queries = embed(model.query_encoder, {name: column[:4] for name, column in users.items()})
    scores = queries @ embed(model.candidate_encoder, {n: v[rows] for n, v in items.items()}).T
    assert scores.argmax(axis=0).tolist() == [1, 2, 3]


def test_vectors_of_a_file_equal_those_of_the_table(run, tmp_path):
    data = write_data(tmp_path / "data")
    items = pq.read_table(data / "items.parquet")
    order = np.random.default_rng(3).permutation(N_ITEMS)
    vectors = item_vectors(np.arange(N_ITEMS))
    vectors[5] = np.nan
    np.save(data / "image.npy", vectors[order].astype(np.float64))
    (data / "image.ids.txt").write_text("".join(f"{item}\n" for item in order))
    # The items of the table are some; the file brings the others.
    pq.write_table(items.drop(["image"]).slice(0, 20), data / "items.parquet")
    copy = made(tmp_path / "run", data, **{"ingest.vectors": {"image": "image.npy"}})
    preprocess(copy)
    _, expected = load_tables(run)
    _, found = load_tables(copy)
    np.testing.assert_array_equal(found["image"], expected["image"])
    (data / "image.ids.txt").unlink()
    np.save(data / "image.ids.npy", np.r_[order[:-1], order[0]])
    with pytest.raises(
        DataError, match=rf"image\.npy, row {N_ITEMS}: item_id {order[0]} has a vec"
    ):
        ingest(copy, remember=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0] * DIM, [1.0] * 4], r"row 2, item_id 8: a vector of 4 numbers in column image.* 6"),
        (
            [[1.0] * DIM, [1.0] * 5 + [np.inf]],
            r"row 2, item_id 8: the vector in column image has i",
        ),
        (["a", "b"], "column image has values of type string, not vectors"),
        ([None, None], "column image has no vector in any row"),
    ],
)
def test_wrong_vectors_are_refused_by_row(values, message, tmp_path):
    data = write_data(tmp_path / "data")
    pq.write_table(pa.table({"item_id": [7, 8], "image": values}), data / "items.parquet")
    with pytest.raises(DataError, match=message):
        made(tmp_path / "run", data)


def test_a_file_needs_the_length_of_its_vectors():
    tree = set_keys(TREE, {"ingest.vectors": {"text": "text.npy"}}, "here")
    with pytest.raises(ConfigError, match=r"ingest\.vectors: text: give the length of a vector"):
        parse_config(tree, "here")


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_a_request_may_bring_the_vector_of_its_user(runtime, tmp_path):
    data = write_data(tmp_path / "data")
    users = np.arange(80)
    vectors = [None if user == 9 else row for user, row in enumerate(item_vectors(users).tolist())]
    pq.write_table(pa.table({"user_id": users, "mood": vectors}), data / "users.parquet")
    copy = trained(
        tmp_path / "run",
        data,
        **{
            "ingest.files.users": "users.parquet",
            "features.user_vectors": {"mood": DIM},
            "serving.runtime": runtime,
            "training.epochs": 4,
        },
    )
    number = export(copy)["version"]
    version = LocalVersion(copy.path / TRITON / "retrieval" / str(number))
    assert version.contract.vectors == {"mood": DIM}
    known = version.answer([0, 1, 2, 3, 9], 8)
    given = version.answer([0, 1, 2, 3, 9], 8, features={"mood": [*vectors[:4], None]})
    np.testing.assert_array_equal(known[0], given[0])
    np.testing.assert_allclose(known[1], given[1], atol=1e-6)
    # Strangers are known by their vector alone.
    found, _ = version.answer([900, 901], 8, features={"mood": [vectors[2], vectors[3]]})
    assert (taste(found) == np.array([[2], [3]])).mean() > 0.9
    # The version has its own copy of the error's class.
    with pytest.raises(Exception, match="'mood', row 1: a vector of 2 numbers; expected 6"):
        version.answer([0, 1], 3, features={"mood": [vectors[0], [1.0, 2.0]]})
