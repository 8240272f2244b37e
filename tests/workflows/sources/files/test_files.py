"""Folders, patterns and several files as one table; damaged files."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.sources.conftest import DATES, PAIRS, SECONDS, column, read
from twotower.workflows.errors import DataError
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.files.source import FilesSource


def test_a_column_without_a_name_is_refused_until_it_has_one(tmp_path):
    log = PAIRS.assign(**{"": ["a", "b", "b"]})
    with pytest.raises(DataError, match=r"log\.parquet, column '': a column needs a name; give it"):
        read(tmp_path, log, user_features=[""])
    tables, _ = read(tmp_path, log, user_features=["city"], columns={"city": ""})
    assert tables.users["city"].to_pylist() == ["a", "b"]


def test_times_in_one_file_and_numbers_in_another_are_not_mixed(tmp_path):
    (tmp_path / "parts").mkdir()
    PAIRS.assign(timestamp=DATES).to_parquet(tmp_path / "parts" / "a.parquet")
    PAIRS.assign(timestamp=SECONDS * 1000).to_parquet(tmp_path / "parts" / "b.parquet")
    settings = FilesConfig(interactions="parts", keep=["timestamp"], duplicates="keep_all")
    with pytest.raises(DataError, match=r"column timestamp: int64, but .*a\.parquet has times"):
        FilesSource(tmp_path, settings).read()


def test_a_file_without_any_value_of_a_column_takes_the_type_of_the_others(tmp_path):
    (tmp_path / "parts").mkdir()
    pq.write_table(column(["a", "b"]), tmp_path / "parts" / "a.parquet")
    pq.write_table(column([None, None]), tmp_path / "parts" / "b.parquet")
    config = FilesConfig(interactions="parts", keep=["x"], duplicates="keep_all")
    tables = FilesSource(tmp_path, config).read()
    assert tables.interactions["x"].to_pylist() == ["a", "b", None, None]
    (tmp_path / "parts" / "a.parquet").unlink()
    messages = []
    tables = FilesSource(tmp_path, config).read(on_message=messages.append)
    assert tables.interactions["x"].to_pylist() == [None, None]
    line = f"column x of {tmp_path / 'parts'} has no value in any row; its values are unknown"
    assert messages == [line]


@pytest.mark.parametrize("name", ["a [1]", "b*", "c?"])
def test_folders_mean_themselves_whatever_their_names_have(name, tmp_path):
    folder = tmp_path / name / "x [2]"
    folder.mkdir(parents=True)
    (tmp_path / "a 1").mkdir()
    PAIRS.to_parquet(folder / "log.parquet")
    for path in ("log.parquet", "*.parquet", "."):
        config = FilesConfig(interactions=path)
        assert len(FilesSource(folder, config).read().interactions) == 3
    config = FilesConfig(interactions=folder / "*.parquet")
    assert len(FilesSource(None, config).read().interactions) == 3


@pytest.mark.parametrize("where", ["table.parquet", "*.parquet", ".", "**/*.parquet"])
def test_a_folder_may_be_named_like_a_file(where, tmp_path):
    spark = tmp_path / "table.parquet"
    (spark / "_temporary").mkdir(parents=True)
    (spark / "_SUCCESS").touch()
    (spark / ".part-0.parquet.crc").touch()
    for part, rows in (("part-0", PAIRS[:2]), ("part-1", PAIRS[2:])):
        rows.to_parquet(spark / f"{part}.parquet")
    if where != "**/*.parquet":
        PAIRS.to_parquet(spark / "_temporary" / "part-0.parquet")
    tables = FilesSource(tmp_path, FilesConfig(interactions=where)).read()
    assert tables.interactions["item_id"].to_pylist() == [10, 10, 11]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table(
        [pa.array([1]), pa.array([1]), pa.array([2])], ["user_id", "item_id", "item_id"]
    )
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: 2 columns named item_id; give each a diff"):
        FilesSource(tmp_path, FilesConfig(interactions="log.parquet")).read()


def test_damage_is_reported_wherever_it_is(tmp_path):
    """Bytes changed or the end cut off: the tables are read, or it is a DataError."""
    PAIRS.assign(x=["a", "b", None]).to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    config = FilesConfig(interactions="log.parquet", keep=["x"])
    refused = 0
    damaged = [whole[:length] for length in range(0, len(whole), 200)]
    # The last bytes are the footer: names, types, sizes and places.
    damaged.append(
        whole[: whole.rindex(b"item_id")] + b"\xff" + whole[whole.rindex(b"item_id") + 1 :]
    )
    damaged.append(whole.replace(b"item_id", b"\xfftem_id"))
    damaged += [whole[:p] + b"\xff\xff" + whole[p + 2 :] for p in range(8, len(whole), 23)]
    for data in damaged:
        (tmp_path / "log.parquet").write_bytes(data)
        try:
            FilesSource(tmp_path, config).read()
        except DataError as error:
            assert "log.parquet" in str(error)
            refused += 1
    assert refused > len(damaged) / 3
