"""Part `verdict`: whole runs on data with a planted answer, and on MovieLens-100K."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pandas as pd

import twotower
from benchmarks.own_data import planted
from benchmarks.quality.accuracy import finished_run
from benchmarks.report import Check, Rows
from twotower.pipelines.config import read_overrides
from twotower.pipelines.verdict.recipes import recipe_settings

CLOSED_FORM = read_overrides(recipe_settings("closed-form"))


def verdict(data: Path | None) -> tuple[Rows, list[Check]]:
    """Compare what the verdict advises with what was planted; 1 means that they agree."""
    found = {
        "tastes": _verdict_of(planted.tastes()),
        "popularity only": _verdict_of(planted.popularity_only()),
        "noise": _verdict_of(planted.noise()),
        "drift, random split": _verdict_of(planted.drift()),
        "drift, temporal split": _verdict_of(planted.drift(), **{"split.method": "temporal"}),
    }
    right = {
        "tastes": found["tastes"]["use"] == "two-tower",
        "popularity only": found["popularity only"]["use"] == "popularity",
        "noise": found["noise"]["outcome"] == "no signal",
        "drift, random split": "split.method to temporal" in found["drift, random split"]["text"],
        "drift, temporal split": found["drift, temporal split"]["use"] != "two-tower",
    }
    if data is not None:
        with finished_run("ml-100k-history", data, ()) as run:
            found["ml-100k"] = run.notes("evaluate")["verdict"]
        popularity = {each["name"]: each for each in found["ml-100k"]["rivals"]}["popularity"]
        useful = found["ml-100k"]["objection"] is None and popularity["p"] < 0.001
        right["ml-100k"] = useful and "split.method" not in found["ml-100k"]["text"]
    for name, each in found.items():
        click.echo(f"  {name}: {each['outcome']}, use {each['use']}")
    rows = {f"verdict, {name}": _row(each) for name, each in found.items()}
    checks = [
        Check(f"verdict: right on {name}", float(is_so), "==", 1) for name, is_so in right.items()
    ]
    return rows, checks


def _verdict_of(frame: pd.DataFrame, **settings: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        fitted = twotower.fit(
            frame,
            user="user_id",
            item="item_id",
            time="timestamp",
            settings={**CLOSED_FORM, **settings},
            path=Path(folder) / "run",
        )
        report = json.loads((fitted.path / "reports" / "metrics.json").read_text())
    return report["verdict"]


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    values = {rival["name"]: round(rival["value"], 4) for rival in found["rivals"]}
    return {
        "metric": found["metric"],
        "two-tower": round(found["model"], 4),
        **values,
        "outcome": found["outcome"],
        "use": found["use"],
        "text": found["text"],
    }
