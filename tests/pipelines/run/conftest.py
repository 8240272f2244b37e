"""Runs with made-up steps, and functions that write them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.run import Run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run.create(load_config(CONFIGS / "synthetic.yaml"))


def write_step(run: Run, name: str, folder: str, text: str = "x") -> None:
    with run.step(name) as (out, notes):
        (out / folder / "file").write_text(text)
        notes["text"] = text


def write_two(run: Run, text: str) -> None:
    with run.steps("both", "ingest", "preprocess") as (out, notes):
        for folder in ("data", "workflow", "processed"):
            (out / folder / "file").write_text(text)
        notes["preprocess"]["text"] = text


def texts(run: Run) -> set[str]:
    names = ("data", "workflow", "processed")
    return {(run.path / name / "file").read_text() for name in names}


@pytest.fixture
def two(run, tmp_path) -> Run:
    """A run in tmp_path/run with two steps made."""
    write_two(run, "old")
    return Run(Path(shutil.copytree(run.path, tmp_path / "run")))
