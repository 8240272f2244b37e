"""Features of the context, from the interactions to the metrics: the item depends on the month."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import twotower
from tests.pipelines.steps.test_preprocess import ingested
from twotower.pipelines.cli import main
from twotower.pipelines.config import parse_config, set_keys
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.preprocess import (
    load_contexts,
    load_split,
    load_tables,
    load_training_data,
    preprocess,
)
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import update
from twotower.pipelines.steps.verify import verify
from twotower.serving.client import RetrievalClient
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError
from twotower.workflows.errors import DataError

TASTES, MONTHS, EACH = 4, ("Jan", "Feb", "Mar", "Apr"), 10
N_ITEMS = TASTES * len(MONTHS) * EACH
SETTINGS = {
    "training.batch_size": 128,
    "training.epochs": 12,
    "training.learning_rate": 0.05,
    "model.dim": 16,
    "evaluation.ks": [5],
    "training.monitor": "ndcg@5",
    "evaluation.baselines": ["popularity", "itemknn"],
}
CONTEXT = {"features.context": ["month"], "features.context_numeric": ["size"]}


def seasons(users: int = 160, per_month: int = 4) -> pd.DataFrame:
    """Every user likes the items of a taste, other ones every month."""
    draw = np.random.default_rng(0)
    rows = [
        (user, (user % TASTES * len(MONTHS) + month) * EACH + item, MONTHS[month])
        for user in range(users)
        for month in range(len(MONTHS))
        for item in draw.choice(EACH, per_month, replace=False)
    ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "month"])
    table["size"] = draw.normal(size=len(table))
    return table.sample(frac=1, random_state=0).reset_index(drop=True)


def trained(folder, **settings) -> Run:
    run = ingested(folder, seasons(), **SETTINGS, **settings)
    preprocess(run)
    train(run)
    return run


@pytest.fixture(scope="module")
def with_context(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("with"), **CONTEXT)


def test_the_context_decides_what_is_found(with_context, tmp_path):
    found = evaluate(with_context)
    without = evaluate(trained(tmp_path))
    assert found["two-tower"]["recall@5"] > 0.7
    assert without["two-tower"]["recall@5"] < 0.3
    # Baselines do not know the context.
    assert found["itemknn"]["recall@5"] < 0.3
    assert found["two-tower"]["users"] == without["two-tower"]["users"]
    assert "each pair in its own context" in with_context.notes("evaluate")["protocol"]["ranking"]


def test_every_positive_has_the_context_of_its_row(with_context):
    data = load_training_data(with_context)
    assert set(data.contexts) == {"month", "size"} and data.context_rows.dtype == np.int32
    rows = load_split(with_context.path / "processed")["train"]
    raw = seasons().merge(rows, on=["user_id", "item_id"], how="right")
    months = data.contexts["month"][data.context_rows, 0]
    assert len(set(zip(raw["month"], months, strict=True))) == len(MONTHS)
    sizes = data.contexts["size"][data.context_rows, 0]
    assert np.corrcoef(raw["size"], sizes)[0, 1] > 0.9999
    # The user table has the codes of a context that is not given.
    assert (data.users["month"] == 2).all() and (data.users["size"] == 0).all()


def test_the_queries_of_the_evaluation_have_their_own_context(with_context):
    evaluator = Evaluator(with_context, "test")
    rows = load_split(with_context.path / "processed")["test"]
    queries = evaluator.queries
    assert len(queries.users) == len(rows[["user_row", "context_row"]].drop_duplicates())
    assert queries.relevant.sum() == len(rows)
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    model = load(with_context.path / "model").model
    users, items = load_tables(with_context)
    scorer = evaluator.tower_scorer(model, users, items)
    place = len(queries.users) // 2
    user, context = queries.users[place], queries.contexts[place]
    features = {name: column[[user]] for name, column in users.items()}
    features |= {name: each[[context]] for name, each in load_contexts(with_context).items()}
    np.testing.assert_allclose(
        scorer.users[[place]], embed(model.query_encoder, features), atol=1e-6
    )
    whole = evaluator.evaluate(scorer)
    evaluator.sample(40)
    some = evaluator.evaluate(evaluator.tower_scorer(model, users, items))
    assert some.users == 40 and abs(some.values["recall@5"] - whole.values["recall@5"]) < 0.15


def test_the_context_is_read_without_naming_it_twice(tmp_path):
    alone = {"ingest.files.keep": []}
    run = ingested(tmp_path / "context", seasons(), **alone, **CONTEXT)
    columns = pd.read_parquet(run.path / "data" / "interactions.parquet").columns
    assert set(columns) == {"user_id", "item_id", "month", "size"}
    message = "160 of 160 users have more than one value.* name it under features.context or"
    with pytest.raises(DataError, match=message):
        ingested(tmp_path / "user", seasons(), **alone, **{"features.user": ["month"]})


def test_the_closed_form_refuses_a_context():
    tree = {
        "name": "made-up",
        "ingest": {"source": "synthetic"},
        "training": {"start": {}},
        "features": {"history": 5, "context": ["month"]},
        "model": {"history_pooling": "sum", "normalize": False},
    }
    with pytest.raises(
        ConfigError,
        match=r"it needs features\.context, features\.context_numeric and features\.time: ",
    ):
        parse_config(tree, "here")
    parse_config(set_keys(tree, {"features.context": []}, "here"), "here")


@pytest.fixture(scope="module")
def exported(with_context):
    """The compiled and the stock ensemble of the same towers."""
    versions = {}
    for runtime in ("compiled", "merlin"):
        with_context.override((f"serving.runtime={runtime}",))
        number = export(with_context)["version"]
        versions[runtime] = LocalVersion(with_context.path / TRITON / "retrieval" / str(number))
    return versions


def by_the_towers(run: Run, users: np.ndarray, months: list, sizes: list) -> np.ndarray:
    """Scores of all items by the trained towers, with NVTabular's codes of the context."""
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed
    from twotower.workflows.features.context import encode_context
    from twotower.workflows.features.encode import as_arrays, load_workflow

    model, (table, items) = load(run.path / "model").model, load_tables(run)
    features = {name: column[users] for name, column in table.items()}
    given = pd.DataFrame({"month": months, "size": sizes})
    workflow = load_workflow(run.path / "workflow")
    features |= as_arrays(encode_context(workflow, given, run.config.features), {})
    return embed(model.query_encoder, features) @ embed(model.candidate_encoder, items).T


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_an_answer_depends_on_the_month_of_the_request(with_context, exported, runtime):
    version, users = exported[runtime], np.repeat(np.arange(8), 4)
    assert version.contract.features["month"] == "BYTES"
    assert version.contract.features["size"] == "FP64"
    months, sizes = [*MONTHS] * 8, np.linspace(-2, 2, 32).tolist()
    found, scores = version.answer(users, 5, features={"month": months, "size": sizes})
    expected = by_the_towers(with_context, users, months, sizes)
    best = np.argsort(-expected, axis=1, kind="stable")[:, :5]
    np.testing.assert_allclose(scores, np.take_along_axis(expected, best, 1), atol=2e-6)
    assert (found == best).mean() > 0.98  # equal scores may be swapped
    groups = found // EACH
    assert (groups == (users % TASTES * 4 + np.arange(32) % 4)[:, None]).mean() > 0.9
    # One by one, and with another user's month between them.
    for row in (0, 5, 31):
        alone, _ = version.answer(
            users[[row]], 5, features={"month": months[row : row + 1], "size": sizes[row : row + 1]}
        )
        np.testing.assert_array_equal(alone[0], found[row])


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_an_unknown_month_is_one_that_is_not_given(exported, runtime):
    version, users = exported[runtime], np.array([3, 4, 999])
    absent = version.answer(users, 5)
    unknown = version.answer(users, 5, features={"month": ["Okt", "May", ""]})
    np.testing.assert_array_equal(absent[0], unknown[0])
    np.testing.assert_allclose(absent[1], unknown[1], atol=1e-6)
    # A vector that was cached for a user without a month does not answer for one with a month.
    again = version.answer(users[:2], 5, features={"month": ["Jan", "Feb"]})
    assert (again[0] != absent[0][:2]).any()
    np.testing.assert_array_equal(version.answer(users, 5)[0], absent[0])
    # A null is not an unknown value: no row had one in training, so its embedding is as it began.
    null = version.answer(users[:2], 5, features={"month": [None, None]})
    assert null[0].shape == (2, 5)


def test_triton_answers_with_the_context_of_the_request(with_context, exported):
    publish(with_context, 1)
    users, months, sizes = [7, 7, 8, 999], ["Jan", "Apr", None, "Mar"], [0.5, -1.0, None, 2.0]
    features = {"month": months, "size": sizes}
    expected = exported["compiled"].answer(np.array(users), 5, features=features)
    with serving(with_context) as addresses:
        for protocol in ("http", "grpc"):
            with RetrievalClient(getattr(addresses, protocol), protocol=protocol) as client:
                found = client.recommend(users, k=5, filter_seen=False, features=features)
                np.testing.assert_array_equal(found.item_ids, expected[0])
                np.testing.assert_allclose(found.scores, expected[1], atol=1e-6)
                with pytest.raises(ServingError, match="'weather'"):
                    client.recommend(users, k=5, features={"weather": months})
        command = ["query", "--run", str(with_context.path), "--user", "7", "--seen", "-k", "5"]
        command += ["--feature", "month=Apr", "--feature", "size=-1", "--json"]
        asked = CliRunner().invoke(main, command, catch_exceptions=False)
        (answer,) = json.loads(asked.stdout)["users"]
        assert [each["item"] for each in answer["items"]] == expected[0][1].tolist()
    in_python = twotower.load(with_context.path).recommend(
        users, k=5, filter_seen=False, features=features
    )
    assert in_python["item"].tolist() == expected[0].ravel().tolist()
    # Without a context the server answers as the towers do for the user table.
    assert verify(with_context, count=40, k=20, together=8).holds


def test_an_update_learns_new_months(with_context, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("day")
    run = Run(shutil.copytree(with_context.path, folder / "run"))
    publish(run, 1)
    run.override(("update.max_loss=0.99", "serving.runtime=compiled"))
    day = seasons(users=200, per_month=3).assign(month="May")
    day[::2].to_parquet(folder / "ev.parquet")
    before = load_contexts(run)
    number = update(run, folder)
    contexts, data = load_contexts(run), load_training_data(run)
    assert before["month"].max() == 2 + len(MONTHS) and contexts["month"].max() == 3 + len(MONTHS)
    assert (contexts["month"][data.context_rows[-50:]] == 3 + len(MONTHS)).all()
    version = LocalVersion(run.path / TRITON / "retrieval" / str(number))
    answers = [
        version.answer(np.arange(9), 5, features={"month": [m] * 9})[0] for m in ("May", "?")
    ]
    assert (answers[0] != answers[1]).any()


def test_whole_numbers_beside_nulls_are_categories_of_their_own(tmp_path):
    """A positive without a month has the code of null; months are whole numbers in requests."""
    rows = seasons(users=40)
    month = pd.array([MONTHS.index(name) + 1 for name in rows["month"]], "Int64")
    month[::5] = pd.NA
    rows = rows.assign(month=month, event=["buy", "view", "buy", "buy"] * (len(rows) // 4))
    positives = {"positives.column": "event", "positives.values": ["buy"]}
    run = ingested(tmp_path, rows, **positives, **CONTEXT)
    preprocess(run)
    data = load_training_data(run)
    codes = data.contexts["month"][data.context_rows, 0]
    train = load_split(run.path / "processed")["train"]
    raw = train.merge(rows, on=["user_id", "item_id"], how="left")["month"]
    assert set(raw.isna()) == {True, False}
    np.testing.assert_array_equal(codes == 1, raw.isna())
    assert len(set(zip(raw.fillna(0), codes, strict=True))) == len(MONTHS) + 1
