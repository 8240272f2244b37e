"""Similar items: planted clusters, and what is said about unknown items."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import twotower
from twotower.pipelines.answers.similar import most_similar
from twotower.pipelines.cli import main
from twotower.pipelines.errors import RunError


def test_an_unknown_item_is_named_with_close_ones():
    texts = SimpleNamespace(
        item_ids=np.array(["SKU-0016", "SKU-0017", "Zürich"], object),
    )
    with pytest.raises(
        RunError, match=r"item SKU-016 is not among the 3 .*; did you mean SKU-0016"
    ):
        most_similar(texts, ["SKU-0016", "SKU-016"], 2)
    with pytest.raises(
        RunError, match=r"item 7 is not among the 2 items that the model answers with$"
    ):
        most_similar(SimpleNamespace(item_ids=np.array([1, 2])), [7], 2)


def test_the_command_prints_what_python_returns(small_run):
    command = ["similar", "--run", str(small_run.path), "--item", "5", "--item", "9", "-k", "3"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert [each["item"] for each in answer["items"]] == [5, 9]
    tt = twotower.load(small_run.path)
    for each in answer["items"]:
        frame = pd.DataFrame(each["similar"])
        assert frame["item"].tolist() == tt.similar(each["item"], 3)["item"].tolist()
        assert set(frame["show"][0]) == set(small_run.config.show)
    assert "similar to 5" in result.stderr
    failed = CliRunner().invoke(main, [*command, "--item", "12345"])
    assert failed.exit_code == 1
    assert "item 12345 is not among the 300 items" in failed.output


def test_several_items_together_and_filters(small_run):
    command = ["similar", "--run", str(small_run.path), "--item", "5", "--item", "9", "-k", "300"]
    where = {"year": {"$gte": 1990}}
    years = pd.read_parquet(small_run.path / "data" / "items.parquet").set_index("item_id")["year"]
    options = ["--together", "--json", "--where", json.dumps(where), "--exclude", "7"]
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 0, result.stderr
    assert "similar to 5, 9" in result.stderr
    (answer,) = json.loads(result.stdout)["items"]
    assert answer["items"] == [5, 9]
    found = [each["item"] for each in answer["similar"]]
    assert set(found) == set(years.index[years >= 1990]) - {5, 7, 9}
    tt = twotower.load(small_run.path)
    assert tt.similar([5, 9], 300, where=where)["item"].tolist() == [
        item for item in tt.similar([9, 5], 300)["item"] if years[item] >= 1990
    ]
    vectors = dict(zip(tt._local.item_ids.tolist(), tt._local.item_vectors, strict=True))
    units = {item: each / np.linalg.norm(each) for item, each in vectors.items()}
    both = units[5] + units[9]
    expected = units[found[0]] @ both / np.linalg.norm(both)
    assert answer["similar"][0]["score"] == pytest.approx(expected, abs=1e-5)
