"""The printed answers of a query, and what is checked before a server is started."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from twotower.pipelines.cli import main
from twotower.pipelines.config import CONFIGS, load_config, to_yaml
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.query import (
    print_recommendations,
    query,
    shown_items,
)
from twotower.serving.client import Recommendations


@pytest.fixture
def titled_run(small_run, tmp_path):
    """A copy of the run with only the item table, with titles that rich might interpret."""
    shutil.copy(small_run.path / "config.yaml", tmp_path)
    shutil.copy(small_run.path / "manifest.json", tmp_path)
    (tmp_path / "data").mkdir()
    items = pd.read_parquet(small_run.path / "data" / "items.parquet")
    items.loc[:2, "title"] = ["[rec] (2007)", "[/b]", ":heart: \\"]
    items.to_parquet(tmp_path / "data" / "items.parquet")
    return Run(tmp_path), items["item_id"].to_numpy()[:3]


def test_data_is_printed_as_it_is(titled_run, capsys):
    run, item_ids = titled_run
    answer = Recommendations(item_ids[None], np.ones((1, 3), np.float32), version=1)
    print_recommendations(run, [1], {"http": answer})
    printed = capsys.readouterr().out
    for title in ("[rec] (2007)", "[/b]", ":heart: \\"):
        assert f" {title} " in printed


def test_an_item_that_the_run_lacks_is_reported(titled_run, capsys):
    """A version may have been made before the run got other data."""
    run, item_ids = titled_run
    ids = np.array([[item_ids[0], 999_999, -1]])
    answer = Recommendations(ids, np.array([[1, 0.5, -np.inf]], np.float32), version=1)
    print_recommendations(run, [1], {"http": answer})
    printed = capsys.readouterr().out
    assert re.search(r"999999.*\?.*0\.5000", printed)
    assert "1 of the items are not in the run's item table: the version that answered" in printed


def test_a_run_without_data_says_what_to_run_before_a_server_is_started(tmp_path):
    run = Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path / "run")
    with pytest.raises(RunError, match=r"`ingest` has not run yet; run `twotower ingest`"):
        query(run, [1])


def test_a_missing_column_to_show_is_named(titled_run, monkeypatch):
    run, _ = titled_run
    monkeypatch.chdir(run.path)
    run.override(("show=[title, director]",))
    (run.path / "config.yaml").write_text(to_yaml(run.config))
    asked = CliRunner().invoke(main, ["query", "--run", str(run.path), "--user", "1"])
    assert asked.exit_code == 1
    assert "error: show: the item table has no column director; it has item_id, " in asked.output
    run.override(("show=[item_id]",))
    assert list(shown_items(run)) == ["item_id"]
