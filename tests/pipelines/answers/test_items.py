"""`twotower items`: denied items are in no answer, of a server or a command, of any version."""

from __future__ import annotations

import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import twotower
from twotower.pipelines.answers.items import change_items
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.cli import main
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.verify import verify
from twotower.serving.client import RetrievalClient
from twotower.workflows.errors import DataError

USERS = [22, 23, 24]


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    """A copy of the run, to change it."""
    return Run(shutil.copytree(small_run.path, tmp_path / "run"))


def items(run: Run, *options: str):
    return CliRunner().invoke(main, ["items", "--run", str(run.path), *options])


def text(result) -> str:
    return re.sub(r"\s+", " ", result.output)


def test_a_running_server_and_later_versions_leave_denied_items_out(run):
    with serving(run) as addresses, RetrievalClient(addresses.http) as client:
        best = client.recommend(USERS, 3, filter_seen=False).item_ids
        denied = sorted({*best[:, 0].tolist()})
        change_items(run, deny=list(map(str, denied)))
        time.sleep(1.0)
        found = client.recommend(USERS, 300, filter_seen=False)
        assert not np.isin(found.item_ids[np.isfinite(found.scores)], denied).any()
    publish(run, export(run)["version"], anyway=True)
    with serving(run) as addresses, RetrievalClient(addresses.http) as client:
        assert client.version() == 2
        found = client.recommend(USERS, 300, filter_seen=False)
        assert not np.isin(found.item_ids[np.isfinite(found.scores)], denied).any()
        change_items(run, allow=list(map(str, denied)))
        time.sleep(1.0)
        np.testing.assert_array_equal(client.recommend(USERS, 3, filter_seen=False).item_ids, best)


def test_commands_and_the_python_face_leave_denied_items_out(run, tmp_path):
    recommender = twotower.load(run.path)
    best = recommender.recommend(USERS, k=3, filter_seen=False)["item"].tolist()
    near = recommender.similar(best[0], k=3)["item"].tolist()
    change_items(run, deny=[str(best[0]), str(near[0])])
    gone = {best[0], near[0]}
    assert not gone & set(recommender.recommend(USERS, k=299, filter_seen=False)["item"])
    assert recommender.similar(best[0], k=2)["item"].tolist() == near[1:]
    recommend(run, "all", tmp_path / "some.parquet", 20)
    assert not gone & set(pd.read_parquet(tmp_path / "some.parquet")["item_id"])
    recommender.vectors(tmp_path / "vectors")
    ids = np.load(tmp_path / "vectors" / "item_ids.npy")
    assert len(ids) == 298 and not gone & set(ids.tolist())
    assert verify(run, 50).holds


def test_the_command_lists_changes_and_says_what_it_does_not_know(run, tmp_path):
    assert "no item is denied" in items(run).output
    file = tmp_path / "sold-out.csv"
    file.write_text("item_id,why\n7,sold\n9,sold\n")
    result = items(run, "--deny", "5", "--deny", str(file), "--deny", "99999")
    assert result.exit_code == 0
    assert "item 99999 is not in the run's data; it is denied if it comes" in text(result)
    assert "4 denied items" in result.output and "Film 0007" in result.output
    assert json.loads(items(run, "--json").stdout) == {"denied": [5, 7, 9, 99999]}
    assert json.loads((run.path / TRITON / "denied.json").read_text())["items"] == [5, 7, 9, 99999]
    listed = CliRunner().invoke(main, ["versions", "--run", str(run.path)])
    assert "4 items are in no answer of any version (5, 7, 9, 99999)" in text(listed)
    result = items(run, "--allow", str(file), "--allow", "6", "--json")
    assert "item 6 was not denied" in result.output
    assert json.loads(result.stdout)["denied"] == [5, 99999]
    (run.path / TRITON / "denied.json").write_text("[")
    result = items(run, "--deny", "8")
    assert result.exit_code == 1 and "denied.json: cannot be read" in text(result)
    assert (run.path / TRITON / "denied.json").read_text() == "["


def test_wrong_items_are_refused_and_nothing_changes(run, tmp_path):
    change_items(run, deny=["5"])
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("item_id\n7\nseven\n")
    for options, error, message in (
        ({"deny": ["7", "seven"]}, DataError, "'seven' is no id of this run"),
        ({"deny": ["7", str(tmp_path / "none.csv")]}, ConfigError, "none.csv: no such file of ite"),
        ({"deny": ["7"], "allow": ["7"]}, ConfigError, "item 7 is given to --deny and to --allow"),
        ({"deny": ["7", str(wrong)]}, DataError, "line 3.*'seven' .string"),
    ):
        with pytest.raises(error, match=message):
            change_items(run, **options)
    assert change_items(run).items == [5]


def test_a_version_of_an_earlier_release_is_named(run):
    model = run.path / TRITON / "retrieval" / "1" / "model.json"
    content = json.loads(model.read_text())
    del content["contract"]["filters"]
    model.write_text(json.dumps(content))
    assert "the published version is of an earlier release" in text(items(run, "--deny", "5"))


def test_a_file_that_was_interrupted_before_a_denial_starts_again(run, tmp_path, monkeypatch):
    out = tmp_path / "recs.csv"
    recommend(run, "all", tmp_path / "before.csv", 5)
    popular = int(pd.read_csv(tmp_path / "before.csv")["item_id"].mode()[0])

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("twotower.pipelines.answers.recommend._Parts.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recommend(run, "all", out, 5)
    change_items(run, deny=[str(popular)])
    assert recommend(run, "all", out, 5).resumed_users == 0
    assert popular not in set(pd.read_csv(out)["item_id"])
