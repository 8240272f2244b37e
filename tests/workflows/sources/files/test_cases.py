"""Inputs that people have: each is read right, or refused in one sentence that says what to do.

Each case is a folder of small files, settings of `ingest.files`, the wanted columns, and what comes
out: columns of the tidy tables with the ids as given, lines, or the message of the error.
"""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables

File = pd.DataFrame | pa.Table | str | bytes


class Case(NamedTuple):
    """One input.

    `expected` has columns as "table.column": values; `lines` are the starts of the lines that are
    printed; `error` is a pattern.
    """

    files: dict[str, File]
    settings: dict[str, Any]
    wanted: Wanted = Wanted()
    expected: dict[str, list] | None = None
    lines: tuple[str, ...] = ()
    error: str | None = None


LOG = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [10, 10, 11], "timestamp": [5, 6, 7]})
ITEMS = pd.DataFrame({"item_id": [10, 11], "title": ["Ten", "Eleven"], "price": [1.5, 2.5]})


def log(**columns) -> pd.DataFrame:
    return LOG.assign(**columns)


def both(items: File, **changes) -> dict[str, Any]:
    """A case with a log and an item table, of which the title is wanted."""
    given = {
        "files": {"log.parquet": LOG, "items.parquet": items},
        "settings": {"items": "items.parquet"},
        "wanted": Wanted(items=("title",)),
    }
    return {**given, **changes}


CASES: dict[str, Case] = {
    "01 a column named labels": Case(
        {"log.parquet": LOG, "items.parquet": ITEMS.assign(labels=[3, 4])},
        {"items": "items.parquet"},
        Wanted(items=("labels",)),
        {"items.labels": [3, 4]},
    ),
    "02 text ids with leading zeros": Case(
        {"log.csv": "customer,sku\n00042,0016\n7,0016\n"},
        {"columns": {"user_id": "customer", "item_id": "sku"}},
        expected={"interactions.user_id": ["00042", "7"], "items.item_id": ["0016"]},
    ),
    "03 an event per row, repeated": Case(
        {"log.jsonl": '{"user_id": 1, "item_id": 5, "event": "buy"}\n' * 2},
        {},
        Wanted(interactions=("event",), every_row=True),
        {"interactions.event": ["buy", "buy"]},
        ("1 of 2 rows repeat a user_id and item_id; all are kept",),
    ),
    "03 repeated pairs without events": Case(
        {"log.csv": "user_id,item_id\n1,5\n1,5\n2,5\n"},
        {},
        expected={"interactions.user_id": [1, 2]},
        lines=("log.csv: read as CSV", "1 of 3 rows repeat a user_id and item_id; only the last"),
    ),
    "06 parts in another order, with int, float and null": Case(
        {
            "log/a.parquet": pa.table({"user_id": [1], "item_id": [10], "n": [5]}),
            "log/b.parquet": pa.table({"n": [6.0, None], "item_id": [11, 12], "user_id": [2, 3]}),
            "log/c.parquet": pa.table({"n": pa.nulls(1), "item_id": [13], "user_id": [4]}),
        },
        {"keep": ["n"]},
        expected={"interactions.user_id": [1, 2, 3, 4], "interactions.n": [5, 6, None, None]},
    ),
    "06 hive folders": Case(
        {
            "log/year=2023/a.parquet": pa.table({"user_id": [1], "item_id": [10]}),
            "log/year=2024/a.parquet": pa.table({"user_id": [2], "item_id": [10]}),
            "log/_SUCCESS": "",
        },
        {"keep": ["year"]},
        expected={"interactions.year": [2023, 2024]},
    ),
    "06 decimal ids and binary text": Case(
        {
            "log.parquet": pa.table(
                {
                    "user_id": pa.array([decimal.Decimal(2**60 + 1)], pa.decimal128(38, 0)),
                    "item_id": [10],
                    "city": [b"Rom"],
                }
            )
        },
        {"keep": ["city"]},
        expected={"users.user_id": [2**60 + 1], "interactions.city": ["Rom"]},
    ),
    "06 a column that one part lacks": Case(
        {
            "log/a.parquet": pa.table({"user_id": [1], "item_id": [10], "n": [5]}),
            "log/b.parquet": pa.table({"user_id": [2], "item_id": [10]}),
        },
        {"keep": ["n"]},
        expected={"interactions.n": [5, None]},
        lines=("column n: 1 of 2 files lack it, such as log/b.parquet; the values of 1",),
    ),
    "06 numbers in one part and text in another": Case(
        {
            "log/a.parquet": pa.table({"user_id": [1], "item_id": [10]}),
            "log/b.parquet": pa.table({"user_id": ["x"], "item_id": [10]}),
        },
        {},
        error=r"log/b\.parquet, column user_id: string, but .*log/a\.parquet has int64; .* store",
    ),
    "06 CSV parts are typed together": Case(
        {"log/1.csv": "user_id,item_id\n1,10\n", "log/2.csv": "item_id,user_id\n11,x\n"},
        {},
        expected={"interactions.user_id": ["1", "x"], "interactions.item_id": [10, 11]},
    ),
    "12 an image vector": Case(
        {
            "log.parquet": LOG,
            "items.parquet": pa.table({"item_id": [10, 11], "v": [[0.5, 0.25], [1.5, 2.0]]}),
        },
        {"items": "items.parquet"},
        Wanted(items=("v",), vectors={"v": 2}),
        {"items.v": [[0.5, 0.25], [1.5, 2.0]]},
    ),
    "12 an image vector of another length": Case(
        {
            "log.parquet": LOG,
            "items.parquet": pa.table({"item_id": [10, 11], "v": [[0.5, 0.25], [1.5]]}),
        },
        {"items": "items.parquet"},
        Wanted(items=("v",), vectors={"v": 2}),
        error=r"items\.parquet, row 2, item_id 11: a vector of 1 numbers in column v",
    ),
    "21 odd names": Case(
        {
            "log.parquet": log().rename(columns={"user_id": "user.id", "item_id": "item.id"}),
            "items.parquet": pa.table(
                {"item.id": [10, 11], "item": ["a", "b"], "カ [EU]/x": [1, 2]}
            ),
        },
        {"columns": {"user_id": "user.id", "item_id": "item.id"}, "items": "items.parquet"},
        Wanted(items=("item", "カ [EU]/x")),
        {"items.item": ["a", "b"], "items.カ [EU]/x": [1, 2]},
    ),
    "24 unsigned and negative hashes": Case(
        {
            "log.csv": f"user_id,item_id\n{2**64 - 2},-5\n1,{2**62 + 1}\n",
        },
        {},
        expected={
            "interactions.user_id": [2**64 - 2, 1],
            "interactions.item_id": [-5, 2**62 + 1],
        },
    ),
    "24 a hashed category with nulls": Case(
        {"log.parquet": LOG, "items.csv": f"item_id,h\n10,{2**62 + 1}\n11,\n"},
        {"items": "items.csv"},
        Wanted(items=("h",), categories=frozenset(["h"])),
        {"items.h": [2**62 + 1, None]},
    ),
    "25 items without a row": Case(
        **both(
            ITEMS[:1],
            expected={"items.item_id": [10, 11], "items.title": ["Ten", None]},
            lines=(
                "1 of 2 items in the interactions have no row in the table of items, such as 11",
            ),
        )
    ),
    "25 exact doubles": Case(
        **both(
            pd.concat([ITEMS, ITEMS[:1]]),
            expected={"items.item_id": [10, 11], "items.title": ["Ten", "Eleven"]},
            lines=("1 of 3 rows of items.parquet repeat a row of the same item_id with the same",),
        )
    ),
    "25 doubles that differ": Case(
        **both(
            pd.concat([ITEMS, ITEMS[:1].assign(title="X")]),
            expected={"items.item_id": [10, 11], "items.title": ["X", "Eleven"]},
            lines=(
                "1 of 3 rows of items.parquet have the item_id of a later row but other values, "
                "such as "
                "10 in items.parquet, row 1 and items.parquet, row 3; the last row of each is used",
            ),
        )
    ),
    "25 missing and empty titles": Case(
        **both(
            ITEMS.assign(title=[None, ""]),
            expected={"items.title": [None, None]},
            lines=(
                "column title: 1 of 2 texts in items.parquet are empty; they are unknown values",
            ),
        )
    ),
    "rows without an id": Case(
        {"log.csv": "user_id,item_id\n1,10\n,11\n3,\n4,10\n"},
        {},
        expected={"interactions.user_id": [1, 4], "items.item_id": [10]},
        lines=(
            "log.csv: read as CSV",
            "1 of 4 rows of log.csv have no user_id, the first at log.csv, line 3; these rows are",
            "1 of 4 rows of log.csv have no item_id, the first at log.csv, line 4; these rows are",
        ),
    ),
    "rows without a time": Case(
        {"log.csv": "user_id,item_id,day\n1,10,2024-01-31\n2,10,\n"},
        {"columns": {"timestamp": "day"}},
        expected={"interactions.timestamp": [1706659200]},
        lines=("log.csv: read as CSV", "1 of 2 rows of log.csv have no timestamp, the first at"),
    ),
    "ids that pandas made floats": Case(
        {"log.parquet": log(user_id=[1.0, np.nan, 3.0])},
        {},
        expected={"interactions.user_id": [1, 3]},
        lines=(
            "column user_id: floating point numbers that are all whole are read as whole numbers",
            "1 of 3 rows of log.parquet have no user_id",
        ),
    ),
    "floats and booleans as categories": Case(
        {"log.parquet": LOG, "items.parquet": ITEMS.assign(size=[40.0, np.nan], new=[True, False])},
        {"items": "items.parquet"},
        Wanted(items=("size", "new"), categories=frozenset(["size", "new"])),
        {"items.size": [40, None], "items.new": [1, 0]},
        ("column size: floating point numbers that are all whole are read as whole numbers",),
    ),
    "a column without any value": Case(
        **both(
            ITEMS.assign(title=None),
            expected={"items.title": [None, None]},
            lines=(
                "column title of items.parquet has no value in any row; its values are unknown",
            ),
        )
    ),
    "words among numbers": Case(
        {"log.parquet": LOG, "items.csv": "item_id,price\n10,1.5\n11,NA\n"},
        {"items": "items.csv"},
        Wanted(items=("price",)),
        {"items.price": [1.5, None]},
        ("items.csv: read as CSV", "column price of items.csv: 1 of 2 values are words such as NA"),
    ),
    "a feature in the log beside an item table": Case(
        {"log.parquet": log(shop=["a", "a", "b"]), "items.parquet": ITEMS[:1]},
        {"items": "items.parquet"},
        Wanted(items=("title", "shop")),
        {"items.title": ["Ten", None], "items.shop": ["a", "b"]},
    ),
    "a feature that is nowhere": Case(
        {"log.parquet": LOG, "items.parquet": ITEMS},
        {"items": "items.parquet"},
        Wanted(items=("colour",)),
        error=r"no column colour for the items: .*items\.parquet has item_id, title, price; "
        r".*log\.parquet has user_id, item_id, timestamp\. Correct the name under features",
    ),
    "a gzipped German export": Case(
        {
            "log.csv.gz": gzip.compress(
                'Kunde;Artikel;Datum;Größe\n1;"a;b";31.01.2024;1,5\n'.encode("latin-1")
            )
        },
        {
            "columns": {"user_id": "Kunde", "item_id": "Artikel", "timestamp": "Datum"},
            "keep": ["Größe"],
        },
        expected={
            "interactions.item_id": ["a;b"],
            "interactions.timestamp": [1706659200],
            "interactions.Größe": ["1,5"],
        },
    ),
    "no header": Case(
        {"log.tsv": "1\t10\t5\n2\t11\t6\n"},
        {"column_names": {"interactions": ["user_id", "item_id", "n"]}, "keep": ["n"]},
        expected={"interactions.n": [5, 6]},
    ),
    "RecBole's names": Case(
        {"log.inter": "user_id:token\titem_id:token\ttimestamp:float\n1\t10\t1706659200.5\n"},
        {
            "columns": {
                "user_id": "user_id:token",
                "item_id": "item_id:token",
                "timestamp": "timestamp:float",
            }
        },
        expected={"interactions.timestamp": [1706659200]},
    ),
    "a line with too few fields": Case(
        {"log.csv": "user_id,item_id\n1,10\n2\n"},
        {},
        error=r"log\.csv, line 3: 1 fields in '2'; expected 2, separated by ','",
    ),
    "a pair twice, refused": Case(
        {"log.csv": "user_id,item_id\n1,10\n\n1,10\n"},
        {"duplicates": "error"},
        error=r"log\.csv, line 4: user_id 1 and item_id 10 occur already in .*log\.csv, line 2",
    ),
    "nested JSON that is not used": Case(
        {"log.jsonl": json.dumps({"user_id": 1, "item_id": "a", "x": {"y": 1}})},
        {},
        expected={"items.item_id": ["a"]},
    ),
    "nested JSON that is used": Case(
        {"log.jsonl": json.dumps({"user_id": 1, "item_id": "a", "x": {"y": 1}})},
        {"keep": ["x"]},
        error=r"log\.jsonl, column x: type struct<y: int64> is not supported; store numbers, st",
    ),
    "dates and times of Arrow": Case(
        {
            "log.parquet": pa.table(
                {"user_id": [1], "item_id": [1], "timestamp": [datetime.date(2024, 1, 31)]}
            )
        },
        {"keep": ["timestamp"]},
        expected={"interactions.timestamp": [1706659200]},
    ),
}


def write(folder: Path, files: dict[str, File]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            content.to_parquet(path)


def config(folder: Path, case: Case, **settings) -> IngestConfig:
    first = next(iter(case.files))
    files = FilesConfig(interactions=first.partition("/")[0], **case.settings)
    return IngestConfig(source="files", path=folder, files=files, **settings)


def column(folder: Path, name: str) -> list:
    """A column of the tidy tables; ids as given."""
    table, _, field = name.partition(".")
    values = getattr(Tables.read(folder), table)[field]
    sides: dict[str, Callable] = {
        "user_id": RunIds.read(folder).users.decode,
        "item_id": RunIds.read(folder).items.decode,
    }
    return sides[field](values.to_numpy()).tolist() if field in sides else values.to_pylist()


@pytest.mark.parametrize("name", CASES)
def test_it_is_read_right_or_refused_in_a_sentence(name, tmp_path):
    case = CASES[name]
    folder = tmp_path / "data"
    write(folder, case.files)
    lines: list[str] = []
    if case.error is not None:
        with pytest.raises(DataError, match=case.error) as caught:
            ingest(config(folder, case), tmp_path / "out", wanted=case.wanted)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return
    ingest(config(folder, case), tmp_path / "out", None, lines.append, case.wanted)
    assert case.expected is not None
    assert {each: column(tmp_path / "out", each) for each in case.expected} == case.expected
    said = [line.replace(f"{folder}/", "") for line in lines]
    for line in case.lines:
        assert any(each.startswith(line) for each in said), said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["text"] for entry in report["findings"]] == lines


STRICT = [name for name in CASES if name.startswith("25") or name.startswith("rows without")]


@pytest.mark.parametrize(
    "name", [*STRICT, "06 a column that one part lacks", "words among numbers"]
)
def test_strict_refuses_what_a_rule_would_change(name, tmp_path):
    case = CASES[name]
    write(tmp_path / "data", case.files)
    with pytest.raises(DataError, match=r"Correct the data, or set ingest\.strict to false: then"):
        ingest(config(tmp_path / "data", case, strict=True), tmp_path / "out", wanted=case.wanted)
    assert not (tmp_path / "out").exists()
