"""Interactions that stay on the disk give the tables that they give in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows import profile, stored
from twotower.workflows.ingest import SOURCES, IngestConfig, ingest
from twotower.workflows.sources.base import Source
from twotower.workflows.stored import MergedRows, StoredRows, StoredTables
from twotower.workflows.tables import Tables

N = 1000


def log(seed: int = 0, rows: int = N) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "user_id": draw.integers(-5, 40, rows),
            "item_id": draw.integers(0, 30, rows) * 2**40,
            "click": pa.array(draw.integers(0, 2, rows), mask=draw.random(rows) < 0.1),
            "part": pa.array(draw.choice(["train", "test"], rows)).dictionary_encode(),
        }
    )


@pytest.fixture
def rows(tmp_path) -> StoredRows:
    table, files = log(), []
    for first in range(0, N, 400):
        files.append(tmp_path / f"{first}.parquet")
        pq.write_table(table.slice(first, 400), files[-1], row_group_size=150)
    return StoredRows(tuple(files))


def test_rows_are_read_in_order_from_all_files(rows):
    assert len(rows) == N and rows.schema.equals(log().schema)
    batches = list(rows.batches(rows=64))
    assert max(map(len, batches)) <= 64
    assert pa.concat_tables(batches).to_pydict() == log().to_pydict()
    columns = pa.concat_tables(rows.batches(["click", "user_id"]))
    assert columns.to_pydict() == log().select(["click", "user_id"]).to_pydict()
    assert rows["part"].to_pylist() == log()["part"].to_pylist()
    some = np.array([0, 399, 400, 999])
    assert rows.take(some).to_pydict() == log().take(some).to_pydict()
    assert len(rows.take(some[:0])) == 0


@pytest.mark.parametrize("most", [1, 1 << 24])
def test_different_values(rows, most, monkeypatch):
    monkeypatch.setattr(stored, "MAX_VALUES", most)
    assert rows.distinct("item_id").tolist() == sorted(set(log()["item_id"].to_pylist()))


def test_merged_rows_leave_out_and_append(rows, tmp_path):
    removed, more = np.array([0, 1, 500, 999]), log(seed=1, rows=7)
    merged = MergedRows(rows, removed, more)
    kept = log().take(np.setdiff1d(np.arange(N), removed))
    expected = pa.concat_tables([kept, more]).to_pydict()
    assert len(merged) == N - 4 + 7
    assert pa.concat_tables(merged.batches(rows=50)).to_pydict() == expected
    written: list[int] = []
    merged.copy(tmp_path / "merged.parquet", written.append)
    assert sum(written) == len(merged)
    assert pq.read_table(tmp_path / "merged.parquet").to_pydict() == expected
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_the_profile_is_that_of_the_rows_in_memory(rows, monkeypatch):
    monkeypatch.setattr(profile, "MAX_PAIRS", 300)  # users are divided into four parts
    table = log()
    users, items = (table[name].to_numpy() for name in ("user_id", "item_id"))
    found = profile.stored_profile(rows, rows.distinct("user_id"), rows.distinct("item_id"))
    assert found == profile.profile(users, items)


class _LargeSource(Source):
    """Rows on the disk, in which some items and users have no row of their own."""

    name = "ml-1m"  # a registered name, which settings can have

    def files(self):
        return []

    def read(self, progress=None, on_message=None):
        self.work.mkdir()
        (self.work / "contexts.parquet").write_bytes(b"more")
        pq.write_table(log(), self.work / "0.parquet")
        return StoredTables(
            StoredRows((self.work / "0.parquet",)),
            pa.table({"user_id": [7, 3], "age": [30, 20]}),
            pa.table({"item_id": [2**41], "brand": [5]}),
            more=(self.work / "contexts.parquet",),
        )

    def read_update(self, folder, id_types, progress=None, on_message=None):
        return {}


def test_ingest_writes_the_tidy_tables_of_stored_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "ml-1m", _LargeSource)
    seen: list[tuple[int, int]] = []
    report = ingest(
        IngestConfig(source="ml-1m"),
        tmp_path / "data",
        lambda done, total: seen.append((done, total)),
        work=tmp_path / "work",
    )
    tables = Tables.read(tmp_path / "data")
    assert tables.interactions.to_pydict() == log().to_pydict()
    users, items = (set(log()[name].to_pylist()) for name in ("user_id", "item_id"))
    assert tables.users["user_id"].to_pylist() == sorted(users)
    assert dict(zip(*tables.users.to_pydict().values(), strict=True)) == {
        user: {7: 30, 3: 20}.get(user) for user in users
    }
    assert tables.items["item_id"].to_pylist() == sorted(items)
    assert (report.users, report.items, report.interactions) == (len(users), len(items), N)
    assert seen[-1] == (N, N)
    assert (tmp_path / "data" / "contexts.parquet").read_bytes() == b"more"
    assert not (tmp_path / "work").exists()
