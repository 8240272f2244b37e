"""The daily update on a small run: new users and items are served, and old codes are kept."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from tests.pipelines.conftest import small_config
from twotower.pipelines.cli import main
from twotower.pipelines.config import parse_config
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.lock import LOCK
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_split, load_tables, preprocess
from twotower.pipelines.steps.publish import answering, publish, rollback
from twotower.pipelines.steps.quality_gate import Comparison, objection
from twotower.pipelines.steps.query import ask
from twotower.pipelines.steps.serve import running_server, serving
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import NewData, _learn, update
from twotower.pipelines.steps.verify import brute_force
from twotower.serving.local import LocalVersion
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.manifest import verify_manifest, write_manifest
from twotower.workflows.errors import DataError
from twotower.workflows.sources.synthetic import SyntheticConfig, synthesise
from twotower.workflows.tables import Tables

NEW_USERS, NEW_ITEMS = 20, 12
PARQUET = {
    "interactions": "interactions.parquet",
    "users": "users.parquet",
    "items": "items.parquet",
    "keep": ["rating", "timestamp"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders: the first data, and a day that adds the last users and items."""
    tables = synthesise(SyntheticConfig(users=400, items=300, interactions=30000))
    prices = pa.array([5 + (item * 37 % 450) / 10 for item in tables.items["item_id"].to_pylist()])
    tables = tables._replace(items=tables.items.append_column("price", prices))
    first_user = tables.users["user_id"][-NEW_USERS].as_py()
    first_item = tables.items["item_id"][-NEW_ITEMS].as_py()
    rows = tables.interactions
    of_day = pc.or_(
        pc.greater_equal(rows["user_id"], first_user), pc.greater_equal(rows["item_id"], first_item)
    )
    base, day = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("day")
    Tables(
        rows.filter(pc.invert(of_day)),
        tables.users.filter(pc.less(tables.users["user_id"], first_user)),
        tables.items.filter(pc.less(tables.items["item_id"], first_item)),
    ).write(base)
    named = rows.filter(of_day)
    Tables(
        named,
        tables.users.filter(pc.is_in(tables.users["user_id"], named["user_id"].combine_chunks())),
        tables.items.filter(pc.is_in(tables.items["item_id"], named["item_id"].combine_chunks())),
    ).write(day)
    return base, day


STEPS = (ingest, preprocess, train, export, publish)
CLOSED_FORM = ("features.history=300", "model.history_pooling=sum", "model.normalize=false")


def published(folder: Path, project: Path, *overrides: str, steps=STEPS) -> Run:
    """A run on the data in `folder`, published by default."""
    tree = json.loads(small_config(*overrides).json())
    tree |= {"name": "small"}
    tree["ingest"] = {"source": "files", "path": str(folder), "files": PARQUET}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        run = Run.create(parse_config(tree, "test"), Path.cwd() / "runs" / "small")
        for step in steps:
            step(run)
    return run


@pytest.fixture(scope="module")
def base_run(folders, tmp_path_factory) -> Run:
    """A published run on the first data."""
    return published(
        folders[0],
        tmp_path_factory.mktemp("project"),
        "training.epochs=6",
        "features.item_numeric=[price]",
    )


@pytest.fixture(scope="module")
def updated(base_run, folders, tmp_path_factory) -> Run:
    """A copy of that run after the day's update."""
    run = Run(shutil.copytree(base_run.path, tmp_path_factory.mktemp("updated") / "run"))
    assert update(run, folders[1]) == 2
    return run


def brute_force_with_seen(run: Run, users: np.ndarray, k: int) -> np.ndarray:
    """The best items of `users` by the towers, seen ones included."""
    with pytest.MonkeyPatch.context() as patch:
        nothing = np.zeros(0, np.int64)
        patch.setattr("twotower.pipelines.steps.verify.seen_pairs", lambda run: (nothing, nothing))
        return brute_force(run, users, k)[0]


def ids(run: Run, table: str) -> np.ndarray:
    return pd.read_parquet(run.path / "data" / f"{table}s.parquet")[f"{table}_id"].to_numpy()


def files(path: Path) -> dict[str, int]:
    found = (p for p in path.rglob("*") if p.is_file() and p.name != LOCK)
    return {str(p.relative_to(path)): p.stat().st_mtime_ns for p in found}


def test_every_step_is_consistent_and_notes_what_is_new(base_run, updated, folders):
    updated.verified("ingest", "preprocess", "train", "evaluate", "export")
    rows = len(pd.read_parquet(folders[1] / "interactions.parquet"))
    assert updated.notes("ingest")["updates"] == [
        {"path": str(folders[1]), "interactions": rows, "users": NEW_USERS, "items": NEW_ITEMS}
    ]
    assert len(ids(updated, "user")) == len(ids(base_run, "user")) + NEW_USERS
    notes = updated.notes("train")
    train_rows = {
        run: len(load_split(run.path / "processed")["train"]) for run in (base_run, updated)
    }
    assert notes["new_rows"] == train_rows[updated] - train_rows[base_run] > 0
    assert 0.9 < notes["item_cosine"] < 1


def test_earlier_codes_and_parts_are_kept(base_run, updated):
    for side, table in enumerate(("user", "item")):
        stays = np.isin(ids(updated, table), ids(base_run, table))
        before, after = load_tables(base_run)[side], load_tables(updated)[side]
        for name, codes in before.items():
            if name == "history":
                continue  # of those who took something that day it is another
            known = codes != 2  # an id that nobody had in train may have come into the vocabulary
            np.testing.assert_array_equal(after[name][stays][known], codes[known])
        assert (after[f"{table}_id"][~stays] > before[f"{table}_id"].max()).mean() > 0.5
    before, after = (
        pd.read_parquet(r.path / "processed/split.parquet") for r in (base_run, updated)
    )
    columns = ["user_id", "item_id", "part"]
    pd.testing.assert_frame_equal(after[columns][: len(before)], before[columns])


def test_answers_for_new_users_and_items_equal_brute_force(base_run, updated):
    new = ids(updated, "user")[-NEW_USERS:]
    items = ids(updated, "item")[-NEW_ITEMS:]
    with serving(updated) as addresses:
        answer = ask(addresses, new.tolist(), 20, ["http"])["http"]
    assert answer.version == 2
    np.testing.assert_array_equal(answer.item_ids, brute_force(updated, new, 20)[0])
    assert np.isin(answer.item_ids, items).any()
    assert len({tuple(row) for row in answer.item_ids.tolist()}) > NEW_USERS / 2


def test_answers_for_new_users_are_better_than_for_unknown_ones(base_run, updated):
    from twotower.models.training.saving import load
    from twotower.models.two_tower import embed

    new = np.isin(ids(updated, "user"), ids(updated, "user")[-NEW_USERS:])
    users, items = load_tables(updated)
    test = load_split(updated.path / "processed")["test"]
    mine = test[new[test["user_row"]]]
    model = load(updated.path / "model").model
    vectors = embed(model.candidate_encoder, items)

    def mean_place(users) -> float:
        """The rank of the test positives among all items, from 0 (best) to 1."""
        scores = embed(model.query_encoder, users)[mine["user_row"]] @ vectors.T
        own = scores[np.arange(len(mine)), mine["item_row"]]
        return float((scores > own[:, None]).mean())

    unknown = {**users, "user_id": np.full_like(users["user_id"], 2)}
    assert mean_place(users) < mean_place(unknown)


def test_the_same_update_again_changes_nothing(updated, folders):
    before = files(updated.path)
    assert update(updated, folders[1]) == 2
    assert files(updated.path) == before


def test_an_update_that_fails_keeps_the_run_and_can_be_completed(
    base_run, folders, tmp_path, monkeypatch
):
    run = Run(shutil.copytree(base_run.path, tmp_path / "run"))
    before = files(run.path)
    run.override(("update.epochs=1", "training.monitor=recall@10"))
    with pytest.raises(RunError, match=r"`train` was made with another training\.monitor"):
        update(run, folders[1])
    run = Run(run.path)

    def broken(run):
        raise RunError("no room")

    monkeypatch.setattr("twotower.models.training.saving.save", broken)
    with pytest.raises(TypeError):
        update(run, folders[1])
    assert files(run.path) == before
    monkeypatch.undo()
    broken.__name__ = "export"
    monkeypatch.setattr("twotower.pipelines.steps.update.export", broken)
    with pytest.raises(RunError, match="no room"):
        update(run, folders[1])
    assert ModelRepository(run.path / TRITON).published == 1
    learnt = run.identity("train")
    monkeypatch.undo()
    broken.__name__ = "publish"
    monkeypatch.setattr("twotower.pipelines.steps.update.publish", lambda *_, **__: broken(run))
    with pytest.raises(RunError, match="no room"):
        update(run, folders[1])
    monkeypatch.undo()
    # The committed model was compared before; it is only published.
    monkeypatch.setattr(
        "twotower.pipelines.steps.update.objection", lambda *_: pytest.fail("compared again")
    )
    assert update(run, folders[1]) == 2
    assert run.identity("train") == learnt
    assert ModelRepository(run.path / TRITON).versions()[-1].towers_sha256 == learnt


def changed_day(folders, path: Path, **tables) -> Path:
    """The day with other columns in some of its tables."""
    day = Path(shutil.copytree(folders[1], path))
    for name, columns in tables.items():
        rows = pd.read_parquet(day / f"{name}.parquet")
        rows.assign(**columns(rows)).to_parquet(day / f"{name}.parquet")
    return day


def renumbered_day(folders, path: Path) -> Path:
    """The day with each item described as the one before it."""
    columns = ("title", "year", "genres", "price")
    return changed_day(
        folders, path, items=lambda rows: {name: np.roll(rows[name], 1) for name in columns}
    )


def test_a_day_that_looks_like_a_mistake_changes_nothing(base_run, folders, tmp_path):
    run = Run(shutil.copytree(base_run.path, tmp_path / "run"))
    before = files(run.path)
    cents = changed_day(folders, tmp_path / "cents", items=lambda rows: {"price": rows.price * 100})
    with pytest.raises(RunError, match="the 282 new values have the median 2,705, from 510 to"):
        update(run, cents)
    with pytest.raises(RunError, match="known ones have other values than before in half of their"):
        update(run, renumbered_day(folders, tmp_path / "renumbered"))
    assert files(run.path) == before


def random_day(run: Run, base: Path, path: Path) -> Path:
    """Every known user likes random items out of ten."""
    users, items = ids(run, "user"), ids(run, "item")[:10]
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"user_id": np.repeat(users, 8)})
    rows["item_id"] = draw.choice(items, len(rows))
    rows = rows.drop_duplicates().assign(rating=5.0, timestamp=2 * 10**9)
    shutil.copytree(base, path)
    types = pd.read_parquet(run.path / "data" / "interactions.parquet").dtypes
    rows.astype(types[rows.columns]).to_parquet(path / "interactions.parquet")
    return path


def test_a_day_that_makes_the_model_worse_is_refused(base_run, folders, tmp_path, monkeypatch):
    run = Run(shutil.copytree(base_run.path, tmp_path / "run folder"))
    day = random_day(run, folders[0], tmp_path / "day")
    repository = ModelRepository(run.path / TRITON)
    before = files(run.path)
    monkeypatch.chdir(tmp_path)
    run.override(("update.moving=1", "update.learning_rate=0.1"))
    with pytest.raises(RunError) as told:
        update(run, day)
    assert files(run.path) == before
    figures = re.search(
        r"with these data the model gets worse: its ndcg@10 is (0\.\d+), that of version 1 is "
        r"(0\.\d+), on the test pairs from before the update of the same (\d+) users\. That is a "
        r"loss of (\d+)%; update\.max_loss is 10%\nNothing has changed\.",
        str(told.value),
    )
    after, version_1, users, loss = map(float, figures.groups())
    assert 0 < after < 0.9 * version_1
    assert loss == pytest.approx(100 * (1 - after / version_1), abs=1)
    expected = judged(base_run)
    assert version_1 == pytest.approx(expected.values["ndcg@10"], rel=0.03)  # more is seen now
    assert users == expected.users
    command = shlex.split(str(told.value).rpartition("twotower ")[2])
    told = CliRunner().invoke(main, [*command, "--set", "update.moving=1"])
    assert told.exit_code == 0, told.output
    assert repository.published == 2
    # Rolled back: neither the same update nor another export of the same towers is published.
    assert rollback(run) == 1
    assert update(run, day) == 1
    assert repository.published == 1 and len(repository.versions()) == 2
    run.override(("serving.max_k=50",))
    assert update(run, day) == 1
    assert repository.published == 1 and len(repository.versions()) == 3


def damaged(version: Path) -> None:
    (version / "model.json").write_text("{}")


def of_an_earlier_release(version: Path) -> None:
    """Move the version's code to where it was before the package `twotower`."""
    (version / "twotower" / "serving").rename(version / "serving")
    shutil.rmtree(version / "twotower")
    write_manifest(version, created="", towers_sha256="", runtime="compiled")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, r".*model\."),
        pytest.param(
            of_an_earlier_release,
            ".*export and publish it again\nNothing has",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_published_version_that_cannot_be_compared_stops_an_update(
    base_run, folders, tmp_path, change, message
):
    run = Run(shutil.copytree(base_run.path, tmp_path / "run"))
    change(ModelRepository(run.path / TRITON).model / "1")
    before = files(run.path)
    run.override(("update.epochs=1",))
    reason = f"cannot be compared with the published version: {message}"
    with pytest.raises(RunError, match=reason):
        update(run, folders[1])
    assert files(run.path) == before


def test_a_version_without_the_users_of_the_run_cannot_be_compared(base_run, tmp_path):
    staged = Run(shutil.copytree(base_run.path, tmp_path / "run"))
    for name in ("users", "items"):
        table = staged.path / "data" / f"{name}.parquet"
        rows = pd.read_parquet(table)
        rows[f"{name[:-1]}_id"] += 10**6
        rows.to_parquet(table)
    assert "version 1 has no user and item of the test" in objection(
        base_run, staged, None, published=1, new_pairs=0
    )


def test_published_towers_are_published_again_with_other_settings(updated, folders, tmp_path):
    run = Run(shutil.copytree(updated.path, tmp_path / "run"))
    run.override(("serving.max_k=50",))
    assert update(run, folders[1]) == 3


def judged(run: Run):
    """The metrics of the run's towers on its test part."""
    from twotower.models.training.saving import load
    from twotower.models.two_tower import TowerScorer

    scorer = TowerScorer.of(load(run.path / "model").model, *load_tables(run))
    return Evaluator(run, "test").evaluate(scorer)


def test_a_version_is_measured_by_its_answers(base_run):
    from twotower.models.training.saving import load

    version = LocalVersion(ModelRepository(base_run.path / TRITON).model / "1")
    comparison, expected = Comparison(base_run, 0, version), judged(base_run)
    assert len(comparison.rows) == expected.users
    ndcg = pytest.approx(expected.values["ndcg@10"], abs=1e-6)
    assert comparison.measure_version(version) == ndcg
    assert comparison.measure_model(load(base_run.path / "model").model) == ndcg
    assert version.knows(ids(base_run, "user")).all() and not version.knows([-1]).any()
    np.testing.assert_array_equal(version.item_ids, ids(base_run, "item"))
    verify_manifest(ModelRepository(base_run.path / TRITON).model / "1")  # nothing was written


def test_test_pairs_from_before_the_update_are_compared(base_run):
    version = LocalVersion(ModelRepository(base_run.path / TRITON).model / "1")
    split = pd.read_parquet(base_run.path / "processed" / "split.parquet")

    def compared(new_pairs: int) -> pd.DataFrame:
        comparison = Comparison(base_run, new_pairs, version)
        users, items = comparison.relevant.nonzero()
        assert comparison.pairs.endswith(f" of the same {len(comparison.rows)} users")
        said.append(comparison.pairs.partition(" of the")[0])
        columns = {"user_id": comparison.user_ids[users], "item_id": comparison.item_ids[items]}
        return pd.DataFrame(columns)

    def of(part: str, rows: pd.DataFrame) -> pd.DataFrame:
        found = rows.loc[rows["part"] == part, ["user_id", "item_id"]]
        return found.sort_values(["user_id", "item_id"]).reset_index(drop=True)

    said, half = [], len(split) // 2
    pd.testing.assert_frame_equal(compared(len(split) - half), of("test", split[:half]))
    few = int((split["part"] == "test").argmax())
    assert (split[:few]["part"] == "valid").any()
    pd.testing.assert_frame_equal(compared(len(split) - few), of("valid", split[:few]))
    pd.testing.assert_frame_equal(compared(len(split)), of("test", split))
    assert said == [
        "the test pairs from before the update",
        "the valid pairs from before the update",
        "the test pairs that the update adds",
    ]


@pytest.fixture
def served(updated, tmp_path):
    """A copy of the updated run with version 1 published again, and its `twotower serve`."""
    run = Run(shutil.copytree(updated.path, tmp_path / "run"))
    assert ModelRepository(run.path / TRITON).rollback() == 1
    script = "from twotower.pipelines.cli import main; main(['serve', '--run', 'run'])"
    with (tmp_path / "serve.out").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + 60
    try:
        while not (server := running_server(run)):
            assert process.poll() is None and time.monotonic() < deadline, output.name
            time.sleep(0.1)
        yield run, server
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_server_that_missed_a_publish_loads_the_published_version(served, folders):
    run, server = served
    repository = ModelRepository(run.path / TRITON)
    assert answering(server) == 1
    # These states remain if `publish` or `rollback` is killed before the server loads.
    repository.publish(2)
    assert answering(server) == 1
    assert update(run, folders[1]) == 2
    assert answering(server) == 2
    repository.rollback()
    assert update(run, folders[1]) == 1
    assert answering(server) == 1


@pytest.mark.slow
def test_a_day_of_users_only_is_added_and_keeps_the_types(updated, tmp_path):
    run = Run(shutil.copytree(updated.path, tmp_path / "run"))
    users = pd.read_parquet(run.path / "data" / "users.parquet")
    known, other = users["user_id"].iloc[[0, 1]]
    day = tmp_path / "day"
    day.mkdir()
    rows = users.iloc[[0, 2]].assign(user_id=[known, 10**6], age=[None, 25.0])
    rows.to_parquet(day / "users.parquet")
    before = LocalVersion(ModelRepository(run.path / TRITON).model / "2")
    assert update(run, day) == 3
    new = {"path": str(day), "interactions": 0, "users": 1, "items": 0}
    assert run.notes("ingest")["updates"][-1] == new
    folder = ModelRepository(run.path / TRITON).model / "3"
    features = json.loads((folder / "model.json").read_text())["contract"]["features"]
    types = {"gender": "BYTES", "age": "INT64", "occupation": "INT64", "history": "INT64"}
    assert features == types
    after = LocalVersion(folder)
    asked = np.array([other, known, 10**6])
    (ids_before, scores_before), (ids_after, scores_after) = (
        version.answer(asked, 20) for version in (before, after)
    )
    np.testing.assert_array_equal(ids_after[0], ids_before[0])  # the model is as before
    assert not np.allclose(scores_after[1], scores_before[1])  # of an age that is not known now
    assert not np.allclose(scores_after[2], scores_before[2])  # nobody knew that user
    np.testing.assert_array_equal(ids_after, brute_force_with_seen(run, asked, 20))


def test_mistakes_are_named(base_run, folders, tmp_path, monkeypatch):
    run = Run(shutil.copytree(base_run.path, tmp_path / "run"))
    before = files(run.path)
    with pytest.raises(ConfigError, match=r"--data .*nowhere: no such file or folder"):
        update(run, tmp_path / "nowhere")
    day = Path(shutil.copytree(folders[1], tmp_path / "day"))
    users = pd.read_parquet(day / "users.parquet")
    users.drop(columns="age").to_parquet(day / "users.parquet")
    with pytest.raises(
        DataError, match=r"no column age for the users: .*users\.parquet has user_id, gender"
    ):
        update(run, day)
    assert files(run.path) == before


def test_a_days_values_are_checked_before_the_slow_imports(tmp_path, monkeypatch):
    def write(folder: Path, user: int, tags: list[str]) -> Path:
        folder.mkdir()
        pd.DataFrame({"user_id": [user], "item_id": [1]}).to_parquet(folder / "log.parquet")
        users = pd.DataFrame({"user_id": [user], "tags": [tags]})
        users.to_parquet(folder / "users.parquet")
        pd.DataFrame({"item_id": [1]}).to_parquet(folder / "items.parquet")
        return folder

    tables = {"interactions": "log.parquet", "users": "users.parquet", "items": "items.parquet"}
    path = write(tmp_path / "base", 1, ["a"])
    tree = {"ingest": {"source": "files", "path": str(path), "files": tables}}
    tree |= {"name": "small", "features": {"user_multi_hot": {"tags": 2}}}
    run = Run.create(parse_config(tree, "test"), tmp_path / "run")
    ingest(run, remember=False)
    monkeypatch.setattr(
        "twotower.pipelines.steps.update.load_libraries", lambda: pytest.fail("too late")
    )
    with pytest.raises(DataError, match=r"column tags has lists with '\\uffff'"):
        _learn(run, NewData(write(tmp_path / "day", 2, ["\uffff"])), anyway=True, published=None)


def test_an_update_without_a_model_says_what_to_do(base_run, folders, tmp_path, monkeypatch):
    run = Run(shutil.copytree(base_run.path, tmp_path / "run"))
    manifest = run.manifest
    del manifest["steps"]["train"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, ["update", "--data", str(folders[1]), "--run", str(run.path)])
    assert told.exit_code == 1
    assert "`train` has not run yet; run `twotower train`" in told.output


@pytest.mark.slow
def test_closed_form_towers_are_solved_again_and_keep_their_orientation(folders, tmp_path):
    run = published(
        folders[0],
        tmp_path,
        "training.epochs=1",
        "training.start={method: sparse}",
        *CLOSED_FORM,
    )
    assert update(run, folders[1]) == 2
    notes = run.notes("train")
    assert notes["epochs"] == 1 and notes["rows_per_second"] == 0
    assert notes["item_cosine"] > 0.9
    new, items = ids(run, "user")[-NEW_USERS:], ids(run, "item")[-NEW_ITEMS:]
    with serving(run) as addresses:
        answer = ask(addresses, new.tolist(), 20, ["http"])["http"]
    np.testing.assert_array_equal(answer.item_ids, brute_force(run, new, 20)[0])
    assert np.isin(answer.item_ids, items).any()


@pytest.mark.slow
def test_decay_towers_are_solved_again_and_served(folders, tmp_path):
    run = published(
        folders[0],
        tmp_path,
        "features.history=20",
        "model={dim: 32, normalize: false}",
        "model.sequence={kind: decay, last_item: true, start: {l2: 10}}",
        "training.epochs=1",
    )
    assert update(run, folders[1]) == 2
    notes = run.notes("train")
    assert notes["epochs"] == 1 and notes["rows_per_second"] == 0
    assert notes["item_cosine"] > 0.8
    new = ids(run, "user")[-NEW_USERS:]
    with serving(run) as addresses:
        answer = ask(addresses, new.tolist(), 20, ["http"])["http"]
    np.testing.assert_array_equal(answer.item_ids, brute_force(run, new, 20)[0])


@pytest.mark.slow
def test_a_transformer_continues_on_all_sequences_and_is_served(folders, tmp_path):
    run = published(
        folders[0],
        tmp_path,
        "features.history=20",
        "model={dim: 32, normalize: false, temperature: 1.0}",
        "model.sequence={kind: transformer, blocks: 1, negatives: 64}",
        "training={epochs: 2, learning_rate: 0.005, learning_rate_decay: 1.0}",
    )
    before = len(load_split(run.path / "processed")["train"])
    assert update(run, folders[1]) == 2
    notes = run.notes("train")
    assert notes["replayed_rows"] == before and notes["new_rows"] > 0
    new = ids(run, "user")[-NEW_USERS:]
    with serving(run) as addresses:
        answer = ask(addresses, new.tolist(), 20, ["http"])["http"]
    np.testing.assert_array_equal(answer.item_ids, brute_force(run, new, 20)[0])


@pytest.mark.slow
def test_the_vectors_of_a_graph_continue_on_all_interactions_and_are_served(folders, tmp_path):
    run = published(
        folders[0],
        tmp_path,
        "features.history=20",
        "model={dim: 32, normalize: false, temperature: 0.1, history_pooling: sum}",
        "model.graph={layers: 2}",
        "training={epochs: 4, learning_rate: 0.015, batch_size: 1024}",
        "update={epochs: 2}",
    )
    before = len(load_split(run.path / "processed")["train"])
    assert update(run, folders[1]) == 2
    notes = run.notes("train")
    assert notes["replayed_rows"] == before and notes["new_rows"] > 0
    assert notes["item_cosine"] > 0.8
    new = ids(run, "user")[-NEW_USERS:]
    with serving(run) as addresses:
        answer = ask(addresses, new.tolist(), 20, ["http"])["http"]
    # Not the ids: scores are sums of long vectors, so that near ties may be in another order.
    np.testing.assert_allclose(answer.scores, brute_force(run, new, 20)[1], rtol=1e-5)


@pytest.mark.slow
def test_training_after_a_closed_form_is_kept(folders, tmp_path):
    run = published(
        folders[0],
        tmp_path,
        "training.epochs=2",
        "training.learning_rate=0.003",
        "training.start={l2: 30000}",
        *CLOSED_FORM,
        steps=STEPS[:3],
    )
    run.override(("update.epochs=1",))
    solved, learnt = json.loads((run.path / "model" / "history.json").read_text())["val_ndcg@10"]
    assert learnt > 1.2 * solved
    _learn(run, NewData(folders[1]), anyway=False, published=None)
    notes = run.notes("train")
    assert notes["replayed_rows"] < 18418 and notes["item_cosine"] > 0.95
    # Valid has other users now; solved again it would be 0.27, as at the start.
    assert notes["valid_ndcg@10"] > (solved + learnt) / 2
