"""The generated data set has the layout and the size that it claims, and the part measures it."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.own_data.ingest_25m import movielens_25m
from benchmarks.own_data.movielens_layout import Size, write_layout
from twotower.workflows.ingest import detect_source

SMALL = Size(ratings=20_000, users=300, films=500, last_film=2_000, tags=100)


def test_the_generated_files_have_the_layout(tmp_path):
    for folder in ("one", "same"):
        write_layout(tmp_path / folder, SMALL, seed=3)
    write_layout(tmp_path / "other", SMALL, seed=4)
    texts = [(tmp_path / name / "ratings.csv").read_text() for name in ("one", "same", "other")]
    assert texts[0] == texts[1] != texts[2]
    assert detect_source(tmp_path / "one") == ("ml-latest", tmp_path / "one")
    assert "SYNTHETIC" in (tmp_path / "one" / "README.txt").read_text()
    ratings = pd.read_csv(tmp_path / "one" / "ratings.csv")
    films = pd.read_csv(tmp_path / "one" / "movies.csv")
    tags = pd.read_csv(tmp_path / "one" / "tags.csv")
    assert (len(ratings), len(films), len(tags)) == (SMALL.ratings, SMALL.films, SMALL.tags)
    assert not ratings.duplicated(["userId", "movieId"]).any()
    assert ratings["movieId"].isin(films["movieId"]).all()
    assert films["movieId"].is_unique and films["movieId"].max() <= SMALL.last_film
    assert sorted(ratings["rating"].unique()) == [half / 2 for half in range(1, 11)]
    assert ratings["userId"].between(1, SMALL.users).all()
    assert ratings.equals(ratings.sort_values(["userId", "movieId"]))


def test_a_smaller_data_set_keeps_the_ratings_per_user():
    scaled = Size().scaled(2_500_000)
    assert (scaled.ratings, scaled.users) == (2_500_000, 16_254)


def test_the_part_measures_a_whole_ingest():
    rows, checks = movielens_25m(size=SMALL)
    row = rows["movielens_25m"]
    assert (row["interactions"], row["users"], row["items"]) == (20_000, 300, 500)
    assert 0.05 < row["peak_gib"] < 4 and row["seconds"] > 0
    assert [check.value for check in checks] == [
        pytest.approx(row["seconds"], abs=0.1),
        pytest.approx(row["peak_gib"], abs=0.01),
    ]
