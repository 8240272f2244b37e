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


def version(ids: list, vectors: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(
        item_ids=np.array(ids),
        item_vectors=vectors.astype(np.float32),
        denied=np.zeros(len(ids), bool),
    )


def test_a_cluster_is_found_whatever_the_lengths():
    draw = np.random.default_rng(3)
    centres = np.eye(4)[np.arange(20) % 4]
    vectors = (centres + draw.normal(0, 0.05, (20, 4))) * draw.uniform(0.1, 9, (20, 1))
    ids = np.arange(20) * 10
    found = most_similar(version(ids.tolist(), vectors), 20, 6)
    assert set(found["item"][:4]) == {60, 100, 140, 180}, "the same remainder of 4"
    cosines = vectors @ vectors[2] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[2])
    expected = [int(place) for place in np.argsort(-cosines) if place != 2][:6]
    assert found["item"].tolist() == ids[expected].tolist()
    np.testing.assert_allclose(found["score"], cosines[expected], atol=1e-6)
    assert found["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_there_are_no_more_than_the_other_items():
    found = most_similar(version([1, 2, 3], np.array([[1, 0], [0, 0], [1, 1]])), 1, 10)
    assert found["item"].tolist() == [3, 2]  # a zero vector is similar to nothing
    assert found["score"].tolist() == [pytest.approx(0.5**0.5), 0]


def test_an_unknown_item_is_named_with_close_ones():
    texts = SimpleNamespace(
        item_ids=np.array(["SKU-0016", "SKU-0017", "Zürich"], object),
        item_vectors=np.eye(3, dtype=np.float32),
    )
    with pytest.raises(
        RunError, match=r"item SKU-016 is not among the 3 .*; did you mean SKU-0016"
    ):
        most_similar(texts, "SKU-016", 2)
    with pytest.raises(
        RunError, match=r"item 7 is not among the 2 items that the model answers with$"
    ):
        most_similar(version([1, 2], np.eye(2)), 7, 2)


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
