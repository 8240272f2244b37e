"""The source of files: mapped columns, given tables and derived ones."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.workflows.sources.conftest import files_source
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.source import FilesSource
from twotower.workflows.sources.wanted import Wanted

ROWS = pd.DataFrame(
    {
        "uid": [7, 3, 7, 3],
        "sku": [20, 10, 10, 10],
        "click": [True, False, True, True],
        "city": ["Rome", "Oslo", "Bari", None],
        "price": pd.array([5, None, 6, 8], dtype="Int32"),
        "when": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"]),
        "stars": [5, 4, 3, 2],
    }
)


COLUMNS = {"user_id": "uid", "item_id": "sku", "timestamp": "when", "rating": "stars"}


def source(folder, **changes) -> FilesSource:
    settings = {
        "interactions": "log.parquet",
        "columns": COLUMNS,
        "keep": ["click", "rating", "timestamp"],
        "user_features": ["city"],
        "item_features": ["price"],
        "duplicates": "keep_all",
        "differing": "keep_last",
    }
    return files_source(folder, **{**settings, **changes})


@pytest.fixture
def folder(tmp_path):
    ROWS.to_parquet(tmp_path / "log.parquet")
    return tmp_path


def test_columns_are_renamed_typed_and_in_file_order(folder):
    interactions = source(folder).read().interactions
    assert interactions.to_pydict() == {
        "user_id": [7, 3, 7, 3],
        "item_id": [20, 10, 10, 10],
        "click": [1, 0, 1, 1],
        "rating": [5.0, 4.0, 3.0, 2.0],
        "timestamp": [1577836800 + day * 86400 for day in range(4)],
    }
    assert [str(t) for t in interactions.schema.types] == 3 * ["int64"] + ["float", "int64"]


def test_without_tables_the_last_known_value_of_a_user_or_item_wins(folder):
    tables = source(folder).read()
    assert tables.users.to_pydict() == {"user_id": [3, 7], "city": ["Oslo", "Bari"]}
    assert tables.items.to_pydict() == {"item_id": [10, 20], "price": [8, 5]}
    assert str(tables.items["price"].type) == "int64"


def test_whole_numbers_beside_nulls_are_whole_and_exact(folder):
    ROWS.assign(price=pd.array([5, 2**60 + 1, None, 8], "Int64")).to_parquet(folder / "log.parquet")
    read = source(folder, keep=["price"], item_features=[]).read().interactions["price"]
    assert read.to_pylist() == [5, 2**60 + 1, None, 8]


def test_keep_last_leaves_the_later_row_of_a_pair(folder):
    interactions = source(folder, duplicates="keep_last").read().interactions
    assert interactions["item_id"].to_pylist() == [20, 10, 10]
    assert interactions["rating"].to_pylist() == [5.0, 3.0, 2.0]


def test_given_tables_may_use_either_name(folder):
    pd.DataFrame({"user_id": [9, 7, 3], "city": ["x", "y", "z"]}).to_parquet(folder / "u.parquet")
    pd.DataFrame({"sku": [20, 10], "price": [1, 2]}).to_parquet(folder / "i.parquet")
    tables = source(folder, users="u.parquet", items="i.parquet").read()
    assert tables.users.to_pydict() == {"user_id": [9, 7, 3], "city": ["x", "y", "z"]}
    assert tables.items.to_pydict() == {"item_id": [20, 10], "price": [1, 2]}
    assert str(tables.items["price"].type) == "int64"


@pytest.mark.parametrize("where", ["parts", "parts/*.parquet"])
def test_a_folder_or_glob_is_read_in_natural_order(folder, where):
    (folder / "parts").mkdir()
    for name, part in (("part.2", ROWS[:1]), ("part.10", ROWS[1:])):
        part.to_parquet(folder / "parts" / f"{name}.parquet")
    tables = source(folder, interactions=where).read()
    whole = source(folder).read()
    assert [t.to_pydict() for t in tables] == [t.to_pydict() for t in whole]


def test_rows_are_counted_within_their_file(folder):
    (folder / "parts").mkdir()
    ROWS[:3].to_parquet(folder / "parts" / "a.parquet")
    ROWS[3:].to_parquet(folder / "parts" / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, row 1: .* already in .*a\.parquet, row 2"):
        source(folder, interactions="parts", duplicates="error").read()


def test_categories_and_lists_are_kept_as_values(tmp_path):
    rows = pd.DataFrame(
        {
            "user_id": [1, 2],
            "item_id": [1, 1],
            "kind": pd.Categorical(["a", "b"]),
            "genres": [["x"], ["x", "y"]],
        }
    )
    rows.to_parquet(tmp_path / "log.parquet")
    tables = files_source(
        tmp_path,
        interactions="log.parquet",
        user_features=["kind"],
        item_features=["genres"],
        differing="keep_last",
    ).read()
    assert tables.users.to_pydict() == {"user_id": [1, 2], "kind": ["a", "b"]}
    assert tables.items.to_pydict() == {"item_id": [1], "genres": [["x", "y"]]}


def test_progress_ends_at_its_total(folder):
    seen = []
    source(folder).read(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_folders_name_the_parts(tmp_path):
    for name, users in (("train", [1, 2]), ("test", [3]), ("other", [4])):
        (tmp_path / name).mkdir()
        log = pd.DataFrame({"user_id": users, "item_id": 1})
        log.to_parquet(tmp_path / name / "part_0.parquet")
    settings = {"interactions": "**/*.parquet", "keep": ["part"]}
    files = FilesSource(tmp_path, FilesConfig(**settings, part_folders=True))
    rows = files.read().interactions.to_pandas()
    assert dict(zip(rows["user_id"], rows["part"], strict=True)) == {
        1: "train",
        2: "train",
        3: "test",
        4: None,
    }
    with pytest.raises(DataError, match="no column part"):
        FilesSource(tmp_path, FilesConfig(**settings)).read()


def test_ali_ccp_sample_in_merlin_names(ali_ccp_parquet, tmp_path):
    user = ["user_profile", "user_gender", "user_age", "user_geography", "user_brands"]
    item = ["item_category", "item_shop", "item_brand", "item_intention"]
    settings = FilesConfig(
        interactions="train.parquet",
        keep=["click", "conversion"],
        duplicates="keep_all",
        differing="keep_last",
    )
    source = IngestConfig(source="files", path=ali_ccp_parquet, files=settings)
    report = ingest(source, tmp_path, wanted=Wanted(users=tuple(user), items=tuple(item)))
    raw = pd.read_parquet(ali_ccp_parquet / "train.parquet")
    interactions = pd.read_parquet(tmp_path / "interactions.parquet")
    assert report.interactions == len(interactions) == len(raw) == 100
    assert (report.users, report.items) == (raw["user_id"].nunique(), raw["item_id"].nunique())
    assert list(interactions) == ["user_id", "item_id", "click", "conversion"]
    items = pd.read_parquet(tmp_path / "items.parquet").set_index("item_id")
    assert list(items) == item
    assert items.loc[0].to_list() == raw[raw["item_id"] == 0][item].iloc[-1].to_list()
