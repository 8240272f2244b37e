"""The MovieLens sources against tables worked out by hand and the published counts."""

from __future__ import annotations

import zipfile

import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.sources.movielens.source import MovieLens1M, MovieLens100K


def test_ml_1m_tables(ml_1m):
    tables = MovieLens1M(ml_1m).read()
    assert tables.users.to_pydict() == {
        "user_id": [1, 3, 8],
        "gender": ["M", "F", "M"],
        "age": [1, 25, 56],
        "occupation": [10, 4, 0],
        "zip_code": ["98765-4321", "10001", "02138"],
    }
    assert tables.items.to_pydict() == {
        "item_id": [2, 5, 9],
        "title": ["Rocket: 2001 (1968) (1987)", "Été, L' (1931)", "Nameless"],
        "year": [1987, 1931, 0],
        "genres": [["Sci-Fi"], ["Drama", "Romance"], ["Comedy"]],
    }
    assert tables.interactions.to_pydict() == {
        "user_id": [3, 1, 1, 8],
        "item_id": [5, 2, 5, 2],
        "rating": [4.0, 5.0, 1.0, 3.0],
        "timestamp": [978300000, 978300010, 978300005, 978300020],
    }
    types = [str(t) for table in tables for t in table.schema.types]
    assert types[:4] == ["int64", "int64", "float", "int64"]
    assert types[4:9] == ["int64", "string", "int64", "int64", "string"]
    assert types[9:12] == ["int64", "string", "int64"] and types[12].startswith("list<")


def test_ml_100k_tables(ml_100k):
    tables = MovieLens100K(ml_100k).read()
    assert tables.users.to_pydict() == {
        "user_id": [1, 2],
        "age": [24, 33],
        "gender": ["M", "F"],
        "occupation": ["other", "writer"],
        "zip_code": ["85711", "T8H1N"],
    }
    assert tables.items["year"].to_pylist() == [1990, 0, 1995]
    assert tables.items["genres"].to_pylist() == [["Action"], ["unknown"], ["Action", "Drama"]]
    assert tables.interactions["item_id"].to_pylist() == [3, 1, 2]
    assert tables.interactions["timestamp"].to_pylist() == [881250949, 881250950, 881250951]


@pytest.mark.parametrize("prefix", ["", "ml-1m/"])
def test_a_zip_reads_like_its_folder_and_is_not_unpacked(ml_1m, tmp_path, prefix):
    path = tmp_path / "download" / "some.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in ml_1m.iterdir():
            archive.write(file, prefix + file.name)
    from_zip, from_folder = MovieLens1M(path).read(), MovieLens1M(ml_1m).read()
    assert [t.to_pydict() for t in from_zip] == [t.to_pydict() for t in from_folder]
    assert list(path.parent.iterdir()) == [path]


def test_windows_line_ends_and_a_missing_last_one_are_fine(ml_1m):
    expected = [t.to_pydict() for t in MovieLens1M(ml_1m).read()]
    for file in ml_1m.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert [t.to_pydict() for t in MovieLens1M(ml_1m).read()] == expected


def test_progress_counts_the_files(ml_1m):
    seen = []
    MovieLens1M(ml_1m).read(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_first_bad_line_of_many_is_the_one_named(ml_1m):
    lines = [f"1::{line}::3::1" for line in range(1, 5001)]
    lines[3210] = "1::3211::4.5::1"
    lines[4000] = "garbage"
    (ml_1m / "ratings.dat").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"ratings\.dat, line 3211, rating: '4\.5'"):
        MovieLens1M(ml_1m).read()


def test_published_counts_of_the_real_sets(data_dir):
    for source, rows in (
        (MovieLens1M, (1_000_209, 6040, 3883)),
        (MovieLens100K, (100_000, 943, 1682)),
    ):
        tables = source(data_dir).read()
        assert tuple(table.num_rows for table in tables) == rows
        years = tables.items["year"].to_pylist()
        assert years.count(0) == (1 if source is MovieLens100K else 0)  # the item called "unknown"
        genres = {genre for row in tables.items["genres"].to_pylist() for genre in row}
        assert len(genres - {"unknown"}) == 18
