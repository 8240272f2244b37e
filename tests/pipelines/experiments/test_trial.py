"""Trials: metrics equal to those of the steps train and evaluate; what the identity depends on."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.pipelines.conftest import prepared, small_config
from twotower.pipelines.config import parse_config
from twotower.pipelines.experiments.trial import Trial, content_hash, measure, prepare
from twotower.pipelines.run import Run
from twotower.serving.runtime.manifest import sha256


def test_the_metrics_equal_those_of_train_and_evaluate(small_run, tmp_path):
    epochs = []
    result = measure(Trial(small_run.config, small_run.path), tmp_path, epochs.append)
    reports = json.loads((small_run.path / "reports" / "metrics.json").read_text())["metrics"]
    history = json.loads((small_run.path / "model" / "history.json").read_text())
    measured = reports["two-tower"]
    assert {name: result["test"][name] for name in measured} == measured
    assert result["valid"]["ndcg@10"] == max(history["val_ndcg@10"])
    assert result["curve"]["ndcg@10"] == history["val_ndcg@10"]
    assert [each["ndcg@10"] for each in epochs] == history["val_ndcg@10"]
    assert result["curve"]["seconds"][-1] == pytest.approx(result["seconds"])
    assert {"head_recall@10", "tail_recall@10", "popularity@10"} <= set(result["test"])


def test_the_metrics_of_a_baseline_equal_those_of_evaluate(small_run, tmp_path):
    result = measure(Trial(small_run.config, small_run.path, "popularity", ("test",)), tmp_path)
    reports = json.loads((small_run.path / "reports" / "metrics.json").read_text())["metrics"]
    assert {name: result["test"][name] for name in reports["popularity"]} == reports["popularity"]
    assert "valid" not in result and "curve" not in result


def test_the_identity_changes_with_what_the_result_depends_on(tmp_path):
    def identity(*overrides: str, **more) -> str:
        config = small_config(*overrides)
        return Trial(config, prepared(config, tmp_path).path, **more).identity()

    same = identity()
    assert identity("training.checkpoint_seconds=7", "evaluation.baselines=[ease]") == same
    assert identity("serving.max_k=50", "name=other") == same
    for override in ("model.temperature=.3", "training.seed=1", "evaluation.ks=[10]"):
        assert identity(override) != same
    assert identity(parts=("valid",)) != same
    easy = identity(baseline="ease")
    assert easy not in (same, identity(baseline="itemknn"))
    assert identity("training.seed=1", baseline="ease") == easy, (
        "the towers' settings do not matter"
    )
    path = tmp_path / "data-made-up" / "manifest.json"
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    assert Trial(small_config(), path.parent).identity() != same


def test_data_is_prepared_once_per_settings_that_it_depends_on(tmp_path, monkeypatch):
    made = []

    def run_in_subprocess(work, log):
        made.append(log)

    monkeypatch.setattr("twotower.pipelines.experiments.trial.run_in_subprocess", run_in_subprocess)
    monkeypatch.setattr(Run, "verified", lambda run, *steps: _is_made(run, made))
    first = prepare(small_config(), tmp_path)
    assert prepare(small_config("model.dim=8"), tmp_path).path == first.path
    other = prepare(small_config("features.user=[gender]"), tmp_path)
    assert other.path != first.path
    assert made == [first.path / "prepare.log", other.path / "prepare.log"]


def test_data_that_has_changed_is_prepared_and_measured_again(tmp_path, monkeypatch, capsys):
    """With the same settings but other files, no old result is used."""
    monkeypatch.setattr(
        "twotower.pipelines.experiments.trial.run_in_subprocess",
        lambda work, log: work(lambda metrics: None),
    )
    pairs = pd.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [10, 11, 12, 10]})
    parts = pairs.assign(part=["train", "valid", "test", "train"])
    tree = json.loads(small_config().json())
    tree["ingest"] = {
        "source": "files",
        "path": str(tmp_path / "files"),
        "files": {"interactions": "*.parquet"},
    }
    tree |= {
        "positives": {},
        "features": {},
        "show": [],
        "serving": {},
        "split": {"method": "file", "path": str(tmp_path / "split.parquet")},
    }
    config = parse_config(tree, "test")
    (tmp_path / "files").mkdir()

    def prepared_of(pairs: pd.DataFrame, parts: pd.DataFrame) -> tuple[str, str, str]:
        pairs.to_parquet(tmp_path / "files" / "log.parquet")
        parts.to_parquet(tmp_path / "split.parquet")
        path = prepare(config, tmp_path / "compare").path
        return path.name, Trial(config, path).identity(), capsys.readouterr().out

    first, identity, printed = prepared_of(pairs, parts)
    assert "have changed" not in printed
    other, other_identity, printed = prepared_of(pairs.assign(item_id=[10, 12, 11, 10]), parts)
    assert other != first and other_identity != identity
    assert "the data files have changed; they are prepared again, and all trials are" in printed
    assert first in printed
    moved = parts.assign(part=["train", "test", "valid", "train"])
    assert len({first, other, prepared_of(pairs, moved)[0]}) == 3
    again, same_identity, printed = prepared_of(pairs, parts)
    assert (again, same_identity) == (first, identity) and "have changed" not in printed


def test_a_file_of_the_data_is_read_once_for_all_variants(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "twotower.pipelines.experiments.trial.sha256",
        lambda path: read.append(path) or sha256(path),
    )
    for name in ("log", "users"):
        pd.DataFrame({"user_id": [1]}).to_parquet(tmp_path / f"{name}.parquet")
    tree = json.loads(small_config().json())
    parquet = {"interactions": "log.parquet", "users": "users.parquet"}
    tree["ingest"] = {"source": "files", "path": str(tmp_path), "files": parquet}
    config = parse_config(tree, "test")
    before = {content_hash(config) for _ in range(3)}
    assert len(before) == 1 and [path.stem for path in read] == ["log", "users"]
    pd.DataFrame({"user_id": [1, 2]}).to_parquet(tmp_path / "users.parquet")
    assert content_hash(config) not in before
    assert [path.stem for path in read] == ["log", "users", "users"]


def _is_made(run: Run, made: list) -> None:
    from twotower.pipelines.errors import RunError

    if run.path / "prepare.log" not in made:
        raise RunError("not yet")
