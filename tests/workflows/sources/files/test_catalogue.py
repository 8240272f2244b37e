"""Catalogues: a column that says which items are available, and items that are not listed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from twotower.workflows.availability import AVAILABLE, read_available
from twotower.workflows.errors import DataError
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables
from twotower.workflows.update.more import ingest_more

WANTED = Wanted(items=("brand",), categories=frozenset(["brand"]))
ORDERS = "user_id,item_id\n1,SKU-1\n1,SKU-2\n2,SKU-1\n2,SKU-3\n"


def config(folder: Path, **settings: str) -> IngestConfig:
    files = {"interactions": "orders.csv", "items": "items.csv", "header": True, **settings}
    return IngestConfig(source="files", path=folder, files=files)


def written(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def withdrawn(data: Path) -> list[str]:
    codes = Tables.read(data).items["item_id"].to_numpy()[~read_available(data)]
    return RunIds.read(data).items.decode(codes).tolist()


def update(settings: IngestConfig, data: Path, day: Path) -> list[str]:
    """Merge a day into the tables; return the lines about it."""
    lines: list[str] = []
    found = ingest_more(settings, data, day, on_message=lines.append, wanted=WANTED)
    if found is not None:
        found.merged.write(data)
        found.ids.write(data)
    return [line for line in lines if "read as CSV" not in line]


@pytest.mark.parametrize(
    "flags",
    [
        ("true", "false", "true"),
        ("1", "0", "1"),
        ("17", "-1", "2"),
        ("0.5", "0.0", "20.5"),
        ("Yes", "no", ""),
        ("t", " F ", "t"),
        ("", "0", ""),
    ],
)
def test_a_column_withdraws_items(tmp_path, flags):
    items = "item_id,brand,in_stock\n" + "".join(
        f"SKU-{number},a,{flag}\n" for number, flag in enumerate(flags, 1)
    )
    folder, data = written(tmp_path / "raw", orders=ORDERS, items=items), tmp_path / "data"
    lines: list[str] = []
    settings = config(folder, available="in_stock")
    report = ingest(settings, data, on_message=lines.append, wanted=WANTED)
    assert withdrawn(data) == ["SKU-2"]
    assert "1 item withdrawn: in no answer (SKU-2)" in lines
    assert str(report).endswith("3 items (1 withdrawn)")
    assert Tables.read(data).items.column_names == ["item_id", "brand", AVAILABLE]


def test_the_column_may_be_a_feature_too(tmp_path):
    items = "item_id,brand,available\nSKU-1,a,1\nSKU-2,a,0\nSKU-3,b,7\n"
    folder, data = written(tmp_path / "raw", orders=ORDERS, items=items), tmp_path / "data"
    wanted = WANTED._replace(items=("brand", "available"))
    ingest(config(folder, available="available"), data, wanted=wanted)
    table = Tables.read(data).items
    assert table["available"].to_pylist() == [1, 0, 7]
    assert table[AVAILABLE].to_pylist() == [True, False, True]


def test_days_change_the_column(tmp_path):
    items = "item_id,brand,available\nSKU-1,a,1\nSKU-2,a,0\nSKU-3,b,1\n"
    folder, data = written(tmp_path / "raw", orders=ORDERS, items=items), tmp_path / "data"
    settings = config(folder, available="available")
    ingest(settings, data, wanted=WANTED)
    orders = "user_id,item_id\n1,SKU-3\n"
    day = written(tmp_path / "day", orders=orders, items="item_id,brand,available\nSKU-3,b,0\n")
    assert update(settings, data, day) == ["1 item withdrawn: in no answer (SKU-3)"]
    assert withdrawn(data) == ["SKU-2", "SKU-3"], "what the day does not list stays as it was"
    (day / "items.csv").unlink()
    written(day, orders="user_id,item_id\n2,SKU-2\n1,SKU-9\n")
    update(settings, data, day)
    assert withdrawn(data) == ["SKU-2", "SKU-3"], "a sale does not bring an item back"
    (day / "orders.csv").unlink()
    written(day, items="item_id,brand,available\nSKU-2,c,1\n")
    assert update(settings, data, day) == ["1 item available again (SKU-2)"]
    assert Tables.read(data).items["brand"].to_pylist() == ["a", "c", "b", None]


def test_a_complete_catalogue_lists_what_is_available(tmp_path):
    listed = "item_id,brand\nSKU-1,a\nSKU-2,a\nSKU-4,b\n"
    folder, data = written(tmp_path / "raw", orders=ORDERS, items=listed), tmp_path / "data"
    settings = config(folder, catalogue="complete")
    ingest(settings, data, wanted=WANTED)
    assert withdrawn(data) == ["SKU-3"], "it is in the orders only"
    day = written(tmp_path / "day", items="item_id,brand\nSKU-1,a\nSKU-3,b\n")
    assert update(settings, data, day) == [
        "2 items withdrawn: in no answer (SKU-2, SKU-4)",
        "1 item available again (SKU-3)",
    ]
    assert Tables.read(data).items["brand"].to_pylist() == ["a", "a", "b", "b"]
    assert ingest_more(settings, data, day, wanted=WANTED) is None, "the same day again"
    only_orders = written(tmp_path / "orders", orders="user_id,item_id\n2,SKU-2\n3,SKU-1\n")
    assert update(settings, data, only_orders) == []
    assert withdrawn(data) == ["SKU-2", "SKU-4"]


def test_without_the_settings_nothing_is_withdrawn(tmp_path):
    items = "item_id,brand,available\nSKU-1,a,0\n"
    folder, data = written(tmp_path / "raw", orders=ORDERS, items=items), tmp_path / "data"
    ingest(config(folder), data, wanted=WANTED)
    assert withdrawn(data) == []


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ("item_id,brand\nSKU-1,a\n", {"available": "stock"}, "no column stock, which ingest.files"),
        (
            "item_id,brand,stock\nSKU-1,a,yes\nSKU-2,a,maybe\n",
            {"available": "stock"},
            r"items\.csv, line 3, column stock: 'maybe' says neither yes nor no",
        ),
        (
            "item_id,brand,stock\nSKU-1,a,0\nSKU-2,a,0\nSKU-3,a,0\n",
            {"available": "stock"},
            "all 3 items are withdrawn",
        ),
    ],
)
def test_a_wrong_column_is_named(tmp_path, items, settings, message):
    folder = written(tmp_path / "raw", orders=ORDERS, items=items)
    with pytest.raises(DataError, match=message):
        ingest(config(folder, **settings), tmp_path / "data", wanted=WANTED)


def test_lists_of_flags_are_refused(tmp_path):
    folder = written(tmp_path / "raw", orders=ORDERS)
    table = pd.DataFrame({"item_id": ["SKU-1"], "brand": ["a"], "stock": [[1, 0]]})
    table.to_parquet(folder / "items.parquet")
    settings = config(folder, available="stock", items="items.parquet")
    with pytest.raises(DataError, match=r"\[1, 0\] says neither yes nor no"):
        ingest(settings, tmp_path / "data", wanted=WANTED)


def test_the_settings_need_the_file(tmp_path):
    files = {"interactions": "orders.csv", "catalogue": "complete"}
    with pytest.raises(ValueError, match="describe the file `items`; name it"):
        IngestConfig(source="files", path=tmp_path, files=files)
