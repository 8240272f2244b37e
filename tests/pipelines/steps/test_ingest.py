"""From files to encoded tables: the history, the remarks on rows, and early errors."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.config import load_config, parse_config
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import load_ids, load_training_data, preprocess
from twotower.pipelines.steps.processed import RAW_USERS
from twotower.workflows.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
# Item 10 was clicked at 5 and only shown at 9; item 12 was shown at 1 and clicked at 8.
FIRST_USER = [(12, 1, 0), (10, 5, 1), (11, 7, 1), (12, 8, 1), (10, 9, 0)]
SECOND_USER = [(10, 3, 1), (11, 4, 1), (12, 6, 1)]
LOG = pd.DataFrame(
    [*((1, *row) for row in FIRST_USER), *((2, *row) for row in SECOND_USER)],
    columns=["user_id", "item_id", "timestamp", "click"],
)
PARTS = pd.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2, 2],
        "item_id": [10, 11, 12] * 2,
        "part": ["train"] * 4 + ["valid", "test"],
    }
)


def make_run(folder, keep=("timestamp", "click"), **sections) -> Run:
    LOG.to_parquet(folder / "log.parquet")
    PARTS.to_parquet(folder / "parts.parquet")
    files = {
        "interactions": "log.parquet",
        "keep": list(keep),
        "duplicates": "keep_all",
    }
    tree = {
        "name": "small",
        "ingest": {"source": "files", "path": str(folder), "files": files},
        "positives": {"column": "click"},
        "split": {"method": "file", "path": str(folder / "parts.parquet")},
        **sections,
    }
    return Run.create(parse_config(tree, "test"), folder / "run")


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_history_is_ordered_by_the_times_of_the_positives(in_folder, capsys):
    run = make_run(in_folder, features={"history": 3})
    ingest(run)
    notes = preprocess(run)
    users = pd.read_parquet(run.path / "processed" / RAW_USERS)
    assert [list(items) for items in users["history"]] == [[12, 11, 10], [10]]
    data = load_training_data(run)
    items, offsets = data.sequences()
    ids = load_ids(run)[1][items].tolist()
    assert [ids[: offsets[1]], ids[offsets[1] :]] == [[10, 11, 12], [10]]
    assert data.positions.dtype == np.int32
    told = "2 of 8 rows repeat a user_id and item_id; all are kept"
    assert run.notes("ingest")["remarks"][0].startswith(told)
    assert told in capsys.readouterr().out
    assert notes["split"]["repeated_pairs"] == 0


def test_rows_without_a_value_are_counted(in_folder, capsys):
    run = make_run(in_folder, split={})
    LOG.assign(click=[*[None] * 2, *LOG["click"][2:]]).to_parquet(in_folder / "log.parquet")
    ingest(run)
    assert preprocess(run)["positives"] == 5
    printed = capsys.readouterr().out
    assert "2 rows without a value in click are not positives" in printed
    assert "no timestamp" not in printed


def test_positives_that_are_left_out_are_counted(in_folder, capsys):
    run = make_run(in_folder, keep=(), positives={}, split={"method": "leave_last_out"})
    LOG.drop(columns="timestamp").to_parquet(in_folder / "log.parquet")
    ingest(run)
    preprocess(run)
    printed = capsys.readouterr().out
    assert "the interactions have no timestamp: their order in the file is used as time" in printed
    assert "2 positives left out because a later row has the same user and item" in printed
    assert "k-core" not in printed


@pytest.mark.parametrize(
    "sections, message",
    [
        (
            {"features": {"user": ["age"]}},
            "no column age for the users: .*log.parquet has user_id, item_id, ",
        ),
        (
            {"positives": {"column": "clicks"}},
            "no column clicks; there are user_id, item_id, timestamp, click",
        ),
    ],
)
def test_a_missing_column_is_reported_by_ingest(sections, message, in_folder):
    run = make_run(in_folder, **sections)
    with pytest.raises(DataError, match=message):
        ingest(run)
    assert not (run.path / "manifest.json").exists()


def test_wrong_columns_and_split_files_are_reported_before_tensorflow_is_imported(in_folder):
    run = make_run(in_folder)
    ingest(run)
    PARTS.assign(part="test").to_parquet(in_folder / "no_train.parquet")
    code = """
import sys
from pathlib import Path
from twotower.pipelines.steps.preprocess import preprocess
from twotower.pipelines.run import Run
from twotower.workflows.errors import DataError

for setting, message in (
    ("features.item=[year]", "the items table has no column year"),
    ("positives.column=clicks", "the interactions have no column 'clicks'"),
    ("split.path=no_train.parquet", "no row has the part 'train', which the model is fitted on"),
):
    run = Run(Path("run"))
    run.override((setting,))
    try:
        preprocess(run)
    except DataError as error:
        assert message in str(error), error
    else:
        raise AssertionError(setting)
assert not {"tensorflow", "nvtabular"} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_data_of_updates_are_not_lost_by_reading_the_source_again(in_folder):
    run = make_run(in_folder)
    ingest(run)
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    update = {"path": "day", "interactions": 1_000, "users": 0, "items": 0}
    manifest["steps"]["ingest"]["notes"]["updates"] = [update, update]
    path.write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"2 updates added 2,000 interactions that are not in"):
        ingest(run)
    config = shlex.split(str(raised(ingest, run)).rpartition("twotower ")[2])[2]
    again = Run.create(load_config(Path(config)), in_folder / "another")
    assert ingest(again)["interactions"] == len(LOG)


def raised(call, *arguments) -> Exception:
    with pytest.raises(RunError) as caught:
        call(*arguments)
    return caught.value


def test_an_error_distinguishes_overrides_from_the_settings_of_the_run(in_folder):
    run = make_run(in_folder)
    ingest(run)
    (in_folder / "log.parquet").rename(in_folder / "other.parquet")
    run = Run(run.path)
    run.override(("ingest.files.interactions=other.parquet",))
    set_it = r"--set ingest\.files\.interactions=other\.parquet"
    with pytest.raises(
        RunError, match=rf"leave out what --set .* `twotower ingest {set_it}` first"
    ):
        run.verified("ingest")
    ingest(run)
    assert run.verified("ingest")
