"""From a file to the answer of a real Triton with `init` and `run`, nothing edited."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.own_data.orders import make_orders
from twotower.pipelines.cli import main
from twotower.pipelines.run import Run
from twotower.pipelines.steps.query import query


@pytest.fixture
def orders(tmp_path, monkeypatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    frame = make_orders(rows=6_000, customers=400, products=150)
    frame.to_csv("orders.csv", index=False)
    return frame


def test_two_commands(orders, tmp_path):
    for arguments in (["init", "orders.csv"], ["run"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert "configuration: twotower.yaml in this folder" in result.output
    run = Run(tmp_path / "runs" / "orders")
    report = json.loads((run.path / "reports" / "metrics.json").read_text())["metrics"]
    assert report["two-tower"]["ndcg@10"] > 1.2 * report["popularity"]["ndcg@10"]
    user = orders["customer"].value_counts().index[0]
    (answer,) = query(run, [user], k=5).values()
    bought = set(orders.loc[orders["customer"] == user, "product"])
    items = answer.item_ids[0].tolist()
    assert len(set(items)) == 5 and set(items) <= set(orders["product"]) - bought
