"""MovieLens with half stars: tables worked out by hand, damaged files, and a day."""

from __future__ import annotations

import zipfile

import pytest

from tests.workflows.sources.layouts.conftest import CSV, ITEMS, ML_10M, plain, write_lines
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.layouts.movielens import MovieLens10M, MovieLensCSV
from twotower.workflows.tables import Tables
from twotower.workflows.update.more import ingest_more


def test_the_csv_editions(tmp_path):
    messages: list[str] = []
    tables = MovieLensCSV(write_lines(tmp_path / "ml-25m", CSV)).read(on_message=messages.append)
    assert plain(tables.interactions) == {
        "user_id": [1, 1, 2],
        "item_id": [296, 31, 296],
        "rating": [5.0, 0.5, 3.5],
        "timestamp": [1147880044, 1147868817, 1141415820],
    }
    assert str(tables.interactions.schema.field("rating").type) == "float"
    assert plain(tables.users) == {"user_id": [1, 2]}
    assert plain(tables.items) == ITEMS
    files = MovieLensCSV(tmp_path).files()
    assert files == [tmp_path / "ml-25m" / name for name in ("ratings.csv", "movies.csv")]


def test_the_10m_edition(tmp_path):
    tables = MovieLens10M(write_lines(tmp_path / "ml-10M100K", ML_10M)).read()
    assert plain(tables.interactions) == {
        "user_id": [1, 1, 2],
        "item_id": [31, 296, 31],
        "rating": [5.0, 4.5, 3.0],
        "timestamp": [838985046, 838985047, 838985048],
    }
    assert plain(tables.items) == {
        "item_id": [31, 296],
        "title": ["Été, The (1931)", "Late (1994)"],
        "year": [1931, 1994],
        "genres": [["Drama", "Romance"], []],
    }


@pytest.mark.parametrize("prefix", ["", "ml-25m/"])
def test_a_zip_reads_like_its_folder(prefix, tmp_path):
    folder = write_lines(tmp_path / "ml-25m", CSV)
    path = tmp_path / "zips" / "ml-25m.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"{prefix}{file.name}")
    expected = MovieLensCSV(folder).read()
    for place in (path, path.parent):
        assert MovieLensCSV.recognise(place) == path
        tables = MovieLensCSV(place).read()
        assert [plain(table) for table in tables] == [plain(table) for table in expected]
    assert MovieLensCSV(path.parent).files() == [path]


@pytest.mark.parametrize(
    "files, message",
    [
        ({"movies.csv": None}, r"missing movies\.csv; expected MovieLens 20M"),
        ({"ratings.csv": None}, "no file with interactions; expected MovieLens 20M"),
        ({"movies.csv": [*CSV["movies.csv"], "x,A,B"]}, r"line 5, movieId: 'x'; expected a whole"),
        ({"movies.csv": [*CSV["movies.csv"], "5,A"]}, r"movies\.csv, line 5: 2 fields; expected 3"),
        ({"movies.csv": ["id,title,genres"]}, r"line 1: 'id, title, genres'; expected the header"),
        ({"movies.csv": [*CSV["movies.csv"], '5,"A,B']}, r"movies\.csv, line 5: unexpected end"),
        (
            {"ratings.csv": [*CSV["ratings.csv"], "3,31,5.5,1"]},
            "user 3 rates film 31 with 5.5; exp",
        ),
        (
            {"ratings.csv": [*CSV["ratings.csv"], "3,31,4.2,1"]},
            "user 3 rates film 31 with 4.2; exp",
        ),
    ],
)
def test_a_damaged_folder_is_refused(files, message, tmp_path):
    given = {name: lines for name, lines in {**CSV, **files}.items() if lines is not None}
    folder = write_lines(tmp_path / "damaged", given)
    assert MovieLensCSV.recognise(folder) == folder
    with pytest.raises(DataError, match=message):
        MovieLensCSV(folder).read()


def test_a_film_without_a_row_is_counted(tmp_path):
    ratings = [*CSV["ratings.csv"], "2,999,4.0,1141415821"]
    messages: list[str] = []
    folder = write_lines(tmp_path / "more", {**CSV, "ratings.csv": ratings})
    config = IngestConfig(source="ml-latest", path=folder)
    ingest(config, tmp_path / "data", on_message=messages.append)
    items = Tables.read(tmp_path / "data").items
    assert items["title"].to_pylist() == [*ITEMS["title"], None]
    assert any(
        message.startswith("1 of 3 items in the interactions have no") for message in messages
    )


def test_a_day_has_ratings_with_their_films_or_only_films(tmp_path):
    config = IngestConfig(source="ml-latest", path=write_lines(tmp_path / "base", CSV))
    ingest(config, tmp_path / "data")
    films = ["movieId,title,genres", "296,Renamed (1994),War", "500,New (2020),IMAX"]
    ratings = ["userId,movieId,rating,timestamp", "3,500,4.0,1600000000"]
    day = {"ratings.csv": ratings, "movies.csv": films}
    merged = ingest_more(config, tmp_path / "data", write_lines(tmp_path / "day", day)).merged
    assert merged.interactions["item_id"].to_pylist() == [296, 31, 296, 500]
    assert merged.items["title"].to_pylist() == [
        ITEMS["title"][0],
        "Renamed (1994)",
        "Nameless",
        "New (2020)",
    ]
    only = write_lines(tmp_path / "films", {"movies.csv": films})
    assert ingest_more(config, tmp_path / "data", only).merged.items["item_id"].to_pylist() == [
        31,
        296,
        400,
        500,
    ]


def test_without_data_the_message_says_where_it_is(tmp_path):
    with pytest.raises(DataError, match=r"needs `path` \(--data\).*grouplens\.org"):
        MovieLensCSV(None).read()
    with pytest.raises(DataError, match=r"no data of MovieLens-10M .*grouplens\.org"):
        MovieLens10M(tmp_path).read()
