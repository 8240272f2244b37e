"""Features of the time, from the interactions to the answers: the item depends on the hour."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.pipelines.steps.test_context import EACH, MONTHS, SETTINGS, TASTES, seasons
from tests.pipelines.steps.test_preprocess import ingested
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.answers.request import parse_features
from twotower.pipelines.cli import main
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.preprocess import (
    load_contexts,
    load_split,
    load_tables,
    load_times,
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

TIME = {
    "features.time": ["hour_of_day", "day_of_week", "bucket", "number"],
    "features.time_buckets": 4,
    "features.time_zone": "Europe/Berlin",
}
QUARTER = 6 * 3600
START = int(datetime(2024, 1, 31, 23, tzinfo=timezone.utc).timestamp())
"""Midnight in Berlin, before a Thursday."""


def hours(users: int = 160, per_month: int = 4, first_day: int = 0) -> pd.DataFrame:
    """Every user likes the items of a taste, other ones in every quarter of the day."""
    rows = seasons(users, per_month)
    day = first_day + np.random.default_rng(1).integers(0, 28, len(rows))
    quarter = rows["month"].map(MONTHS.index)
    rows["timestamp"] = START + day * 86_400 + quarter * QUARTER
    return rows[["user_id", "item_id", "timestamp"]]


@pytest.fixture(scope="module")
def with_time(tmp_path_factory) -> Run:
    run = ingested(tmp_path_factory.mktemp("time"), hours(), **SETTINGS, **TIME)
    preprocess(run)
    train(run)
    return run


@pytest.mark.slow
def test_the_hour_decides_what_is_found(with_time):
    found = evaluate(with_time)
    assert found["two-tower"]["recall@5"] > 0.7
    assert found["itemknn"]["recall@5"] < 0.3
    ranking = with_time.notes("evaluate")["protocol"]["ranking"]
    assert ranking.endswith("in its own context; the time of a query is that of its pair")


def test_every_positive_has_its_own_time(with_time):
    data, times = load_training_data(with_time), load_times(with_time)
    rows = load_split(with_time.path / "processed")["train"]
    seconds = rows.merge(hours(), on=["user_id", "item_id"], how="left")["timestamp"]
    own = {name: each[data.context_rows, 0] for name, each in data.contexts.items()}
    in_berlin = pd.to_datetime(seconds, unit="s", utc=True).dt.tz_convert("Europe/Berlin")
    for column, expected in (
        ("time_hour_of_day", in_berlin.dt.hour),
        ("time_day_of_week", in_berlin.dt.dayofweek),
        ("time_bucket", np.searchsorted(times["edges"], seconds, side="right")),
    ):
        codes = {value: set(own[column][expected == value]) for value in set(expected)}
        assert all(len(each) == 1 for each in codes.values()), column
        assert len({code for each in codes.values() for code in each}) == len(codes), column
    assert np.bincount(own["time_bucket"])[3:].min() > 0.2 * len(rows)
    normalised = (seconds - seconds.mean()) / seconds.std()
    np.testing.assert_allclose(own["time_number"], normalised, atol=1e-5)
    assert (data.users["time_bucket"] == 2).all() and (data.users["time_number"] == 0).all()


@pytest.fixture(scope="module")
def exported(with_time):
    """The compiled and the stock ensemble of the same towers."""
    versions = {}
    for runtime in ("merlin", "compiled"):
        with_time.override((f"serving.runtime={runtime}",))
        number = export(with_time)["version"]
        versions[runtime] = LocalVersion(with_time.path / TRITON / "retrieval" / str(number))
    return versions


def by_the_towers(run: Run, pairs: pd.DataFrame) -> np.ndarray:
    """Scores of all items by the trained towers for pairs with user_row and context_row."""
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    model, (table, items) = load(run.path / "model").model, load_tables(run)
    features = {name: column[pairs["user_row"]] for name, column in table.items()}
    features |= {name: each[pairs["context_row"]] for name, each in load_contexts(run).items()}
    return embed(model.query_encoder, features) @ embed(model.candidate_encoder, items).T


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_a_request_is_encoded_as_a_training_row_of_the_same_time(with_time, exported, runtime):
    pairs = load_split(with_time.path / "processed")["train"][:32]
    seconds = pairs.merge(hours(), on=["user_id", "item_id"], how="left")["timestamp"].tolist()
    expected = np.sort(by_the_towers(with_time, pairs), axis=1)[:, :-6:-1]
    users = pairs["user_id"].to_numpy()
    found, scores = exported[runtime].answer(users, 5, features={"timestamp": seconds})
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    quarter = (np.array(seconds) - START) % 86_400 // QUARTER
    assert (found // EACH == (users % TASTES * 4 + quarter)[:, None]).mean() > 0.9


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_without_a_time_the_clock_answers(exported, runtime, monkeypatch):
    version, users, now = exported[runtime], np.arange(8), START + 14 * 86_400 + QUARTER
    assert version.contract.features == {"timestamp": "INT64"}
    monkeypatch.setattr("time.time", lambda: now + 0.7)
    by_clock = version.answer(users, 5)
    given = version.answer(users, 5, features={"timestamp": [now] * 8})
    np.testing.assert_array_equal(by_clock[0], given[0])
    np.testing.assert_array_equal(by_clock[1], given[1])
    monkeypatch.setattr("time.time", lambda: now + QUARTER)
    assert (version.answer(users, 5)[0] != by_clock[0]).mean() > 0.5
    # Later than training: the last bucket and the largest number, but the hour counts.
    later = START + 700 * 86_400 + QUARTER
    monkeypatch.setattr("time.time", lambda: later)
    assert (version.answer(users, 5)[0] // EACH % 4 == 1).mean() > 0.9


def test_an_unknown_time_is_that_of_the_user_table(with_time, exported, tmp_path):
    users, items = load_tables(with_time)
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    model = load(with_time.path / "model").model
    vectors = embed(model.query_encoder, {name: each[:9] for name, each in users.items()})
    scores = vectors @ embed(model.candidate_encoder, items).T
    version = exported["compiled"]
    assert version.unknown_time(2) == {"timestamp": [None, None]}
    for each in exported.values():
        _, found = each.answer(np.arange(9), 5, features=each.unknown_time(9))
        np.testing.assert_allclose(found, np.sort(scores, axis=1)[:, :-6:-1], atol=2e-6)
    np.testing.assert_allclose(version.query_vectors(np.arange(9)), vectors, atol=1e-6)
    # A file of answers does not depend on when it was made, unless the users' file has times.
    publish(with_time, 2)
    answers = pd.read_parquet(recommended(with_time, "all", tmp_path / "all.parquet"))
    np.testing.assert_allclose(
        answers["score"][:45], np.sort(scores, axis=1)[:, :-6:-1].ravel(), atol=2e-6
    )
    file = tmp_path / "users.csv"
    file.write_text("user_id,timestamp\n3,2024-02-15 06:30:00\n4,2024-02-15 06:30:00\n")
    answers = pd.read_parquet(recommended(with_time, str(file), tmp_path / "some.parquet"))
    moment = int(datetime(2024, 2, 15, 6, 30, tzinfo=timezone.utc).timestamp())
    expected, _ = version.answer([3, 4], 5, features={"timestamp": [moment] * 2})
    assert answers["item_id"].tolist() == expected.ravel().tolist()


def recommended(run: Run, users: str, out):
    recommend(run, users, out, k=5, filter_seen=False)
    return out


def test_a_time_may_be_written_in_many_ways(with_time, exported):
    publish(with_time, 2)
    moment = int(datetime(2024, 5, 1, 16, 30, tzinfo=timezone.utc).timestamp())
    for text in (
        str(moment),
        "2024-05-01T16:30",
        "2024-05-01 16:30:00",
        "2024-05-01T16:30:00Z",
        "2024-05-01T18:30:00+02:00",
    ):
        assert parse_features(with_time, [f"timestamp={text}"]) == {"timestamp": moment}
    assert parse_features(with_time, ["timestamp=1969-12-31T23:59:59.500"]) == {"timestamp": -1}
    assert parse_features(with_time, ["timestamp=2024-02-29"]) == {"timestamp": 1_709_164_800}
    assert parse_features(with_time, ["timestamp="]) == {"timestamp": None}
    with pytest.raises(ConfigError, match="--feature timestamp=2023-02-29: '2023-02-29' is no tim"):
        parse_features(with_time, ["timestamp=2023-02-29"])
    with pytest.raises(ConfigError, match=f"'{10**20}' is no integer from"):
        parse_features(with_time, [f"timestamp={10**20}"])


def test_the_last_items_are_asked_for_at_the_time_of_those_before(tmp_path):
    # Each user's items, a day and an hour apart.
    rows = pd.DataFrame([(u, i, 90_000 * i) for u in range(20) for i in range(6)])
    rows.columns = ["user_id", "item_id", "timestamp"]
    settings = {"features.time": ["bucket"], "features.time_buckets": 6}
    run = ingested(tmp_path, rows, **settings, **{"split.method": "leave_last_out"})
    preprocess(run)
    parts, codes = load_split(run.path / "processed"), load_contexts(run)["time_bucket"][:, 0]
    of = {part: codes[rows["context_row"]] for part, rows in parts.items()}
    last_of_train = of["train"][parts["train"]["item_id"] == 3]
    assert set(of["valid"]) == set(last_of_train)
    # Items 4 and 5 are later than all of train: as late as its last times.
    assert set(of["test"]) == set(of["valid"])
    assert len(set(of["train"])) == 4


@pytest.mark.slow
def test_triton_answers_at_the_time_of_the_request(with_time, exported):
    publish(with_time, 2)
    users, now = [7, 7, 8, 999], START + 3 * 86_400
    seconds = [now, now + QUARTER, None, now]
    expected = exported["compiled"].answer(np.array(users), 5, features={"timestamp": seconds})
    with serving(with_time) as addresses:
        for protocol in ("http", "grpc"):
            with RetrievalClient(getattr(addresses, protocol), protocol=protocol) as client:
                found = client.recommend(
                    users, k=5, filter_seen=False, features={"timestamp": seconds}
                )
                np.testing.assert_array_equal(found.item_ids, expected[0])
                np.testing.assert_allclose(found.scores, expected[1], atol=1e-6)
                assert client.recommend(users, k=5).item_ids.shape == (4, 5)
        command = ["query", "--run", str(with_time.path), "--user", "7", "--seen", "-k", "5"]
        moment = datetime.fromtimestamp(now + QUARTER, timezone.utc).isoformat()
        asked = CliRunner().invoke(main, [*command, "--feature", f"timestamp={moment}", "--json"])
        (answer,) = json.loads(asked.stdout)["users"]
        assert [each["item"] for each in answer["items"]] == expected[0][1].tolist()
    assert verify(with_time, count=40, k=20, together=8).holds


@pytest.mark.slow
def test_an_update_keeps_the_buckets(with_time, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("day")
    run = Run(shutil.copytree(with_time.path, folder / "run"))
    publish(run, 2)
    run.override(("update.max_loss=0.99",))
    hours(users=200, per_month=3, first_day=40)[::2].to_parquet(folder / "ev.parquet")
    before = load_times(run)
    update(run, folder)
    assert load_times(run) == before
    data = load_training_data(run)
    bucket = data.contexts["time_bucket"][data.context_rows[-50:]]
    assert bucket.max() == bucket.min() and data.contexts["time_bucket"].max() == 6
    number = data.contexts["time_number"][data.context_rows]
    assert number[-50:].min() == number[-50:].max() == number.max()
