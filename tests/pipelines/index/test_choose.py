"""`twotower index` on a small run: what it stores, and what the export builds from it."""

from __future__ import annotations

import json

import pytest

from twotower.pipelines.config import parse_config
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.index.choose import index, plain_choice
from twotower.pipelines.run import Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import preprocess
from twotower.pipelines.steps.train import train
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError


@pytest.mark.slow
def test_the_export_builds_what_was_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {
        "name": "small",
        "ingest": {
            "source": "synthetic",
            "synthetic": {"users": 400, "items": 1500, "interactions": 30000},
        },
        "model": {"dim": 16},
        "training": {"epochs": 1},
    }
    run = Run.create(parse_config(tree, "test"), tmp_path / "run")
    for step in (ingest, preprocess, train):
        step(run)
    run.override(("serving.index.kind=ivf_flat", "serving.index.recall=0.8"))
    choice = plain_choice(index(run))
    assert choice["chosen"] == "ivf_flat"
    stored = Run(run.path).config.serving.index
    assert (stored.kind, stored.recall) == ("ivf_flat", 0.8)
    reopened = Run(run.path)
    export(reopened)
    metadata = json.loads((run.path / "index" / "index.json").read_text())
    (tried,) = [each for each in choice["tried"] if each["kind"] == "ivf_flat"]
    assert metadata["kind"] == "ivf_flat"
    assert metadata["recall"]["value"] == pytest.approx(tried["recall"], abs=1e-4)
    version = LocalVersion(run.path / "triton" / "retrieval" / "1")
    items, _ = version.answer(version.user_ids[:5], 10, filter_seen=True)
    assert items.shape == (5, 10)
    before = sorted((run.path / "triton" / "retrieval").iterdir())
    reopened.override(("serving.index.kind=ivf_pq", "serving.index.recall=1.0"))
    with pytest.raises(ServingError, match=r"serving\.index\.recall = 1 at 100 items"):
        export(reopened)
    assert sorted((run.path / "triton" / "retrieval").iterdir()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "ivf"}, "serving.index.kind"),
        ({"recall": 0}, "serving.index.recall"),
        ({"memory": "300"}, "'300' is no size; expected a number and MB or GB, such as 300MB"),
        ({"kind": "hnsw"}, "index.kind is hnsw, but runtime merlin sorts all items"),
    ],
)
def test_a_wrong_setting_is_named(given, message):
    serving = {"index": given, "runtime": "merlin" if "hnsw" in given.values() else "compiled"}
    tree = {"name": "x", "ingest": {"source": "synthetic"}, "serving": serving}
    with pytest.raises(ConfigError, match=message):
        parse_config(tree, "test")


@pytest.mark.parametrize(
    ("text", "size"), [("300MB", 300_000_000), ("1.5 gb", 1_500_000_000), (None, None)]
)
def test_a_size_is_read(text, size):
    tree = {"name": "x", "ingest": {"source": "synthetic"}, "serving": {"index": {"memory": text}}}
    assert parse_config(tree, "test").serving.index.memory_bytes == size
