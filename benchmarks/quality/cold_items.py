"""Cold items: found by their features, by title vectors beside them, and at random.

The items are divided at random by their ids, so that training sees none of the test items. Users
are answered with the test items only. The title vectors are those of docs/embed_titles.py, which
runs in an environment of its own: TWOTOWER_EMBED_PYTHON names its interpreter.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.report import Check, Rows
from twotower.pipelines.config import CONFIGS, parse_config, set_keys
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import preprocess
from twotower.pipelines.steps.train import train
from twotower.pipelines.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (1, 2, 3)
METRIC = "recall@10"
DIM = 256  # of a title vector
SETTINGS: dict[str, Any] = {
    "split.method": "cold_items",
    "evaluation.catalogue": "part",
    "evaluation.baselines": ["popularity", "random"],
    "training.epochs": 1,
}
# The most popular items are enough to learn what a title says, and the time grows with the cube.
MOST_ITEMS = 5_000


def ml_1m(data: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Settings of ML-1M, with genres, and the titles of its films."""
    tree = read_yaml(CONFIGS / "ml-1m-history.yaml")
    settings = {
        "ingest.path": str(data / "ml-1m"),
        "split": {},
        "features.item_multi_hot": {"genres": 6},
    }
    films = pd.read_csv(
        data / "ml-1m" / "movies.dat",
        sep="::",
        engine="python",
        encoding="latin-1",
        names=["item_id", "title", "genres"],
    )
    return set_keys(tree, settings, "ml-1m"), films[["item_id", "title"]]


def beauty(data: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Settings of Amazon Beauty, with brands and categories, and the titles of its products."""
    settings = {
        "name": "beauty",
        "ingest.source": "files",
        "ingest.path": str(data / "sequences"),
        "ingest.files": {
            "interactions": "s3_beauty_sequences.parquet",
            "items": "s3_beauty_items.parquet",
        },
        "features.history": 50,
        "features.item_multi_hot": {"attribute_names": 10},
        "model": {"dim": 128, "history_pooling": "sum", "normalize": False},
        "training.start": {"l2": 30, "most_items": MOST_ITEMS},
    }
    items = pd.read_parquet(data / "sequences" / "s3_beauty_items.parquet")
    return set_keys({}, settings, "beauty"), items[["item_id", "title"]]


def cold_items(data: Path) -> tuple[Rows, list[Check]]:
    """Measure both data sets with and without title vectors, on several divisions of the items."""
    rows: Rows = {}
    checks: list[Check] = []
    for name, source in (("ML-1M", ml_1m), ("Amazon Beauty", beauty)):
        tree, titles = source(data)
        with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
            vectors = _embed(titles, Path(folder))
            found = {seed: _measure(tree, vectors, seed, Path(folder)) for seed in SEEDS}
        mean = pd.DataFrame(found).mean(axis=1)
        rows[f"cold items, {name}"] = {
            "protocol": "items at random 80:10:10, recall@10 among the cold items of the test part",
            **{kind: round(float(value), 4) for kind, value in mean.items()},
            "seeds": {str(seed): values for seed, values in found.items()},
        }
        over_random = float(mean["titles"] / mean["random"])
        over_features = float(mean["titles"] / mean["features"])
        checks += [
            Check(f"cold items, {name}: with titles, over random", over_random, ">=", 3),
            Check(f"cold items, {name}: with titles, over features", over_features, ">=", 1),
        ]
    return rows, checks


def _embed(titles: pd.DataFrame, folder: Path) -> Path:
    """Write title.npy by docs/embed_titles.py."""
    python = os.environ.get("TWOTOWER_EMBED_PYTHON")
    if python is None:
        raise click.ClickException(
            "TWOTOWER_EMBED_PYTHON: name the interpreter of an environment with "
            "requirements/embed.txt"
        )
    table, out = folder / "titles.parquet", folder / "title.npy"
    titles.to_parquet(table, index=False)
    script = ROOT / "docs" / "embed_titles.py"
    subprocess.run([python, script, table, "--out", out], check=True)
    return out


def _measure(tree: dict[str, Any], vectors: Path, seed: int, folder: Path) -> dict[str, float]:
    """The metric of cold items by their features, by titles beside them, and at random."""
    kinds: dict[str, dict[str, Any]] = {
        "features": {},
        "titles": {
            "ingest.vectors": {"title_vector": str(vectors)},
            "features.item_vectors": {"title_vector": DIM},
        },
    }
    found: dict[str, float] = {}
    for kind, settings in kinds.items():
        settings = {**SETTINGS, "split.seed": seed, **settings}
        config = parse_config(set_keys(tree, settings, kind), kind)
        run = Run.create(config, folder / f"{kind}-{seed}")
        ingest(run, remember=False)
        preprocess(run)
        train(run)
        metrics = evaluate(run)
        found["random"] = metrics["random"][METRIC]
        found[kind] = metrics["two-tower"][METRIC]
    return found
