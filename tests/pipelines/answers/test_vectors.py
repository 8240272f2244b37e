"""Files of vectors: their inner products are the served scores."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import twotower
from twotower.pipelines.answers.published import open_published
from twotower.pipelines.answers.vectors import write_vectors
from twotower.pipelines.cli import main
from twotower.pipelines.errors import ConfigError


def test_inner_products_are_the_answers(small_run, tmp_path):
    out = tmp_path / "vectors"
    metadata = write_vectors(small_run, out)
    assert metadata == json.loads((out / "metadata.json").read_text())
    published = open_published(small_run)
    users, items = (pd.read_parquet(out / f"{name}.parquet") for name in ("users", "items"))
    stored = {name: np.load(out / f"{name}.npy") for name in ("users", "items")}
    for frame, name in ((users, "user"), (items, "item")):
        np.testing.assert_array_equal(np.stack(frame["vector"]), stored[f"{name}s"])
        np.testing.assert_array_equal(frame[f"{name}_id"], np.load(out / f"{name}_ids.npy"))
    found, scores = published.version.answer(users["user_id"].to_numpy(), 300)
    products = stored["users"] @ stored["items"].T
    places = np.searchsorted(items["item_id"], found)
    np.testing.assert_allclose(np.take_along_axis(products, places, 1), scores, atol=1e-5)
    np.testing.assert_allclose(-np.sort(-products, 1), scores, atol=1e-5)
    assert metadata == {
        "version": published.number,
        "towers_sha256": small_run.identity("train"),
        "metric": "inner_product",
        "normalized": True,
        "dimensions": stored["items"].shape[1],
        "users": len(users),
        "items": 300,
    }
    tidy = pd.read_parquet(small_run.path / "data" / "items.parquet")
    for column in small_run.config.show:
        assert items[column].astype(str).tolist() == tidy[column].astype(str).tolist()


def test_only_vectors_are_replaced(small_run, tmp_path):
    out = tmp_path / "vectors"
    command = ["vectors", "--run", str(small_run.path), "--out", str(out)]
    assert twotower.load(small_run.path).vectors(out) == out
    assert "vectors: exists already; --overwrite" in CliRunner().invoke(main, command).output
    (tmp_path / ".vectors.new").mkdir()  # of a killed command
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]
    (out / "metadata.json").unlink()
    with pytest.raises(ConfigError, match="not a folder of vectors"):
        write_vectors(small_run, out, overwrite=True)
