"""Withdrawn items are in no answer of a real server, and come back when they are listed again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.pipelines.conftest import small_config
from twotower.pipelines.answers.published import open_published
from twotower.pipelines.answers.recommend import BATCH, recommend
from twotower.pipelines.answers.similar import most_similar
from twotower.pipelines.answers.vectors import write_vectors
from twotower.pipelines.config import parse_config
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_ids, preprocess
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.serve import running_server
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.update import update
from twotower.pipelines.steps.verify import verify
from twotower.serving.client import RetrievalClient
from twotower.workflows.ids import RunIds
from twotower.workflows.sources.synthetic import SyntheticConfig, synthesise

K = 30
COUNTS = SyntheticConfig(users=400, items=300, interactions=30000)
STOCK = "stock"


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Synthetic data with texts as item ids; all items are in stock."""
    frames = {name: each.to_pandas() for name, each in synthesise(COUNTS)._asdict().items()}
    for name in ("interactions", "items"):
        frames[name]["item_id"] = frames[name]["item_id"].map("SKU-{:04d}".format)
    frames["items"][STOCK] = 3
    return frames


@pytest.fixture(scope="module")
def catalogue(tables) -> pd.DataFrame:
    return tables["items"]


@pytest.fixture(scope="module")
def gone(tables) -> list[str]:
    """The ten items with the most interactions."""
    return tables["interactions"]["item_id"].value_counts().index[:10].tolist()


@pytest.fixture(scope="module")
def run(tables, catalogue, gone, tmp_path_factory) -> Run:
    """A published run on a complete catalogue in which the most popular item is out of stock."""
    folder = tmp_path_factory.mktemp("raw")
    for name, frame in tables.items():
        frame.to_parquet(folder / f"{name}.parquet")
    stock = catalogue[STOCK].mask(catalogue["item_id"] == gone[0], 0)
    catalogue.assign(**{STOCK: stock}).to_parquet(folder / "items.parquet")
    tree = json.loads(small_config("training.epochs=3").json())
    files = {f"{name}s": f"{name}s.parquet" for name in ("interaction", "user", "item")}
    files |= {"keep": ["rating", "timestamp"], "available": STOCK, "catalogue": "complete"}
    tree["ingest"] = {"source": "files", "path": str(folder), "files": files}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        made = Run.create(parse_config(tree, "test"), Path.cwd() / "runs" / "shop")
        for step in (ingest, preprocess, train, evaluate, export, publish):
            step(made)
    return made


def day(folder: Path, items: pd.DataFrame) -> Path:
    """A day that consists of a catalogue only."""
    folder.mkdir()
    items.to_parquet(folder / "items.parquet")
    return folder


def answered(client: RetrievalClient, run: Run) -> set[str]:
    users = load_ids(run)[0]
    return set(client.recommend(users, k=K, filter_seen=False).item_ids.ravel().tolist())


@pytest.fixture
def client(run, tmp_path):
    """A client of a running `twotower serve`."""
    script = "from twotower.pipelines.cli import main; main()"
    command = [sys.executable, "-c", script, "serve", "--run", str(run.path)]
    with (tmp_path / "serve.out").open("w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    deadline = time.monotonic() + 60
    try:
        while not (server := running_server(run)):
            assert process.poll() is None and time.monotonic() < deadline, output.name
            time.sleep(0.1)
        with RetrievalClient(server.http) as asking:
            yield asking
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_they_are_in_no_answer_until_they_are_back(run, client, catalogue, gone, tmp_path, capsys):
    first, before = answered(client, run), open_published(run).version
    assert gone[0] not in first
    assert set(gone[1:]) <= first, "popular items are in answers"
    assert_left_out_of_the_evaluation(run, gone[:1])
    capsys.readouterr()
    listed = catalogue[~catalogue["item_id"].isin(gone[1:])]
    assert update(run, day(tmp_path / "day", listed)) == 2
    printed = capsys.readouterr().out
    assert client.version() == 2, "the running server has loaded it"
    second = answered(client, run)
    assert not second & {*gone[1:]}
    assert gone[0] in second, "it is in stock again"
    assert "9 items withdrawn: in no answer (" in printed
    assert f"1 item available again ({gone[0]})" in printed
    assert "the weights do not change" in printed
    assert "291 items indexed (9 withdrawn)" in printed
    assert_left_out_of_the_evaluation(run, gone[1:])
    after = open_published(run).version
    check_everything(run, client, gone[1:], tmp_path)
    # The histories still have the withdrawn items.
    vectors = [version.query_vectors(before.user_ids) for version in (before, after)]
    np.testing.assert_array_equal(*vectors)
    verify(run, count=50, k=K)
    assert update(run, day(tmp_path / "back", catalogue)) == 3
    assert set(gone) <= answered(client, run)


def assert_left_out_of_the_evaluation(run: Run, withdrawn: list[str]) -> None:
    split = pd.read_parquet(run.path / "processed" / "split.parquet")
    test = split[split["part"] == "test"]
    codes = RunIds.read(run.path / "data").items.encode(pa.array(withdrawn))
    left = test[~test["item_id"].isin(codes)]
    of = f"{len(withdrawn)} withdrawn items and their {len(test) - len(left)} pairs left out"
    candidates = split["item_id"].nunique() - len(withdrawn)
    ranking = run.notes("evaluate")["protocol"]["ranking"]
    assert len(test) > len(left)
    assert ranking == (
        f"full catalogue ({candidates} candidates), seen items masked, "
        f"mean of {left['user_id'].nunique()} users; {of}"
    )


def check_everything(run: Run, client: RetrievalClient, withdrawn: list[str], folder: Path) -> None:
    version = open_published(run).version
    assert len(version.item_ids) == 291
    recommend(run, "all", folder / "recs.parquet", K)
    found = pd.read_parquet(folder / "recs.parquet")
    served = client.recommend(version.user_ids[:BATCH], k=K)
    finite = np.isfinite(served.scores)
    first = found[found["user_id"].isin(version.user_ids[:BATCH])]
    np.testing.assert_array_equal(first["item_id"], served.item_ids[finite])
    np.testing.assert_array_equal(first["score"], served.scores[finite])
    assert not found["item_id"].isin(withdrawn).any()
    write_vectors(run, folder / "vectors")
    vectors = pd.read_parquet(folder / "vectors" / "items.parquet")
    assert sorted(vectors["item_id"]) == version.item_ids.tolist()
    with pytest.raises(RunError, match=f"item {withdrawn[0]} is not among the 291 items"):
        most_similar(version, [withdrawn[0]], 3)
    similar = most_similar(version, [version.item_ids[0]], 290)
    assert not similar["item"].isin(withdrawn).any()
