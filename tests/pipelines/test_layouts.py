"""Each published layout runs from its files to a server with the configuration that it chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.workflows.sources.layouts.conftest import write_lines
from twotower.pipelines.job import choose, main_job

USERS, ITEMS, EACH = 80, 40, 20


def pairs() -> list[tuple[int, int]]:
    random = np.random.default_rng(0)
    return [
        (user, int(item))
        for user in range(1, USERS + 1)
        for item in random.choice(ITEMS, EACH, replace=False) + 1
    ]


def movielens_csv() -> dict[str, list]:
    ratings = [f"{u},{i},{4 + (u + i) % 2 / 2},{10**9 + u * i}" for u, i in pairs()]
    films = [f'{i},"Film {i}, The ({1980 + i % 9})",Drama|War' for i in range(1, ITEMS + 1)]
    return {
        "ratings.csv": ["userId,movieId,rating,timestamp", *ratings],
        "movies.csv": ["movieId,title,genres", *films],
    }


def movielens_10m() -> dict[str, list]:
    return {
        "ratings.dat": [f"{u}::{i}::4.5::{10**9 + u * i}" for u, i in pairs()],
        "movies.dat": [f"{i}::Film ({1980 + i % 9})::Drama" for i in range(1, ITEMS + 1)],
        "tags.dat": [],
    }


def amazon() -> dict[str, list]:
    reviews = [
        {
            "user_id": f"AUSER{user:06d}",
            "parent_asin": f"B{item:09d}",
            "rating": 5.0,
            "timestamp": 10**12 + user * item * 1000,
        }
        for user, item in pairs()
    ]
    products = [
        {"parent_asin": f"B{i:09d}", "title": f"T{i}", "store": f"S{i % 5}", "categories": ["C"]}
        for i in range(1, ITEMS + 1)
    ]
    return {"All_Beauty.jsonl": reviews, "meta_All_Beauty.jsonl.gz": products}


def atomic() -> dict[str, list]:
    rows = [f"u{user}\ti{item}\t{10**9 + user * item}" for user, item in pairs()]
    return {"toy.inter": ["user_id:token\titem_id:token\ttimestamp:float", *rows]}


def lightgcn() -> dict[str, list]:
    items: dict[int, list[str]] = {}
    for user, item in pairs():
        items.setdefault(user, []).append(str(item))
    return {
        "train.txt": [f"{user} {' '.join(taken[:-4])}" for user, taken in items.items()],
        "test.txt": [f"{user} {' '.join(taken[-4:])}" for user, taken in items.items()],
    }


LAYOUTS = {
    "ml-latest": movielens_csv,
    "ml-10m": movielens_10m,
    "amazon-products": amazon,
    "atomic": atomic,
    "lightgcn": lightgcn,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_runs_with_its_configuration(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_lines(tmp_path / "data", LAYOUTS[name]())
    small = ("training.batch_size=64", "training.epochs=1", "evaluation.ks=[10, 20]")
    config, _ = choose(None, folder, small)
    assert config.name == name
    run = main_job(config)
    assert run.notes("ingest")["interactions"] == USERS * EACH
    if name == "lightgcn":
        assert run.notes("preprocess")["split"]["test"]["rows"] == USERS * 4
    run.verified("evaluate", "export")
