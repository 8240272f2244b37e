"""Recommendations for many users in a file: equal to the server's, whatever interrupts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import twotower
from twotower.pipelines.answers.recommend import BATCH, recommend
from twotower.pipelines.cli import main
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.steps.export import seen_pairs
from twotower.pipelines.steps.serve import serving
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import ServingError

K = 20


@pytest.fixture(scope="module")
def answers(small_run, tmp_path_factory) -> Path:
    """The answers for all users as parquet."""
    out = tmp_path_factory.mktemp("answers") / "recs.parquet"
    recommend(small_run, "all", out, K)
    return out


def rows_of(ids: np.ndarray, item_ids: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """The rows of a file for an answer of the server."""
    places = item_ids.shape[1]
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(ids, places),
            "rank": np.tile(np.arange(1, places + 1, dtype=np.int32), len(ids)),
            "item_id": item_ids.ravel(),
            "score": scores.ravel(),
        }
    )
    return frame[np.isfinite(frame["score"])].reset_index(drop=True)


def served(client: RetrievalClient, ids: np.ndarray, features: dict, **options) -> pd.DataFrame:
    """What the server answers, asked in batches as large as those of `recommend`."""
    parts = []
    for first in range(0, len(ids), BATCH):
        rows = slice(first, first + BATCH)
        given = {name: values[rows] for name, values in features.items()}
        answer = client.recommend(ids[rows], features=given, **options)
        parts.append(rows_of(ids[rows], answer.item_ids, answer.scores))
    return pd.concat(parts, ignore_index=True)


def test_they_are_the_servers_answers_bit_for_bit(small_run, answers, tmp_path):
    users = pd.read_parquet(small_run.path / "data" / "users.parquet")
    ids = users["user_id"].to_numpy()
    some = np.r_[ids[::-3], 10**12, -5]
    history = [[], [5, 3], *([[7]] * (len(some) - 2))]
    file = tmp_path / "some.parquet"
    asked = pd.DataFrame({"name": "x", "user_id": some, "gender": "F", "history": history})
    asked.to_parquet(file)
    out = tmp_path / "some.jsonl"
    written = recommend(small_run, str(file), out, 7, filter_seen=False)
    assert (written.users, written.unknown_users) == (len(some), 2)
    features = {"gender": asked["gender"].tolist(), "history": history}
    with serving(small_run) as addresses, RetrievalClient(addresses.http) as client:
        every = served(client, ids, {}, k=K)
        given = served(client, some, features, k=7, filter_seen=False)
        one = client.recommend(ids[:1], k=K)
    pd.testing.assert_frame_equal(pd.read_parquet(answers), every)
    assert len(every) == len(ids) * K
    got = pd.DataFrame([json.loads(line) for line in out.read_text().splitlines()])
    pd.testing.assert_frame_equal(got.astype(given.dtypes), given)
    first = every[every["user_id"] == ids[0]]
    np.testing.assert_array_equal(first["item_id"], one.item_ids[0])
    np.testing.assert_allclose(first["score"], one.scores[0], atol=1e-6)


def test_all_formats_have_the_same_rows(small_run, answers, tmp_path):
    expected = pd.read_parquet(answers)
    csv, lines = tmp_path / "recs.csv", tmp_path / "recs.jsonl"
    for out in (csv, lines):
        recommend(small_run, "all", out, K)
    types = dict(expected.dtypes)
    pd.testing.assert_frame_equal(pd.read_csv(csv, dtype=types), expected)
    pd.testing.assert_frame_equal(pd.read_json(lines, lines=True, dtype=types), expected)


def test_a_user_with_few_unseen_items_has_few_rows(small_run, tmp_path):
    out = tmp_path / "recs.parquet"
    written = recommend(small_run, "all", out, 10**6)
    found = pd.read_parquet(out)
    assert len(found) == written.rows
    seen = pd.DataFrame(dict(zip(("user", "item"), seen_pairs(small_run), strict=True)))
    seen = seen.groupby("user")["item"].nunique()
    left = found.groupby("user_id").size()
    assert written.k == 300  # as many as there are
    np.testing.assert_array_equal(left + seen.reindex(left.index, fill_value=0), written.k)


KILLED = """
import sys
from pathlib import Path
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.run import Run
from twotower.serving.local import LocalVersion

answer = LocalVersion.answer

def slow(*arguments, **options):
    print("batch", flush=True)
    sys.stdin.readline()
    return answer(*arguments, **options)

LocalVersion.answer = slow
recommend(Run(Path(sys.argv[1])), "all", Path(sys.argv[2]), 20, part_rows=20)
"""


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_killed_command_continues(small_run, answers, tmp_path, capsys, suffix):
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"recs{suffix}"
    recommend(small_run, "all", whole, K, part_rows=20)
    command = [sys.executable, "-c", KILLED, str(small_run.path), str(out)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        batches = 0
        while batches < 2:  # the second part has begun
            batches += child.stdout.readline() == "batch\n"
            child.stdin.write("\n" if batches < 2 else "")
            child.stdin.flush()
        with pytest.raises(RunError, match="has been writing here"):
            recommend(small_run, "all", out, K, part_rows=20)
        os.kill(child.pid, signal.SIGKILL)
    assert not out.exists()
    written = recommend(small_run, "all", out, K, part_rows=20)
    assert (written.resumed_users, written.rows) == (BATCH, len(pd.read_parquet(answers)))
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([whole, out]), "no part is left"
    assert "256 users were answered before an interruption" in capsys.readouterr().out


def test_another_request_does_not_continue(small_run, answers, tmp_path, monkeypatch, capsys):
    out = tmp_path / "recs.csv"

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("twotower.pipelines.answers.recommend._Parts.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recommend(small_run, "all", out, K)
    written = recommend(small_run, "all", out, 5, filter_seen=False)
    assert written.resumed_users == 0
    assert "an interrupted command had another k, seen" in capsys.readouterr().out
    assert len(pd.read_csv(out)) == written.users * 5


def test_a_file_is_replaced_only_on_request(small_run, answers, tmp_path):
    out = tmp_path / "recs.csv"
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"recs\.csv: exists already; --overwrite replaces it"):
        recommend(small_run, "all", out)
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]
    recommend(small_run, "all", out, overwrite=True)
    assert out.read_text().startswith('"user_id","rank","item_id","score"\n')


def test_the_command(small_run, tmp_path):
    users = tmp_path / "users.csv"
    users.write_text("who,gender\n3,F\n1,\n")
    out = tmp_path / "recs.csv"
    arguments = ["recommend", "--run", str(small_run.path), "--users", str(users), "--out"]
    result = CliRunner().invoke(main, [*arguments, str(out), "-k", "2", "--json"])
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(out)
    assert rows["user_id"].tolist() == [3, 3, 1, 1]
    wrong = CliRunner().invoke(main, [*arguments, str(tmp_path / "recs.xlsx")])
    assert "recs.xlsx: name it .parquet, .csv or .jsonl" in wrong.output


def test_python_does_the_same(small_run, answers, tmp_path):
    tt = twotower.load(small_run.path)
    out = tt.recommend_all(tmp_path / "recs.parquet", k=K)
    assert out.read_bytes() == answers.read_bytes()
    frame = tt.recommend([1, 2], k=3)
    found = pd.read_parquet(out).query("user_id <= 2 and rank <= 3")
    np.testing.assert_array_equal(frame["item"], found["item_id"])


def test_a_wrong_feature_is_refused(small_run, tmp_path):
    users = tmp_path / "users.jsonl"
    users.write_text('{"user_id": 1, "age": "old"}\n')
    with pytest.raises(ServingError, match=r"'age' holds 'old'; the model takes an integer"):
        recommend(small_run, str(users), tmp_path / "recs.csv")
    assert list(tmp_path.iterdir()) == [users]
