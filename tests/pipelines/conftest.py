"""Whole runs, made once: a small synthetic one and, with real data, MovieLens-100K."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twotower.pipelines.config import CONFIGS, Config, load_config, to_yaml
from twotower.pipelines.job import main_job
from twotower.pipelines.run import Run

SMALL = (
    "ingest.synthetic.users=400",
    "ingest.synthetic.items=300",
    "ingest.synthetic.interactions=30000",
    "features.history=20",
    "training.epochs=4",
    "training.batch_size=256",
)


def small_config(*overrides: str) -> Config:
    return load_config(CONFIGS / "synthetic.yaml", (*SMALL, *overrides))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Run:
    """The main job on synthetic data, small enough for a test, real Triton included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        return main_job(small_config(), Path.cwd() / "runs" / "small")


@pytest.fixture(scope="session")
def ml_100k_run(data_dir, tmp_path_factory) -> Run:
    """The main job on MovieLens-100K."""
    overrides = (f"ingest.path={data_dir}", "training.epochs=5")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        config = load_config(CONFIGS / "ml-100k.yaml", overrides)
        return main_job(config, Path.cwd() / "runs" / "ml-100k")


def prepared(config: Config, root: Path) -> Run:
    """What `trial.prepare` makes, but for the data: a run folder with a manifest alone."""
    run = Run.create(config, root / "data-made-up")
    steps = {
        "ingest": {"notes": {"summary": "two users", "synthetic": True}},
        "preprocess": {
            "notes": {"split": {"protocol": "any split"}},
            "files": {"processed/split.parquet": "0" * 64},
        },
    }
    (run.path / "config.yaml").write_text(to_yaml(config))
    (run.path / "manifest.json").write_text(json.dumps({"steps": steps}))
    return run
