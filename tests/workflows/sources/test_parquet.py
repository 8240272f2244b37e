"""The parquet source: mapping, derived tables, types and duplicates."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, ingest, ingest_more
from twotower.workflows.sources.parquet.config import ParquetConfig
from twotower.workflows.sources.parquet.source import ParquetSource

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


def config(**changes) -> ParquetConfig:
    settings = {
        "interactions": "log.parquet",
        "columns": COLUMNS,
        "keep": ["click", "rating", "timestamp"],
        "user_features": ["city"],
        "item_features": ["price"],
        "duplicates": "keep_all",
        "differing": "keep_last",
    }
    return ParquetConfig(**{**settings, **changes})


@pytest.fixture
def folder(tmp_path):
    ROWS.to_parquet(tmp_path / "log.parquet")
    return tmp_path


def test_columns_are_renamed_typed_and_in_file_order(folder):
    interactions = ParquetSource(folder, config()).read().interactions
    assert interactions.to_pydict() == {
        "user_id": [7, 3, 7, 3],
        "item_id": [20, 10, 10, 10],
        "click": [1, 0, 1, 1],
        "rating": [5.0, 4.0, 3.0, 2.0],
        "timestamp": [1577836800 + day * 86400 for day in range(4)],
    }
    assert [str(t) for t in interactions.schema.types] == 3 * ["int64"] + ["float", "int64"]


def test_without_tables_the_last_row_of_a_user_or_item_wins(folder):
    tables = ParquetSource(folder, config()).read()
    assert tables.users.to_pydict() == {"user_id": [3, 7], "city": [None, "Bari"]}
    assert tables.items.to_pydict() == {"item_id": [10, 20], "price": [8, 5]}
    assert str(tables.items["price"].type) == "int64"


def test_whole_numbers_beside_nulls_are_whole_and_exact(folder):
    ROWS.assign(price=pd.array([5, 2**60 + 1, None, 8], "Int64")).to_parquet(folder / "log.parquet")
    read = (
        ParquetSource(folder, config(keep=["price"], item_features=[])).read().interactions["price"]
    )
    assert read.to_pylist() == [5, 2**60 + 1, None, 8]


def test_keep_last_leaves_the_later_row_of_a_pair(folder):
    interactions = ParquetSource(folder, config(duplicates="keep_last")).read().interactions
    assert interactions["item_id"].to_pylist() == [20, 10, 10]
    assert interactions["rating"].to_pylist() == [5.0, 3.0, 2.0]


def test_given_tables_are_sorted_and_may_use_either_name(folder):
    pd.DataFrame({"user_id": [9, 7, 3], "city": ["x", "y", "z"]}).to_parquet(folder / "u.parquet")
    pd.DataFrame({"sku": [20, 10], "price": [1, 2]}).to_parquet(folder / "i.parquet")
    tables = ParquetSource(folder, config(users="u.parquet", items="i.parquet")).read()
    assert tables.users.to_pydict() == {"user_id": [3, 7, 9], "city": ["z", "y", "x"]}
    assert tables.items.to_pydict() == {"item_id": [10, 20], "price": [2, 1]}
    assert str(tables.items["price"].type) == "int64"


@pytest.mark.parametrize("where", ["parts", "parts/*.parquet"])
def test_a_folder_or_glob_is_read_in_natural_order(folder, where):
    (folder / "parts").mkdir()
    for name, part in (("part.2", ROWS[:1]), ("part.10", ROWS[1:])):
        part.to_parquet(folder / "parts" / f"{name}.parquet")
    tables = ParquetSource(folder, config(interactions=where)).read()
    whole = ParquetSource(folder, config()).read()
    assert [t.to_pydict() for t in tables] == [t.to_pydict() for t in whole]


def test_rows_are_counted_within_their_file(folder):
    (folder / "parts").mkdir()
    ROWS[:3].to_parquet(folder / "parts" / "a.parquet")
    ROWS[3:].to_parquet(folder / "parts" / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, row 1: .* already in .*a\.parquet, row 2"):
        ParquetSource(folder, config(interactions="parts", duplicates="error")).read()


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
    settings = ParquetConfig(
        interactions="log.parquet",
        user_features=["kind"],
        item_features=["genres"],
        differing="keep_last",
    )
    tables = ParquetSource(tmp_path, settings).read()
    assert tables.users.to_pydict() == {"user_id": [1, 2], "kind": ["a", "b"]}
    assert tables.items.to_pydict() == {"item_id": [1], "genres": [["x", "y"]]}


def test_progress_ends_at_its_total(folder):
    seen = []
    ParquetSource(folder, config()).read(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_ali_ccp_sample_in_merlin_names(ali_ccp_parquet, tmp_path):
    user = ["user_profile", "user_gender", "user_age", "user_geography", "user_brands"]
    item = ["item_category", "item_shop", "item_brand", "item_intention"]
    settings = ParquetConfig(
        interactions="train.parquet",
        keep=["click", "conversion"],
        user_features=user,
        item_features=item,
        duplicates="keep_all",
        differing="keep_last",
    )
    source = IngestConfig(source="parquet", path=ali_ccp_parquet, parquet=settings)
    report = ingest(source, tmp_path)
    raw = pd.read_parquet(ali_ccp_parquet / "train.parquet")
    interactions = pd.read_parquet(tmp_path / "interactions.parquet")
    assert report.interactions == len(interactions) == len(raw) == 100
    assert (report.users, report.items) == (raw["user_id"].nunique(), raw["item_id"].nunique())
    assert list(interactions) == ["user_id", "item_id", "click", "conversion"]
    items = pd.read_parquet(tmp_path / "items.parquet").set_index("item_id")
    assert list(items) == item
    assert items.loc[0].to_list() == raw[raw["item_id"] == 0][item].iloc[-1].to_list()


def read(folder, log: pd.DataFrame, **settings):
    """The tables of `log` as interactions.parquet, and what was told."""
    pq.write_table(pa.Table.from_pandas(log, preserve_index=False), folder / "log.parquet")
    told = []
    config = ParquetConfig(interactions="log.parquet", **settings)
    return ParquetSource(folder, config).read(on_message=told.append), told


PAIRS = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [10, 10, 11]})
SECONDS = np.array([1577836800, 1609459199, 1577836801])


@pytest.mark.parametrize(
    "per_second, unit", [(1, None), (10**3, "milliseconds"), (10**6, "micro"), (10**9, "nano")]
)
def test_numbers_of_another_unit_become_seconds_and_that_is_told(per_second, unit, tmp_path):
    log = PAIRS.assign(timestamp=SECONDS * per_second)
    tables, told = read(tmp_path, log, keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == SECONDS.tolist()
    assert len(told) == (unit is not None)
    if unit:
        assert told[0].startswith(f"column timestamp: the numbers are read as {unit}")
        assert told[0].endswith(f"{SECONDS[1] * per_second}, is 2020-12-31 23:59:59")


def test_places_in_a_sequence_are_times_and_that_is_told(tmp_path):
    tables, told = read(tmp_path, PAIRS.assign(timestamp=[0, 18518, 1]), keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == [0, 18518, 1]
    line = "the numbers are read as seconds since 1970; the largest, 18518, is 1970-01-01 05:08:38"
    assert told == [f"column timestamp: {line}"]


@pytest.mark.parametrize("kind", [float, str, Decimal])
def test_fractions_of_seconds_are_dropped_and_that_is_told(kind, tmp_path):
    values = [kind("1601110000.0"), kind("1601110000.75"), kind("1601110001.5")]
    tables, told = read(tmp_path, PAIRS.assign(timestamp=values), keep=["timestamp"])
    assert tables.interactions["timestamp"].to_pylist() == [1601110000, 1601110000, 1601110001]
    line = "2 numbers have a fraction, which is dropped (times are whole seconds)"
    assert told == [f"column timestamp: {line}"]


@pytest.mark.parametrize("values", [[1.6e9, np.nan, np.nan], ["1.6e9", "nan", None]])
def test_times_that_are_missing_are_counted(values, tmp_path):
    message = (
        r"row 2, column timestamp: null timestamp \(2 such rows\); leave such rows out or give"
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, PAIRS.assign(timestamp=values), keep=["timestamp"])


DATES = [pd.Timestamp(second, unit="s") for second in SECONDS]
TIMES = {
    "zoned": pd.Series(DATES).dt.tz_localize("UTC").dt.tz_convert("America/New_York"),
    "nanoseconds": pd.Series(DATES),
    "digits": SECONDS.astype(str),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_become_seconds(kind, tmp_path):
    tables, told = read(tmp_path, PAIRS.assign(timestamp=TIMES[kind]), keep=["timestamp"])
    assert (tables.interactions["timestamp"].to_pylist(), told) == (SECONDS.tolist(), [])


def test_dates_become_the_seconds_of_their_midnight(tmp_path):
    dates = [date.date() for date in DATES]
    log = PAIRS.assign(timestamp=dates, since=dates)
    tables, _ = read(tmp_path, log, keep=["timestamp", "since"])
    expected = [1577836800, 1609372800, 1577836800]
    assert tables.interactions["timestamp"].to_pylist() == expected
    assert tables.interactions["since"].to_pylist() == expected


@pytest.mark.parametrize(
    "times, message, advice",
    [
        (
            ["01/31/2020 02:00 PM", "02/01/2020 1:00 AM", "02/01/2020 12:00 AM"],
            "Failed to parse string: '02/01/2020 12:00 AM'",
            lambda column: pd.to_datetime(column, utc=True),
        ),
        (
            [20200131, 20200201, 20200201],
            r"row 2, column timestamp: 20200201; it may be a date",
            lambda column: pd.to_datetime(column, format="%Y%m%d"),
        ),
        (
            [20200131140000, 20200201010000, 20200201000000],
            r"row 2, column timestamp: 20200201010000; as seconds .* after the year 2100",
            lambda column: pd.to_datetime(column, format="%Y%m%d%H%M%S"),
        ),
        ([1577836800, 1577836800000, 1], "row 2, column timestamp: 1577836800000", None),
        ([1.5, np.inf, 3.0], "expected numbers as int64 for timestamp", None),
        ([True, False, True], "column timestamp: booleans are not times", None),
        ([1577836800, -1, 5], "row 2, column timestamp: -1; it is before 1970", None),
    ],
)
def test_times_that_are_ambiguous_are_refused_with_what_to_do(times, message, advice, tmp_path):
    log = PAIRS.assign(timestamp=times)
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, log, keep=["timestamp"])
    assert "Store seconds since 1970, or times: in pandas" in str(raised.value)
    if advice:
        tables, _ = read(
            tmp_path, log.assign(timestamp=advice(log["timestamp"])), keep=["timestamp"]
        )
        days = [second // 86400 for second in tables.interactions["timestamp"].to_pylist()]
        assert days == [18292, 18293, 18293]


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
    settings = ParquetConfig(interactions="parts", keep=["timestamp"], duplicates="keep_all")
    with pytest.raises(DataError, match=r"column timestamp: different types .*\(int64, times\)"):
        ParquetSource(tmp_path, settings).read()


def test_only_the_interactions_timestamp_and_rating_have_a_meaning(tmp_path):
    users = pd.DataFrame({"user_id": [1, 2], "timestamp": ["never", None], "rating": ["A", "B"]})
    users.to_parquet(tmp_path / "users.parquet")
    features = {"users": "users.parquet", "user_features": ["timestamp", "rating"]}
    tables, _ = read(tmp_path, PAIRS, **features)
    assert tables.users.to_pydict() == users.to_dict("list")


def test_a_feature_that_differs_from_row_to_row_is_refused_with_a_way_out(tmp_path):
    log = PAIRS.assign(city=["Oslo", "Rome", "Bari"], age=[30, 40, 40], tags=[["a"], ["b"], ["b"]])
    settings = {"user_features": ["age", "tags", "city"], "item_features": ["age"]}
    message = (
        r"log\.parquet, row 2, column city: 'Rome' for user_id 2, which has 'Bari' in a later row; "
        "1 of 2 users have more than one value"
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, log, **settings)
    tables, told = read(tmp_path, log, **settings, differing="keep_last")
    assert tables.users["city"].to_pylist() == ["Oslo", "Bari"]
    assert told == [
        "column city: 1 of 2 users have more than one value; the value of the last row is used, "
        "which may be in the test part",
        "column age: 1 of 2 items have more than one value; the value of the last row is used, "
        "which may be in the test part",
    ]
    log.drop_duplicates("user_id")[["user_id", "age", "tags", "city"]].to_parquet(
        tmp_path / "users.parquet"
    )
    settings["item_features"] = []
    tables, told = read(tmp_path, log, **settings, users="users.parquet")
    assert (tables.users["city"].to_pylist(), told) == (["Oslo", "Rome"], [])


def test_an_unknown_value_beside_a_known_one_differs(tmp_path):
    with pytest.raises(DataError, match="'Rome' for user_id 2, which has no value in a later row"):
        read(tmp_path, PAIRS.assign(city=["Oslo", "Rome", None]), user_features=["city"])
    tables, _ = read(tmp_path, PAIRS.assign(city=["Oslo", None, None]), user_features=["city"])
    assert tables.users["city"].to_pylist() == ["Oslo", None]


@pytest.mark.parametrize(
    "same, other",
    [
        ([[1, None], [1, None]], [2]),
        ([[1.5, float("nan")], [1.5, float("nan")]], [2.5]),
        ([["a", None], ["a", None]], None),
        ([[], []], [1]),
        ([2**60 + 1, 2**60 + 1], None),
        ([0.0, -0.0], 1.5),
        ([None, None], "a"),
    ],
)
def test_equal_values_do_not_differ(same, other, tmp_path):
    log = pa.table({"user_id": [2, 2, 1], "item_id": [10, 11, 10], "x": [*same, other]})
    pq.write_table(log, tmp_path / "log.parquet")
    config = ParquetConfig(interactions="log.parquet", user_features=["x"])
    assert ParquetSource(tmp_path, config).read().users["x"][0].as_py() == other


@pytest.mark.parametrize(
    "one, other", [(2**60, 2**60 + 1), (["a"], ["a", None]), (1.5, 2.5), ("a", "b"), ([1], [])]
)
def test_different_values_differ_beside_nulls(one, other, tmp_path):
    log = pa.table({"user_id": [1, 2, 2], "item_id": [10, 10, 11], "x": [None, one, other]})
    pq.write_table(log, tmp_path / "log.parquet")
    config = ParquetConfig(interactions="log.parquet", user_features=["x"])
    with pytest.raises(DataError, match=r"row 2, column x: .* for user_id 2, which has "):
        ParquetSource(tmp_path, config).read()


@pytest.mark.parametrize(
    "duplicates, told",
    [("keep_last", "only the last row of each pair is kept"), ("keep_all", "all are kept")],
)
def test_repeated_pairs_are_counted(duplicates, told, tmp_path):
    log = pd.concat([PAIRS, PAIRS[:2], PAIRS[:1]])
    tables, lines = read(tmp_path, log, duplicates=duplicates)
    assert len(tables.interactions) == {"keep_last": 3, "keep_all": 6}[duplicates]
    assert len(lines) == 1
    assert lines[0].startswith(f"3 of 6 rows repeat a user_id and item_id; {told}")
    assert read(tmp_path, PAIRS, duplicates=duplicates)[1] == []


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


def column(values, kind=None) -> pa.Table:
    return pa.table({"user_id": [1, 2], "item_id": [1, 2], "x": pa.array(values, kind)})


@pytest.mark.parametrize(
    "table, expected",
    [
        (column([True, None]), [1.0, None]),
        (column([Decimal("1.50"), None]), [1.5, None]),
        (column([Decimal(2**60), Decimal(7)], pa.decimal128(38, 0)), [2**60, 7]),
        (column([b"a", b"b"]), ["a", "b"]),
        (column(["a", ""], pa.large_string()), ["a", ""]),
        (column([["a", None], None], pa.large_list(pa.large_string())), [["a", None], None]),
        (column([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [[1, 2], [3, 4]]),
        (column([[None, 2], [3, None]], pa.list_(pa.int8(), 2)), [[None, 2], [3, None]]),
        (column([1.5, float("nan")]), [1.5, None]),
    ],
)
def test_types_become_tidy(table, expected, tmp_path):
    pq.write_table(table, tmp_path / "log.parquet")
    config = ParquetConfig(interactions="log.parquet", user_features=["x"])
    assert ParquetSource(tmp_path, config).read().users["x"].to_pylist() == expected


def test_a_file_without_any_value_of_a_column_takes_the_type_of_the_others(tmp_path):
    (tmp_path / "parts").mkdir()
    pq.write_table(column(["a", "b"]), tmp_path / "parts" / "a.parquet")
    pq.write_table(column([None, None]), tmp_path / "parts" / "b.parquet")
    config = ParquetConfig(interactions="parts", keep=["x"], duplicates="keep_all")
    tables = ParquetSource(tmp_path, config).read()
    assert tables.interactions["x"].to_pylist() == ["a", "b", None, None]
    (tmp_path / "parts" / "a.parquet").unlink()
    with pytest.raises(DataError, match="column x: no value in any row; leave the column out"):
        ParquetSource(tmp_path, config).read()


@pytest.mark.parametrize("name", ["a [1]", "b*", "c?"])
def test_folders_mean_themselves_whatever_their_names_have(name, tmp_path):
    folder = tmp_path / name / "x [2]"
    folder.mkdir(parents=True)
    (tmp_path / "a 1").mkdir()
    PAIRS.to_parquet(folder / "log.parquet")
    for path in ("log.parquet", "*.parquet", "."):
        config = ParquetConfig(interactions=path)
        assert len(ParquetSource(folder, config).read().interactions) == 3
    config = ParquetConfig(interactions=folder / "*.parquet")
    assert len(ParquetSource(None, config).read().interactions) == 3


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
    tables = ParquetSource(tmp_path, ParquetConfig(interactions=where)).read()
    assert tables.interactions["item_id"].to_pylist() == [10, 10, 11]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table(
        [pa.array([1]), pa.array([1]), pa.array([2])], ["user_id", "item_id", "item_id"]
    )
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: 2 columns named item_id; give each a diff"):
        ParquetSource(tmp_path, ParquetConfig(interactions="log.parquet")).read()


def test_damage_is_told_wherever_it_is(tmp_path):
    """Bytes changed or the end cut off: the tables are read, or it is a DataError."""
    PAIRS.assign(x=["a", "b", None]).to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    config = ParquetConfig(interactions="log.parquet", keep=["x"])
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
            ParquetSource(tmp_path, config).read()
        except DataError as error:
            assert "log.parquet" in str(error)
            refused += 1
    assert refused > len(damaged) / 3
