"""Text ids from the files to the answers: metrics, query, verification and a day's update."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.pipelines.conftest import small_config
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.cli import main
from twotower.pipelines.config import parse_config
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_tables, preprocess, read_ids
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.query import ask, shown_items, unknown_users
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import update
from twotower.pipelines.steps.verify import verify
from twotower.serving.client import RetrievalClient
from twotower.workflows.errors import DataError
from twotower.workflows.sources.synthetic import SyntheticConfig, synthesise

NEW_USERS, NEW_ITEMS = 10, 8
TABLES = ("interactions", "users", "items")
FILES = {
    "interactions": "interactions.parquet",
    "users": "users.parquet",
    "items": "items.parquet",
    "columns": {"user_id": "customer", "item_id": "article"},
    "keep": ["rating", "timestamp"],
}
PADDED = {
    "user_id": lambda ids: ids.map("C{:06d}".format),
    "item_id": lambda ids: ids.map("{:08d}".format),
}
"""Texts that sort like the numbers."""
MIXED = {
    "user_id": lambda ids: ids.map(lambda each: f"{each * 7919 % 9973:05d}-ü"),
    "item_id": lambda ids: ids.map(lambda each: f"[b]{each * 7919 % 9973}[/b] \u202e\x1b[2J"),
}
"""Texts that do not, and that a careless terminal would obey."""
Names = dict[str, Callable[[pd.Series], pd.Series]]


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The tables of the first data and of a day that adds users and items, with numbers as ids."""
    tables = synthesise(SyntheticConfig(users=300, items=200, interactions=15000))
    frames = {name: getattr(tables, name).to_pandas() for name in TABLES}
    rows, users, items = frames.values()
    first_user = users["user_id"].iloc[-NEW_USERS]
    first_item = items["item_id"].iloc[-NEW_ITEMS]
    of_day = (rows["user_id"] >= first_user) | (rows["item_id"] >= first_item)
    base = {
        "interactions": rows[~of_day],
        "users": users[users["user_id"] < first_user],
        "items": items[items["item_id"] < first_item],
    }
    day = {
        "interactions": rows[of_day],
        "users": users[users["user_id"].isin(rows["user_id"][of_day])],
        "items": items[items["item_id"].isin(rows["item_id"][of_day])],
    }
    return base, day


def write(folder: Path, frames: dict[str, pd.DataFrame], names: Names) -> Path:
    """Write tables with the ids that `names` makes of numbers, the columns in reverse order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        ids = {key: make(frame[key]) for key, make in names.items() if key in frame}
        renamed = frame.assign(**ids).rename(columns=FILES["columns"])
        renamed[renamed.columns[::-1]].to_parquet(folder / f"{name}.parquet")
    return folder


def prepared(folder: Path, root: Path, *overrides: str, steps=(ingest, preprocess, train)) -> Run:
    """A run on the data in `folder`."""
    tree = json.loads(small_config("training.epochs=2", *overrides).json())
    tree["ingest"] = {"source": "files", "path": str(folder), "files": FILES}
    tree["features"] |= {"user": ["gender", "age"], "item": []}
    tree["show"] = ["title"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = Run.create(parse_config(tree, "test"), root / "runs" / "ids")
        for step in steps:
            step(run)
    return run


@pytest.fixture(scope="module")
def text_run(world, tmp_path_factory) -> Run:
    """A published run whose ids are texts in an order of their own."""
    root = tmp_path_factory.mktemp("text")
    folder = write(root / "data", world[0], MIXED)
    return prepared(folder, root, steps=(ingest, preprocess, train, export, publish))


@pytest.mark.slow
def test_texts_that_sort_like_numbers_give_the_same_metrics(world, tmp_path):
    runs = {}
    for kind, names in {"numbers": {}, "texts": PADDED}.items():
        folder = write(tmp_path / kind / "data", world[0], names)
        steps = (ingest, preprocess, train, evaluate)
        runs[kind] = prepared(folder, tmp_path / kind, steps=steps)
    numbers, texts = (
        json.loads((run.path / "reports" / "metrics.json").read_text())["metrics"]
        for run in runs.values()
    )
    assert numbers == texts
    for mine, theirs in zip(*map(load_tables, runs.values()), strict=True):
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.mark.slow
def test_the_server_is_verified_with_text_ids(text_run):
    assert verify(text_run, count=40, k=20, together=8).holds


def test_a_query_takes_and_prints_text_ids(text_run, monkeypatch):
    monkeypatch.chdir(text_run.path)
    user = read_ids(text_run).users.texts[3].as_py()
    command = ["query", "--run", str(text_run.path), "--user", user, "--user", "nobody", "-k", "3"]
    asked = CliRunner().invoke(main, command)
    assert asked.exit_code == 0, asked.output
    assert f"user {user}" in asked.output and "user nobody" in asked.output
    assert "user nobody is not in the run's data: answered as an unknown user" in asked.output
    assert f"user {user} is not" not in asked.output
    assert "[b]" in asked.output and r"[/b] \u202e\x1b[2J" in asked.output
    assert "\x1b[2J" not in asked.output and "\u202e" not in asked.output
    answer = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    items = [item["item"] for item in answer["users"][0]["items"]]
    assert answer["users"][0]["user"] == user
    known = shown_items(text_run)
    assert [item["show"]["title"] for item in answer["users"][0]["items"]] == list(
        known.loc[items, "title"]
    )


def test_a_run_with_numbers_names_what_is_no_number(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "data", world[0], {})
    run = prepared(folder, tmp_path, steps=(ingest,))
    asked = CliRunner().invoke(main, ["query", "--run", str(run.path), "--user", "C00680"])
    assert asked.exit_code == 1
    assert "'C00680' is no id of this run: its ids are whole numbers (" in asked.output


@pytest.mark.parametrize("kind", [{}, MIXED], ids=["numbers", "texts"])
def test_users_that_the_data_does_not_have_are_named(kind, world, tmp_path):
    """A mistyped id is answered like that of a new user, which people must be told."""
    run = prepared(write(tmp_path / "data", world[0], kind), tmp_path, steps=(ingest,))
    users = pd.read_parquet(run.path / "data" / "users.parquet")["user_id"].to_numpy()
    given = read_ids(run).users.decode(users[:2]).tolist()
    other = 10**9 if kind == {} else "C 00680 "
    assert unknown_users(run, [given[1], other, given[0], other]) == [other]


def test_a_split_file_has_the_ids_as_given(world, tmp_path):
    root = tmp_path
    folder = write(root / "data", world[0], MIXED)
    rows = world[0]["interactions"]
    rows = rows[rows["rating"] >= 3]
    part = np.resize(["train", "train", "valid", "test"], len(rows))
    listed = pd.DataFrame({name: make(rows[name]) for name, make in MIXED.items()}).assign(
        part=part
    )
    listed.sample(frac=1, random_state=1).to_parquet(root / "split.parquet")
    overrides = ("split.method=file", f"split.path={root / 'split.parquet'}", "split.k_core=0")
    run = prepared(folder, root, *overrides, "positives.at_least=3", steps=(ingest, preprocess))
    split = pd.read_parquet(run.path / "processed" / "split.parquet")
    ids = read_ids(run)
    found = pd.DataFrame(
        {
            "user_id": ids.users.decode(split["user_id"].to_numpy()),
            "item_id": ids.items.decode(split["item_id"].to_numpy()),
            "part": split["part"].astype(str),
        }
    )
    pd.testing.assert_frame_equal(found, listed.reset_index(drop=True), check_dtype=False)


@pytest.fixture(scope="module")
def updated(text_run, world, tmp_path_factory) -> Run:
    """A copy of the run after the update with the day."""
    root = tmp_path_factory.mktemp("updated")
    run = Run(shutil.copytree(text_run.path, root / "run"))
    assert update(run, write(root / "day", world[1], MIXED), anyway=True) == 2
    return run


def test_an_update_knows_the_ids_of_before_and_appends_new_ones(text_run, updated, world):
    for name, side in (("user_id", 0), ("item_id", 1)):
        before, after = (read_ids(run)[side].texts.to_pylist() for run in (text_run, updated))
        assert after[: len(before)] == before
        everyone = pd.concat([frames[TABLES[side + 1]][name] for frames in world])
        assert set(after) == set(MIXED[name](everyone))
        assert after[len(before) :] == sorted(after[len(before) :])
        assert len(after) - len(before) == (NEW_USERS, NEW_ITEMS)[side]


def test_an_update_has_the_data_of_a_fresh_ingest(updated, world, tmp_path):
    fresh = prepared(write(tmp_path / "data", merged(world), MIXED), tmp_path, steps=(ingest,))

    def rows(run: Run, name: str) -> pd.DataFrame:
        """The table with ids as given, in an order that does not depend on codes."""
        table = pd.read_parquet(run.path / "data" / f"{name}.parquet")
        for key, ids in zip(("user_id", "item_id"), read_ids(run), strict=True):
            if key in table:
                table[key] = ids.decode(table[key].to_numpy())
        keys = [key for key in ("user_id", "item_id") if key in table]
        return table.sort_values(keys).reset_index(drop=True)

    for name in TABLES:
        pd.testing.assert_frame_equal(rows(updated, name), rows(fresh, name))


def merged(world: Any) -> dict[str, pd.DataFrame]:
    """The tables of both days, one row per user and item."""
    both = {name: pd.concat([frames[name] for frames in world]) for name in TABLES}
    for name, key in (("users", "user_id"), ("items", "item_id")):
        both[name] = both[name].drop_duplicates(key, keep="last")
    return both


def test_the_updated_server_answers_new_and_old_users(updated, world):
    assert verify(updated, count=60, k=20, together=4).holds
    ids = read_ids(updated)
    new = ids.users.texts.to_pylist()[-1]
    with serving(updated) as addresses:
        one = ask(addresses, [new, "nobody"], 20)["http"]
        assert one.item_ids[0].tolist() != one.item_ids[1].tolist()
        history = [[ids.items.texts[0].as_py(), "no such item"]]
        with RetrievalClient(addresses.http) as client:
            given = client.recommend(["nobody"], k=190, features={"history": history})
            assert history[0][0] not in given.item_ids[0]


def test_a_day_with_ids_of_another_kind_changes_nothing(text_run, world, tmp_path):
    run = Run(shutil.copytree(text_run.path, tmp_path / "run"))
    before = run.manifest
    day = write(tmp_path / "day", world[1], {})
    message = r"column customer: \d+ \(int64\), but in the other data .* user_id are text"
    with pytest.raises((DataError, RunError), match=message):
        update(run, day)
    assert Run(run.path).manifest == before
    assert read_ids(run) == read_ids(text_run)


def test_files_of_answers_have_the_ids_as_given(text_run, tmp_path):
    ids, out = read_ids(text_run), tmp_path / "recs.parquet"
    written = recommend(text_run, "all", out, k=5)
    found = pd.read_parquet(out)
    assert (written.users, written.unknown_users) == (len(ids.users.texts), 0)
    assert set(found["user_id"]) == set(ids.users.texts.to_pylist())
    assert set(found["item_id"]) <= set(ids.items.texts.to_pylist())
    user = found["user_id"][0]
    with serving(text_run) as addresses:
        answer = ask(addresses, [user], 5)["grpc"]
    assert answer.item_ids[0].tolist() == found["item_id"][:5].tolist()
    (tmp_path / "some.csv").write_text(f"user_id\n{user}\nnobody\n")
    written = recommend(text_run, str(tmp_path / "some.csv"), tmp_path / "some.csv.csv", k=5)
    assert (written.users, written.unknown_users) == (2, 1)
    item = found["item_id"][0]
    command = ["similar", "--run", str(text_run.path), "--item", item, "-k", "2", "--json"]
    similar = json.loads(CliRunner().invoke(main, command).stdout)["items"][0]
    assert similar["item"] == item
    assert {each["item"] for each in similar["similar"]} <= set(ids.items.texts.to_pylist())
