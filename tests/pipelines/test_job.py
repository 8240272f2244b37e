"""The main job: what it leaves, that it is right, that it is repeatable."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import psutil
import pytest

from tests.pipelines.test_lock import in_a_thread
from tests.workflows.sources.layouts.conftest import (
    ATOMIC,
    CSV,
    ML_10M,
    REVIEWS_2018,
    write_lines,
)
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.job import choose, main_job
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.preprocess import load_split, preprocess
from twotower.pipelines.steps.query import demonstrate
from twotower.pipelines.steps.train import train
from twotower.pipelines.steps.verify import brute_force
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.manifest import sha256
from twotower.workflows.errors import DataError


def test_the_run_folder_is_whole(small_run):
    folders = {p.name for p in small_run.path.iterdir() if p.is_dir()}
    assert folders == {
        *("data", "workflow", "processed", "training", "model"),
        *("reports", "index", "triton", "logs"),
    }
    small_run.verified("ingest", "preprocess", "train", "evaluate", "export")
    notes, repository = small_run.notes("export"), ModelRepository(small_run.path / "triton")
    assert notes["version"] == repository.published == 1
    manifest = small_run.path / "triton" / "retrieval" / "1" / "manifest.json"
    assert notes["version_manifest_sha256"] == sha256(manifest)
    assert repository.versions()[0].towers_sha256 == small_run.identity("train")


def test_a_refit_needs_a_valid_part_to_choose_on():
    config = load_config(CONFIGS / "synthetic.yaml", ("split.train_on_valid=true",))
    with pytest.raises(ConfigError, match=r"--refit: split.train_on_valid is true"):
        main_job(config, refit=True)


def test_the_model_beats_popularity_and_the_report_says_synthetic(small_run):
    report = json.loads((small_run.path / "reports" / "metrics.json").read_text())
    ndcg = {name: values["ndcg@10"] for name, values in report["metrics"].items()}
    popularity, recall = expected_of_baselines(small_run)
    assert ndcg["popularity"] == pytest.approx(popularity)
    assert report["metrics"]["random"]["recall@10"] == pytest.approx(recall, rel=0.25)
    assert ndcg["two-tower"] > 1.5 * ndcg["popularity"]
    assert report["protocol"]["synthetic"] is True
    assert "synthetic" in report["protocol"]["data"]
    assert report["protocol"]["split"].startswith("10-core, random per user 80:10:10")


def expected_of_baselines(run: Run) -> tuple[float, float]:
    """NDCG@10 of popularity on the test part, and the recall@10 that random has on average."""
    parts = load_split(run.path / "processed")
    counts = parts["train"]["item_id"].value_counts().sort_index()
    popular = counts.sort_values(ascending=False, kind="stable").index.to_numpy()
    seen = pd.concat([parts["train"], parts["valid"]]).groupby("user_id")["item_id"].agg(set)
    discounts = 1 / np.log2(np.arange(2, 12))
    ndcg, recall = [], []
    for user, relevant in parts["test"].groupby("user_id")["item_id"].agg(set).items():
        unseen = [item for item in popular if item not in seen[user]]
        hits = np.isin(unseen[:10], list(relevant))
        ndcg.append((hits * discounts).sum() / discounts[: len(relevant)].sum())
        recall.append(10 / len(unseen))
    return float(np.mean(ndcg)), float(np.mean(recall))


def test_two_runs_with_one_seed_give_the_same_metrics(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = Run.create(small_run.config)
    shutil.copytree(small_run.path / "data", again.path / "data")
    manifest = small_run.manifest
    manifest["steps"] = {"ingest": manifest["steps"]["ingest"]}
    (again.path / "manifest.json").write_text(json.dumps(manifest))
    preprocess(again)
    train(again)
    evaluate(again)
    reports = [(r.path / "reports" / "metrics.json").read_text() for r in (small_run, again)]
    assert reports[0] == reports[1]


def test_items_without_positives_are_served_but_do_not_lead(small_run):
    """All items are indexed; those nobody took must not crowd out those that people take."""
    items = pd.read_parquet(small_run.path / "data" / "items.parquet")["item_id"]
    known = load_split(small_run.path / "processed")["train"]["item_id"].unique()
    cold = np.setdiff1d(items, known)
    assert 0 < len(cold) < len(items)
    users = pd.read_parquet(small_run.path / "data" / "users.parquet")["user_id"].to_numpy()
    ids, _ = brute_force(small_run, users, len(items))
    assert set(cold) <= set(ids.ravel().tolist())
    assert np.isin(ids[:, :10], cold).mean() < len(cold) / len(items) / 2


def test_ali_ccp_parquet_runs_end_to_end(ali_ccp_parquet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ("training.batch_size=4", "training.epochs=2", "evaluation.ks=[2]")
    config, _ = choose(
        CONFIGS / "ali-ccp.yaml", ali_ccp_parquet, (*overrides, "training.monitor=ndcg@2")
    )
    run = main_job(config)
    assert run.notes("ingest")["interactions"] == 200
    assert run.notes("preprocess")["positives"] == 12
    run.verified("evaluate", "export")


def test_asking_a_server_leaves_nothing_running(small_run):
    def children():
        return {p.pid for p in psutil.Process().children(recursive=True)}

    before = children()  # other tests keep servers of their own
    assert demonstrate(small_run)["equal"]
    assert children() <= before


def test_data_in_an_unknown_layout_is_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"one of MovieLens-1M \(ratings.dat.*pass --config"):
        choose(None, tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder"):
        choose(None, tmp_path / "nowhere")


def test_the_layout_chooses_the_configuration(data_dir):
    config, _ = choose(None, data_dir / "ml-100k")
    assert (config.name, config.ingest.path) == ("ml-100k", data_dir / "ml-100k")
    assert choose(None, data_dir)[0].name == "ml-1m"
    assert choose(CONFIGS / "ml-100k.yaml", data_dir)[0].name == "ml-100k"


@pytest.mark.parametrize(
    "name, files",
    [
        ("ml-latest", CSV),
        ("ml-10m", ML_10M),
        ("amazon", {"reviews_A.json": REVIEWS_2018}),
        ("atomic", ATOMIC),
    ],
)
def test_a_published_layout_has_its_configuration(name, files, tmp_path):
    folder = write_lines(tmp_path / "data", files)
    config, line = choose(None, folder, ("training.epochs=1",))
    assert (config.name, config.ingest.source, config.training.epochs) == (name, name, 1)
    assert line.startswith(f"data: {folder}, recognised as ")


def test_a_main_job_that_fails_at_once_leaves_the_configuration(tmp_path):
    run = Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path / "run")
    with run.step("ingest"):
        pass
    before = (run.path / "config.yaml").read_bytes()
    wrong = load_config(CONFIGS / "ml-100k.yaml", (f"ingest.path={tmp_path}/nowhere",))
    with pytest.raises(DataError, match="nowhere"):
        main_job(wrong, run.path)
    assert (run.path / "config.yaml").read_bytes() == before
    with Run(run.path).writing("another"):
        told = in_a_thread(lambda: main_job(wrong, run.path))
    assert "`another` (process" in told


def test_a_named_configuration_without_data_needs_none():
    assert choose(CONFIGS / "synthetic.yaml", None)[0] == load_config(CONFIGS / "synthetic.yaml")


def test_without_options_the_configuration_in_this_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twotower.yaml").write_text("name: mine\ningest: {source: synthetic}\n")
    config, line = choose(None, None, ("training.epochs=3",))
    assert (config.name, config.training.epochs) == ("mine", 3)
    assert line == "configuration: twotower.yaml in this folder"
    assert choose(CONFIGS / "synthetic.yaml", None)[0].name == "synthetic"  # an option goes first
