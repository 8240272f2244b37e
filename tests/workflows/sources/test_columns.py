"""Which ids are accepted, and that they are kept as given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflows.sources.conftest import PAIRS, read
from twotower.workflows.errors import DataError
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.update.more import ingest_more

UUIDS = ["9f1c2d3e-0a1b-4c5d-8e9f-00112233aabb", "00000000-0000-4000-8000-000000000000"]


@pytest.mark.parametrize(
    "ids, kind",
    [
        (["007", "7", "7"], "string"),
        (["Zoë", "zoë", "数"], "string"),
        ([*UUIDS, UUIDS[0]], "string"),
        ([" 1", "1", "1 "], "string"),
        ([-5, 2**63 - 1, 2**53 + 1], "int64"),
        (np.array([2**64 - 2, 2**63, 0], np.uint64), "uint64"),
        (np.array([7, 8, 255], np.uint8), "int64"),
        (pd.Categorical(["b", "a", "b"], categories=["", "b", "a"]), "string"),
    ],
)
def test_ids_are_read_and_written_as_given(ids, kind, tmp_path):
    """Codes are distinct where ids are, and decode to the ids of the file."""
    log = PAIRS.assign(user_id=ids)
    log.to_parquet(tmp_path / "log.parquet")
    config = FilesConfig(interactions="log.parquet")
    ingest(IngestConfig(source="files", path=tmp_path, files=config), tmp_path / "data")
    users = RunIds.read(tmp_path / "data").users
    assert str(users.type) == kind
    codes = pd.read_parquet(tmp_path / "data" / "interactions.parquet")["user_id"]
    assert codes.dtype == np.int64
    assert users.decode(codes.to_numpy()).tolist() == list(ids)
    table = pd.read_parquet(tmp_path / "data" / "users.parquet")["user_id"]
    assert table.is_monotonic_increasing and set(table) == set(codes)
    assert len(table) == len(set(ids))


@pytest.mark.parametrize(
    "before, ids, message",
    [
        (
            ["07", "8", "8"],
            [7, 8, 8],
            r"row 1, column user_id: 7 \(int64\), .* are text; .* string",
        ),
        ([7, 8, 8], ["7", "8", "8"], r"row 1, .*: '7' \(string\), .* are whole numbers; .* int64"),
        (
            [7, 8, 8],
            np.array([7, 2**63 + 1, 8], np.uint64),
            r"row 2, .*: 9223372036854775809 \(uint64\), .* are whole numbers",
        ),
        (np.array([7, 8, 8], np.uint64), [7, -1, 8], r"row 2, .*: -1 \(int64\), .* are unsigned"),
    ],
)
def test_a_day_with_ids_of_another_kind_is_refused(before, ids, message, tmp_path):
    config = FilesConfig(interactions="log.parquet", duplicates="keep_last")
    config = IngestConfig(source="files", path=tmp_path, files=config)
    PAIRS.assign(user_id=before).to_parquet(tmp_path / "log.parquet")
    ingest(config, tmp_path / "data")
    day = tmp_path / "day"
    day.mkdir()
    PAIRS.assign(user_id=ids).to_parquet(day / "log.parquet")
    with pytest.raises(DataError, match=message):
        ingest_more(config, tmp_path / "data", day)


def test_a_day_may_store_the_same_integers_in_another_type(tmp_path):
    config = FilesConfig(interactions="log.parquet", duplicates="keep_last")
    config = IngestConfig(source="files", path=tmp_path, files=config)
    PAIRS.to_parquet(tmp_path / "log.parquet")
    ingest(config, tmp_path / "data")
    day = tmp_path / "day"
    day.mkdir()
    PAIRS.astype({"user_id": "uint64", "item_id": "int8"}).to_parquet(day / "log.parquet")
    assert ingest_more(config, tmp_path / "data", day) is None


def test_ids_that_floats_have_rounded_are_refused(tmp_path):
    exact = [2**60 + 1, None, 2**60 + 3]
    log = PAIRS.assign(user_id=pd.Series(exact, dtype="float64").fillna(2.0))
    with pytest.raises(DataError, match=r"These ids are rounded, .*: in pandas read them as"):
        read(tmp_path, log)
    log = PAIRS.assign(user_id=pd.array(exact, dtype="Int64"))
    tables, messages = read(tmp_path, log)
    assert tables.users["user_id"].to_pylist() == [2**60 + 1, 2**60 + 3]
    path = tmp_path / "log.parquet"
    assert messages == [
        f"1 of 3 rows of {path} have no user_id, the first at {path}, row 2; these rows are left "
        "out"
    ]
