"""Filters in the commands and in the Python face: what is in the answers, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

import twotower
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.answers.request import FiltersForAll
from twotower.pipelines.cli import main
from twotower.pipelines.run import Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.serving.item_columns import item_columns
from twotower.serving.runtime.errors import ServingError

WHERE = {"genres": {"$in": ["Drama", "Comedy"]}, "year": {"$gte": 1990}}


@pytest.fixture(scope="module")
def allowed(small_run) -> set[int]:
    """The items that satisfy WHERE."""
    items = pd.read_parquet(small_run.path / "data" / "items.parquet")
    genres = items["genres"].map(lambda row: bool({"Drama", "Comedy"} & set(row)))
    found = set(items["item_id"][genres & (items["year"] >= 1990)])
    assert 20 < len(found) < len(items) / 2
    return found


def test_a_file_of_recommendations_has_the_best_of_the_allowed_items(small_run, allowed, tmp_path):
    every, some = tmp_path / "every.parquet", tmp_path / "some.parquet"
    recommend(small_run, "all", every, 10**6)
    ranked = pd.read_parquet(every)
    excluded = sorted(allowed)[:5]
    filters = FiltersForAll(json.dumps(WHERE), exclude=excluded)
    written = recommend(small_run, "all", some, 10, filters=filters)
    kept = ranked[ranked["item_id"].isin(allowed - set(excluded))]
    best = kept.groupby("user_id", sort=False).head(10).reset_index(drop=True)
    found = pd.read_parquet(some)
    assert written.rows == len(found) == 10 * written.users
    assert found["item_id"].tolist() == best["item_id"].tolist()
    np.testing.assert_allclose(found["score"], best["score"], atol=1e-6)


def test_the_commands_filter(small_run, allowed, tmp_path):
    run, where = str(small_run.path), json.dumps(WHERE)
    some = sorted(allowed)[:4]
    asked = ["query", "--run", run, "--user", "22", "-k", "20", "--json", "--where", where]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    (user,) = json.loads(result.stdout)["users"]
    assert len(user["items"]) == 20 and {item["item"] for item in user["items"]} <= allowed
    out = tmp_path / "some.csv"
    asked = ["recommend", "--run", run, "--users", "all", "--out", str(out), "--seen"]
    asked += [option for item in some for option in ("--allow", str(item))]
    assert CliRunner().invoke(main, [*asked, "--exclude", str(some[0])]).exit_code == 0
    found = pd.read_csv(out)
    assert set(found["item_id"]) == set(some[1:])
    assert (found.groupby("user_id").size() == 3).all()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--where", '{"yaer": 1}'],
            "column 'yaer' is unknown; this model filters by genres, year",
        ),
        (["--where", "year > 1990"], "--where year > 1990: it is not JSON"),
        (["--allow", "Toy Story"], "'Toy Story' is no id of this run"),
    ],
)
def test_a_wrong_filter_is_named_before_a_server_starts(options, message, small_run):
    asked = ["query", "--run", str(small_run.path), "--user", "22", *options]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 1 and "starting" not in result.output
    assert message in re.sub(r"\s+", " ", result.output)


def test_the_python_face_filters(small_run, allowed):
    recommender = twotower.load(small_run.path)
    found = recommender.recommend([22, 23], k=7, where=WHERE)
    assert set(found["item"]) <= allowed and len(found) == 14
    first = found["item"].iloc[0]
    others = recommender.recommend([22, 23], k=6, where=WHERE, exclude_item_ids=[[first], []])
    assert others["item"][:6].tolist() == found["item"][1:7].tolist()
    assert others["item"][6:].tolist() == found["item"][7:13].tolist()


def test_columns_are_those_of_the_export(small_run, tmp_path):
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    run.override(("serving.filters=[title]",), True)
    version = export(run)["version"]
    contract = json.loads((run.path / f"triton/retrieval/{version}/model.json").read_text())
    assert contract["contract"]["filters"] == {"title": "BYTES"}
    run.override(("serving.filters=[colour]",), True)
    with pytest.raises(ServingError, match="item table has no column colour; it has item_id, ti"):
        export(run)
    with pytest.raises(ServingError, match="item table has no column colour"):
        ingest(run)


def test_a_column_of_another_type_is_refused():
    items = pa.table({"released": pa.array([1], pa.timestamp("s"))})
    with pytest.raises(ServingError, match="column 'released' holds timestamp"):
        item_columns(items, ["released"])


@pytest.mark.parametrize(
    "names, message",
    [("[$and]", "'$and' cannot be a column to filter by"), ("[year, year]", "year occurs twice")],
)
def test_wrong_names_of_columns(names, message):
    result = CliRunner().invoke(
        main, ["run", "--config", "synthetic", "--set", f"serving.filters={names}"]
    )
    assert result.exit_code == 1 and message in re.sub(r"\s+", " ", result.output)
