"""Whole runs on the planted data sets, with the towers solved in closed form."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import twotower
from benchmarks.own_data import planted
from twotower.pipelines.config import read_overrides
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.verdict.recipes import recipe_settings
from twotower.serving.repository import ModelRepository

SETTINGS = {**read_overrides(recipe_settings("closed-form")), "training.start.l2": 100}


def verdict_of(frame: pd.DataFrame, path, **settings) -> dict:
    named = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    found = twotower.fit(frame, **named, path=path, settings={**SETTINGS, **settings})
    return json.loads((found.path / "reports" / "metrics.json").read_text())["verdict"]


@pytest.mark.slow
def test_tastes(tmp_path):
    verdict = verdict_of(planted.tastes(), tmp_path / "run")
    assert (verdict["outcome"], verdict["use"]) == ("better", "two-tower")
    assert publish(Run(tmp_path / "run")) == 1


def test_popularity_only_is_published_with_a_warning_and_then_only_on_request(tmp_path, capsys):
    verdict = verdict_of(planted.popularity_only(), tmp_path / "run")
    assert verdict["use"] == "popularity"
    printed = capsys.readouterr().out
    assert "warning by the verdict of its evaluation the model is" in printed
    assert "popularity" in printed.partition("warning")[2]
    run = Run(tmp_path / "run")
    assert ModelRepository(run.path / "triton").published == 1, "`run` goes on"
    with pytest.raises(RunError, match=r"popularity .*`twotower publish --anyway`"):
        publish(run)
    assert publish(run, anyway=True) == 1


@pytest.mark.slow
def test_noise(tmp_path):
    verdict = verdict_of(planted.noise(), tmp_path / "run")
    assert (verdict["outcome"], verdict["use"]) == ("no signal", "random")


@pytest.mark.slow
def test_drift(tmp_path):
    frame = planted.drift()
    mixed = verdict_of(frame, tmp_path / "mixed")
    assert "Set split.method to temporal." in mixed["text"]
    tomorrow = verdict_of(frame, tmp_path / "tomorrow", **{"split.method": "temporal"})
    assert tomorrow["use"] != "two-tower" and tomorrow["model"] < mixed["model"] / 3
    assert "Set split.method" not in tomorrow["text"]


def test_movielens_100k(ml_100k_run):
    verdict = ml_100k_run.notes("evaluate")["verdict"]
    assert verdict["facts"]["users"] > 900
    assert (
        verdict["rivals"][0]["name"] == "itemknn" and verdict["rivals"][1]["name"] == "popularity"
    )
    assert verdict["use"] in ("two-tower", "itemknn")
    assert "Set split.method" not in verdict["text"] and "--recipe closed-form" in verdict["text"]
