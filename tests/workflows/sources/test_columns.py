"""Which ids are accepted, and that the advice for others works."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflows.sources.conftest import PAIRS, read
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, ingest, ingest_more
from twotower.workflows.sources.parquet.config import ParquetConfig


def lower_bits(column: pd.Series) -> pd.Series:
    return (column & (2**63 - 1)).astype("int64")


def hashed(column: pd.Series) -> pd.Series:
    return (pd.util.hash_array(column.to_numpy()) >> 1).astype("int64")


@pytest.mark.parametrize(
    "ids, message, words, advice",
    [
        (["007", "b", "b"], "'007' \\(string\\)", "hash_array(column.to_numpy()) >> 1", hashed),
        ([-7, 2, 2], "row 1, .*: -7; ids must be", "(column & (2**63 - 1))", lower_bits),
        (
            np.array([2**63 + 5, 2, 2], np.uint64),
            "9223372036854775813 is beyond",
            "(column & (2**63 - 1))",
            lower_bits,
        ),
        ([7.0, 2.0, 2.0], r"7\.0 \(double\)", 'astype("int64")', lambda c: c.astype("int64")),
    ],
)
def test_the_way_out_for_ids_works_today_and_tomorrow(ids, message, words, advice, tmp_path):
    """What a message advises is followed, for the first data and for a later day's."""
    log, day = PAIRS.assign(user_id=ids), PAIRS.assign(user_id=ids)[::-1]
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, log)
    assert words in str(raised.value) and "factorize does" not in str(raised.value).replace(
        "which pandas.factorize does not give", ""
    )
    config = ParquetConfig(interactions="log.parquet", duplicates="keep_last")
    config = IngestConfig(source="parquet", path=tmp_path, parquet=config)
    log.assign(user_id=advice(log["user_id"])).to_parquet(tmp_path / "log.parquet")
    ingest(config, tmp_path / "data")
    more = tmp_path / "day"
    more.mkdir()
    day.assign(user_id=advice(day["user_id"])).to_parquet(more / "log.parquet")
    assert ingest_more(config, tmp_path / "data", more) is None, "the same users, in another order"


def test_ids_that_floats_have_rounded_are_refused(tmp_path):
    exact = [2**60 + 1, None, 2**60 + 3]
    log = PAIRS.assign(user_id=pd.Series(exact, dtype="float64").fillna(2.0))
    with pytest.raises(DataError, match=r"These ids are rounded, .*: in pandas read them as"):
        read(tmp_path, log)
    log = PAIRS.assign(user_id=pd.array(exact, dtype="Int64"))
    with pytest.raises(DataError, match=r"row 2, column user_id: null; .* Leave such rows out \(1"):
        read(tmp_path, log)
    tables, _ = read(tmp_path, log.dropna())
    assert tables.users["user_id"].to_pylist() == [2**60 + 1, 2**60 + 3]
