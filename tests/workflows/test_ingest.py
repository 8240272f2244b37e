"""workflows.ingest: what is written, and how a data set is recognised."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.workflows.conftest import write_files
from twotower.workflows.errors import DataError
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.ingest import (
    SOURCES,
    IngestConfig,
    detect_source,
    detectable,
    ingest,
    source_files,
)
from twotower.workflows.order import ORDER
from twotower.workflows.sources.base import Source, ignore
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables
from twotower.workflows.update.day import suspicions
from twotower.workflows.update.more import ingest_more


def test_ingest_writes_three_tables_and_reports_counts(ml_1m, tmp_path):
    out = tmp_path / "run" / "data"
    report = ingest(IngestConfig(source="ml-1m", path=ml_1m), out)
    assert str(report) == "ml-1m: 4 interactions, 3 users, 3 items"
    assert not report.synthetic
    assert sorted(p.name for p in out.iterdir()) == [
        "interactions.parquet",
        "item_ids.parquet",
        "items.parquet",
        "report.json",
        "user_ids.parquet",
        "users.parquet",
    ]
    profile = json.loads((out / "report.json").read_text())["profile"]
    interactions = pd.read_parquet(out / "interactions.parquet")
    assert (profile["rows"], profile["users"]) == (
        len(interactions),
        interactions["user_id"].nunique(),
    )
    assert profile["end"] == interactions["timestamp"].max()
    assert interactions.dtypes.astype(str).to_dict() == {
        "user_id": "int64",
        "item_id": "int64",
        "rating": "float32",
        "timestamp": "int64",
    }
    items = pd.read_parquet(out / "items.parquet")
    assert list(items["genres"][1]) == ["Drama", "Romance"]


DAY = {
    "users.dat": ["3::F::35::4::10001", "4::M::18::1::10002"],
    "movies.dat": ["5::Été, L' (1931)::Drama", "7::Late (2000)::Drama"],
    "ratings.dat": ["3::5::2::978400000", "4::7::5::978400010"],
}


def test_more_of_the_same_format_is_merged_once(ml_1m, tmp_path):
    config, data = IngestConfig(source="ml-1m", path=ml_1m), tmp_path / "data"
    ingest(config, data)
    day = ingest_more(config, data, write_files(tmp_path / "day", DAY))
    tables = day.merged
    assert day.appended == 2
    assert tables.interactions["rating"].to_pylist() == [5, 1, 3, 2, 5]
    assert tables.users["user_id"].to_pylist() == [1, 3, 4, 8]
    assert tables.users["age"].to_pylist() == [1, 35, 18, 56]
    assert tables.items["genres"].to_pylist()[1] == ["Drama"]
    tables.write(data)
    assert ingest_more(config, data, tmp_path / "day") is None


@pytest.mark.parametrize(
    "files, ages, items",
    [
        ({"users.dat": ["3::F::35::4::10001", "4::M::18::1::10002"]}, [1, 35, 18, 56], [2, 5, 9]),
        ({"movies.dat": ["7::Late (2000)::Drama"], "ratings.dat": []}, [1, 25, 56], [2, 5, 7, 9]),
        (
            {
                "movies.dat": [],
                "ratings.dat": [],
                "users.dat": ["3::F::35::4::10001"],
            },
            [1, 35, 56],
            [2, 5, 9],
        ),
    ],
)
def test_a_day_may_have_only_users_or_items(files, ages, items, ml_1m, tmp_path):
    config, data = IngestConfig(source="ml-1m", path=ml_1m), tmp_path / "data"
    ingest(config, data)
    day = ingest_more(config, data, write_files(tmp_path / "day", files))
    assert day.appended == 0 and day.merged.interactions.read().equals(
        day.before.interactions.read()
    )
    assert day.merged.users["age"].to_pylist() == ages
    assert day.merged.items["item_id"].to_pylist() == items
    day.merged.write(data)
    assert ingest_more(config, data, tmp_path / "day") is None


def test_a_day_of_parquet_may_have_only_users_or_items(tmp_path):
    def write(folder, **tables):
        folder.mkdir()
        for name, rows in tables.items():
            pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
        return folder

    files = {name: f"{name}.parquet" for name in ("interactions", "users", "items")}
    parquet, wanted = FilesConfig(**files), Wanted(users=("age",), items=("name",))
    base = write(
        tmp_path / "base",
        interactions={"user_id": [1, 2], "item_id": [5, 5]},
        users={"user_id": [1, 2], "age": [30, 40]},
        items={"item_id": [5], "name": ["a"]},
    )
    config, data = IngestConfig(source="files", path=base, files=parquet), tmp_path / "data"
    ingest(config, data, wanted=wanted)
    users = {"user_id": [3, 2], "age": [50, None]}
    day = ingest_more(config, data, write(tmp_path / "users", users=users))
    assert day.appended == 0 and day.merged.users["age"].to_pylist() == [30, None, 50]
    assert str(day.merged.users["age"].type) == "int64"
    no_rows = {"user_id": pd.Series([], dtype="int64"), "item_id": pd.Series([], dtype="int64")}
    items = {"item_id": [6], "name": ["b"]}
    day = ingest_more(config, data, write(tmp_path / "items", interactions=no_rows, items=items))
    assert day.merged.items["name"].to_pylist() == ["a", "b"]
    with pytest.raises(DataError, match=r"no row in interactions\.parquet, users\.parquet, items"):
        ingest_more(config, data, write(tmp_path / "nothing"))


@pytest.mark.parametrize("given, missing", [(True, None), (False, None), (False, float("nan"))])
def test_a_column_may_have_no_value_in_a_day(given, missing, tmp_path):
    columns = {
        "city": ["Oslo", "Rome"],
        "age": [30, 40],
        "income": [1.5, 2.5],
        "tags": [["a"], ["b", "c"]],
        "sizes": [[1], [2]],
    }
    base = pd.DataFrame({"user_id": [1, 2], "item_id": [5, 5], "click": [1, 0]} | columns)
    day = pd.DataFrame({"user_id": [3], "item_id": [5], "click": [None]})
    nothing = {"city": [missing], "age": [None], "income": [None], "tags": [[]], "sizes": [[None]]}
    day = day.assign(**nothing)

    def write(rows: pd.DataFrame, folder: Path) -> Path:
        folder.mkdir()
        rows.to_parquet(folder / "log.parquet")
        if given:
            rows.drop(columns=["item_id", "click"]).to_parquet(folder / "users.parquet")
        return folder

    parquet = FilesConfig(
        interactions="log.parquet",
        users="users.parquet" if given else None,
        keep=["click"],
    )
    wanted = Wanted(users=tuple(columns))
    config = IngestConfig(source="files", path=write(base, tmp_path / "base"), files=parquet)
    ingest(config, tmp_path / "data", wanted=wanted)
    before = Tables.read(tmp_path / "data").users.schema
    found = ingest_more(config, tmp_path / "data", write(day, tmp_path / "day"))
    assert found.merged.users.schema == before
    assert found.merged.users.to_pylist()[2] == {
        "user_id": 3,
        **{"city": None, "age": None, "income": None, "tags": [], "sizes": [None]},
    }
    assert found.merged.interactions["click"].to_pylist() == [1, 0, None]
    features = FeaturesConfig(
        user=["city"], user_numeric=["age", "income"], user_multi_hot={"tags": 4}
    )
    assert suspicions(found, features, PositivesConfig(column="click"), 0.5, 3.0) == []
    first = config.copy(update={"path": tmp_path / "day", "strict": True})
    with pytest.raises(DataError, match=r"column .* no value in any row\. Correct the data, or"):
        ingest(first, tmp_path / "first", wanted=wanted)


@pytest.mark.parametrize("unit", [1, 1000, "%Y-%m-%dT%H:%M:%SZ", "%m/%d/%Y %I:%M:%S %p"])
def test_a_day_with_times_in_another_unit_is_converted_or_refused(unit, tmp_path):
    def write(name: str, users: list[int], times: list) -> Path:
        (tmp_path / name).mkdir()
        rows = {"user_id": users, "item_id": [5] * len(users), "timestamp": times}
        pd.DataFrame(rows).to_parquet(tmp_path / name / "log.parquet")
        return tmp_path / name

    seconds = [1710512345, 1710598745]
    parquet = FilesConfig(interactions="log.parquet", keep=["timestamp"])
    base = write("base", [1, 2], seconds)
    config, data = IngestConfig(source="files", path=base, files=parquet), tmp_path / "data"
    ingest(config, data)
    new = pd.to_datetime([1711512345, 1711598745], unit="s")
    stored = new.strftime(unit) if isinstance(unit, str) else new.astype("int64") // 10**9 * unit
    messages: list[str] = []
    day = ingest_more(config, data, write("day", [3, 4], list(stored)), None, messages.append)
    assert day.merged.interactions["timestamp"].to_pylist()[2:] == [1711512345, 1711598745]
    assert len(messages) == (unit != 1)
    with pytest.raises(DataError, match="new numbers are from 1 to 2, but those before are from"):
        ingest_more(config, data, write("places", [3, 4], [1, 2]))
    with pytest.raises(DataError, match="'01/02/2024'; no value of the column shows whether"):
        ingest_more(config, data, write("unclear", [3, 4], ["01/02/2024", "02/02/2024"]))


def test_an_order_goes_on_in_an_update(tmp_path):
    def write(name, users, places):
        table = pa.table({"user_id": users, "item_id": [*range(len(users))], "pos": places})
        Tables(table, table.select([0]), table.select([1])).write(tmp_path / name)
        shutil.move(tmp_path / name / "interactions.parquet", tmp_path / name / "log.parquet")
        return tmp_path / name

    files = FilesConfig(interactions="log.parquet", order="pos", duplicates="keep_all")
    base = write("base", [1, 1, 2, 3], [0, 1, 0, 0])
    config, data = IngestConfig(source="files", path=base, files=files), tmp_path / "data"
    ingest(config, data)
    stored = pd.read_parquet(data / "interactions.parquet")
    assert stored.columns.tolist() == ["user_id", "item_id", ORDER]
    assert stored[ORDER].tolist() == [0, 1, 0, 0] and stored[ORDER].dtype == "int64"
    assert ingest_more(config, data, base) is None  # the same rows again are no restart
    day = ingest_more(config, data, write("day", [1, 1, 2, 4], [2, 3, 1, 0]))
    assert day.merged.interactions[ORDER].to_pylist()[4:] == [2, 3, 1, 0]
    message = r"files\.order: 1 of 1 known users start again, such as one at -1 who had 0 before"
    with pytest.raises(DataError, match=message):
        ingest_more(config, data, write("again", [1, 9, 3, 3], [0, 5, -1, 7]))
    with pytest.raises(DataError, match=r"expected numbers as int64 .*files\.order is a column of"):
        ingest_more(config, data, write("words", [1, 1, 2, 4], [*"abcd"]))


def test_more_with_a_user_it_does_not_describe_is_refused(ml_1m, tmp_path):
    config, data = IngestConfig(source="ml-1m", path=ml_1m), tmp_path / "data"
    ingest(config, data)
    day = write_files(tmp_path / "day", {**DAY, "users.dat": DAY["users.dat"][:1]})
    with pytest.raises(DataError, match=r"line 2, user_id: 4; expected a user of users\.dat"):
        ingest_more(config, data, day)


def test_where_there_can_be_no_more_is_said(tmp_path):
    user, item = pa.table({"user_id": [1]}), pa.table({"item_id": [1]})
    Tables(user.append_column("item_id", item[0]), user, item).write(tmp_path)
    with pytest.raises(DataError, match="source synthetic has no new data"):
        ingest_more(IngestConfig(source="synthetic"), tmp_path, tmp_path)
    fixed = FilesConfig(interactions=tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: ingest\.files has an absolute path"):
        ingest_more(IngestConfig(source="files", files=fixed), tmp_path, tmp_path)


def test_synthetic_needs_no_path_and_says_what_it_is(tmp_path):
    config = IngestConfig(
        source="synthetic", synthetic={"users": 30, "items": 100, "interactions": 700}
    )
    report = ingest(config, tmp_path)
    assert report.synthetic and str(report).startswith("synthetic data: ")
    assert len(pd.read_parquet(tmp_path / "users.parquet")) == report.users == 30


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(ValidationError, match="sorce"):
        IngestConfig(source="ml-1m", sorce="x")
    with pytest.raises(ValidationError, match="ml-2m"):
        IngestConfig(source="ml-2m")


@pytest.mark.parametrize("source", ["ml-1m", "files"])
def test_a_source_without_its_setting_says_which(source, tmp_path):
    with pytest.raises(DataError, match=r"`path`|`files`"):
        ingest(IngestConfig(source=source), tmp_path)


def test_detects_folders_zips_and_prefers_ml_1m(ml_1m, ml_100k, tmp_path):
    assert detect_source(ml_1m) == ("ml-1m", ml_1m)
    assert detect_source(ml_100k) == ("ml-100k", ml_100k)
    assert detect_source(tmp_path) == ("ml-1m", ml_1m)
    shutil.rmtree(ml_1m)
    assert detect_source(tmp_path) == ("ml-100k", ml_100k)
    shutil.rmtree(ml_100k)
    assert detect_source(tmp_path) is None
    assert detect_source(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["ml-1m", "ml-100k"])
def test_detects_a_zip_inside_the_folder_and_a_zip_itself(request, tmp_path, name):
    folder = request.getfixturevalue(name.replace("-", "_"))
    path = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{name}/{file.name}")
    shutil.rmtree(folder)
    assert detect_source(tmp_path) == detect_source(path) == (name, path)
    report = ingest(IngestConfig(source=name, path=tmp_path), tmp_path / "out")
    assert report.items == 3


def test_a_source_can_be_chosen_where_both_lie(ml_1m, ml_100k, tmp_path):
    report = ingest(IngestConfig(source="ml-100k", path=tmp_path), tmp_path / "out")
    assert (report.source, report.interactions) == ("ml-100k", 3)


def test_a_folder_with_the_files_of_two_data_sets_is_refused(ml_1m, ml_100k):
    for file in ml_100k.iterdir():
        file.rename(ml_1m / file.name)
    with pytest.raises(DataError, match=r"files of MovieLens-1M .* and MovieLens-100K .* of its"):
        detect_source(ml_1m)


def test_an_incomplete_folder_is_recognised_so_that_reading_can_say_what_is_missing(ml_1m):
    (ml_1m / "users.dat").unlink()
    assert detect_source(ml_1m) == ("ml-1m", ml_1m)


class ThreePairs(Source):
    """The smallest source: a folder with the file pairs.txt."""

    name = "three-pairs"
    contents = "three pairs (pairs.txt)"

    @classmethod
    def recognise(cls, path):
        return path if (path / "pairs.txt").is_file() else None

    def files(self):
        return [self.path / "pairs.txt"]

    def read(self, progress=None, on_message=ignore):
        on_message("three pairs were read")
        ids = {"user_id": [1, 1, 2], "item_id": [5, 6, 5]}
        users, items = pa.table({"user_id": [1, 2]}), pa.table({"item_id": [5, 6]})
        return Tables(pa.table(ids), users, items)

    def read_update(self, folder, id_types, progress=None, on_message=ignore):
        return {"items": pa.table({"item_id": [7]})}


def test_a_new_source_is_one_class_that_is_registered(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, ThreePairs.name, ThreePairs)
    (tmp_path / "pairs.txt").touch()
    assert detect_source(tmp_path) == ("three-pairs", tmp_path)
    assert "three pairs (pairs.txt)" in detectable()
    config, data, messages = (
        IngestConfig(source="three-pairs", path=tmp_path),
        tmp_path / "data",
        [],
    )
    assert str(ingest(config, data, on_message=messages.append)).startswith("three-pairs: 3 inter")
    assert messages == ["three pairs were read"]
    assert source_files(config) == [tmp_path / "pairs.txt"]
    day = ingest_more(config, data, tmp_path)
    assert day.appended == 0 and day.merged.items["item_id"].to_pylist() == [5, 6, 7]


@pytest.mark.parametrize("source", SOURCES.values())
def test_a_registered_source_has_its_own_name_and_is_listed_if_it_can_be_detected(source):
    assert SOURCES[source.name] is source
    assert bool(source.contents) == (source.recognise.__func__ is not Source.recognise.__func__)


def test_importing_starts_no_heavy_library():
    code = (
        "import sys, twotower.workflows.ingest, twotower.workflows.split;"
        "import twotower.workflows.sources.movielens.download;"
        "heavy = {'tensorflow', 'nvtabular', 'merlin', 'dask', 'requests'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
