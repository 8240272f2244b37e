"""Empty parts of the split and wrong settings are reported before NVTabular is imported."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from twotower.pipelines.config import parse_config, set_keys
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import check_baselines
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import split_ahead
from twotower.pipelines.steps.train import check_training

PARQUET = {
    "name": "made-up",
    "ingest": {"source": "files", "files": {"interactions": "ev.parquet"}},
}


def ingested(folder: Path, rows: pd.DataFrame, **settings) -> Run:
    """A run that has ingested these interactions, with settings by "section.key"."""
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / "ev.parquet")
    keep = [name for name in rows if name not in ("user_id", "item_id")]
    settings = {"ingest.path": str(folder), "ingest.files.keep": keep, **settings}
    run = Run.create(parse_config(set_keys(PARQUET, settings, "here"), "here"), folder / "run")
    ingest(run, remember=False)
    return run


def pairs(users: int, items: int) -> pd.DataFrame:
    """`items` interactions per user, one per second, with ratings 1 and 5 in turn."""
    rows = pd.DataFrame([(u, i) for u in range(users) for i in range(items)])
    rows.columns = ["user_id", "item_id"]
    return rows.assign(timestamp=range(len(rows)), rating=[1.0, 5.0] * (len(rows) // 2))


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            pairs(6, 1),
            {},
            "split.method random: the part valid and test has no rows of 6 positives: test needs",
        ),
        (pairs(6, 2), {}, "split.method random: the part valid has no rows of 12 positives"),
        (
            pairs(6, 2),
            {"split.method": "leave_last_out"},
            "split.method leave_last_out: the part valid and test has no rows of 12 positives: no "
            "user has 3 positives",
        ),
        (
            # Two of the four items of a user are positives.
            pairs(6, 4),
            {
                "split.method": "leave_last_out",
                "positives.column": "rating",
                "positives.at_least": 4,
            },
            "the part valid and test has no rows of 12 positives",
        ),
        (
            pairs(6, 4).assign(timestamp=[0] * 12 + [1] * 12),
            {"split.method": "temporal"},
            "split.method temporal: the part valid has no rows of 24 positives: split.ratios give",
        ),
    ],
)
def test_a_part_that_will_be_empty_is_named(tmp_path, rows, settings, message):
    run = ingested(tmp_path / "data", rows, **settings)
    with pytest.raises(ConfigError) as error:
        split_ahead(run)
    assert message in str(error.value)


def test_a_split_file_that_leaves_a_part_out_is_named(tmp_path):
    rows = pairs(3, 2)
    parts = rows[["user_id", "item_id"]].assign(part=["train", "valid"] * 3)
    parts.to_parquet(tmp_path / "parts.parquet")
    settings = {"split.method": "file", "split.path": str(tmp_path / "parts.parquet")}
    with pytest.raises(ConfigError, match=r"the part test has no rows .*parts\.parquet lists no"):
        split_ahead(ingested(tmp_path / "data", rows, **settings))


@pytest.mark.parametrize("positives", [{}, {"positives.column": "rating"}])
def test_the_split_ahead_equals_the_split(tmp_path, positives):
    from twotower.pipelines.steps.preprocess import load_split, preprocess

    run = ingested(tmp_path / "data", pairs(20, 12), **positives)
    ahead = split_ahead(run)
    preprocess(run)
    for part, rows in load_split(run.path / "processed").items():
        expected = ahead[ahead["part"] == part]
        assert set(zip(rows["user_id"], rows["item_id"], strict=True)) == set(
            zip(expected["user_id"], expected["item_id"], strict=True)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training.batch_size": 49},
            "training.batch_size is 49, but there are only 48 training ro",
        ),
        (
            {
                "training.batch_size": 2,
                "training.start": {},
                "features.history": 5,
                "model.history_pooling": "sum",
                "model.normalize": False,
            },
            "training.start solves for items that have users in common, but no user has two",
        ),
    ],
)
def test_settings_that_the_training_part_does_not_allow_are_named(settings, message):
    config = parse_config(set_keys(PARQUET, settings, "here"), "here")
    with pytest.raises(ConfigError) as error:
        check_training(config, pairs(48, 1))
    assert message in str(error.value)


def test_a_baseline_that_is_too_slow_for_the_training_part_is_named(monkeypatch):
    monkeypatch.setattr("twotower.models.evaluation.baselines.EASE_MAX_ITEMS", 3)
    settings = {"evaluation.baselines": ["popularity", "ease"]}
    config = parse_config(set_keys(PARQUET, settings, "here"), "here")
    check_baselines(config, pairs(2, 3))
    with pytest.raises(
        ConfigError, match=r"baselines: ease takes up to 3 items, .* part has 4; tak"
    ):
        check_baselines(config, pairs(2, 4))


def test_the_main_job_checks_this_before_tensorflow_is_imported(tmp_path):
    pairs(6, 4).to_parquet(tmp_path / "ev.parquet")
    (tmp_path / "base.yaml").write_text(
        "name: made-up\ningest: {source: files, path: ., files: {interactions: ev.parquet}}\n"
    )
    wrong = {
        "split.method=leave_last_out split.k_core=5": "nothing to split",
        "training.batch_size=1000": "training.batch_size is 1000, but there are only 12 training",
        "split.ratios=[1, 0, 0]": "split.ratios: valid has a share of 0",
        "training.monitor=auc": "training.monitor: 'auc' is not measured",
        "model.hidden=[0]": "model.hidden.0: ensure this value is greater than 0",
        "show=[title]": "no column title for the items",
    }
    script = f"""
import os, sys
from twotower.pipelines.cli import main

for settings in {list(wrong)}:
    try:
        main(["run", "--config", "base.yaml", "--run", "made", "--set", settings])
    except SystemExit as end:
        assert end.code == 1, settings
assert not {{"tensorflow", "nvtabular"}} & {{*sys.modules}}
sys.stdout.flush()
os._exit(0)  # pyarrow may abort a process that ends right after a read (apache/arrow #34314)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for message in wrong.values():
        assert message in done.stderr


def test_a_saved_feature_graph_needs_no_module_of_this_project(tmp_path):
    """So a run can still be used after modules of the project were moved or renamed."""
    from twotower.pipelines.steps.preprocess import preprocess

    run = ingested(tmp_path / "data", pairs(20, 12), **{"features.history": 3})
    preprocess(run)
    modules: set[str] = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.split(".")[0])
            return super().find_class(module, name)

    pickles = list((run.path / "workflow").rglob("*.pkl"))
    for path in pickles:
        with path.open("rb") as file:
            Recorder(file).load()
    assert pickles and "nvtabular" in modules
    assert not modules & {"twotower", "models", "pipelines", "serving", "workflows"}
