"""A day's files: other formats and gaps, with the types and rows of before."""

from __future__ import annotations

import pandas as pd
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables
from twotower.workflows.update.more import ingest_more

BASE = {
    "orders.csv": "customer,sku,zip\n00042,A,00501\n7,B,10115\n",
    "items.csv": "sku,title,price\nA,Alpha,1.5\nB,Beta,2\n",
}
WANTED = Wanted(users=("zip",), items=("title", "price"))


@pytest.fixture
def base(tmp_path):
    """The configuration, and the folder of the tidy tables."""
    write(tmp_path / "base", BASE)
    files = FilesConfig(
        interactions="orders.csv",
        items="items.csv",
        columns={"user_id": "customer", "item_id": "sku"},
    )
    config = IngestConfig(source="files", path=tmp_path / "base", files=files)
    ingest(config, tmp_path / "data", wanted=WANTED)
    return config, tmp_path / "data"


def write(folder, files):
    folder.mkdir()
    for name, text in files.items():
        if isinstance(text, str):
            (folder / name).write_text(text)
        else:
            text.to_parquet(folder / name)
    return folder


def test_a_day_has_the_types_of_before(base, tmp_path):
    """All ids and zip codes of the day look like numbers."""
    text = "zip,sku,customer\n20095,5,9\n10115,A,7\n"
    day = ingest_more(*base, write(tmp_path / "day", {"orders.csv": text}), wanted=WANTED)
    assert day.ids.users.texts.to_pylist() == ["00042", "7", "9"]
    assert day.merged.users["zip"].to_pylist() == ["00501", "10115", "20095"]
    assert day.merged.items["title"].to_pylist() == ["Alpha", "Beta", None]
    assert [finding.rule for finding in day.findings] == ["remark", "items_without_row"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("orders.jsonl", '{"customer": "9", "sku": "A", "zip": "20095"}\n'),
        ("orders.tsv", "sku\tzip\tcustomer\nA\t20095\t9\n"),
        ("orders.parquet", pd.DataFrame({"sku": ["A"], "zip": ["20095"], "customer": ["9"]})),
    ],
)
def test_a_day_may_be_in_another_format(name, content, base, tmp_path):
    day = ingest_more(*base, write(tmp_path / "day", {name: content}), wanted=WANTED)
    assert day.merged.users["zip"].to_pylist() == ["00501", "10115", "20095"]
    assert len(day.merged.interactions) == 3


def test_a_known_item_keeps_its_row_where_a_day_lacks_it(base, tmp_path):
    files = {
        "orders.csv": "customer,sku,zip\n7,A,10115\n7,C,10115\n",
        "items.csv": "sku,title,price\nC,Gamma,3.5\n",
    }
    day = ingest_more(*base, write(tmp_path / "day", files), wanted=WANTED)
    assert day.merged.items["title"].to_pylist() == ["Alpha", "Beta", "Gamma"]
    assert day.merged.items["price"].to_pylist() == [1.5, 2.0, 3.5]


def test_values_of_two_files_stay_where_a_day_lacks_one_of_them(base, tmp_path):
    config, _ = base
    files = {
        "orders.csv": "customer,sku,zip,shop\n1,A,2,x\n1,B,2,y\n",
        "items.csv": BASE["items.csv"],
    }
    config = config.copy(update={"path": write(tmp_path / "first", files)})
    ingest(config, tmp_path / "mixed", wanted=Wanted(items=("title", "price", "shop")))
    files = {
        "orders.csv": "customer,sku,shop\n7,A,z\n",
        "items.csv": "sku,title,price\nB,Better,2\nC,Gamma,3.5\n",
    }
    day = ingest_more(config, tmp_path / "mixed", write(tmp_path / "day", files))
    items = day.merged.items
    assert items["title"].to_pylist() == ["Alpha", "Better", "Gamma"]
    assert items["shop"].to_pylist() == ["z", "y", None]


def test_a_day_with_a_text_among_numbers_is_refused(base, tmp_path):
    files = {"items.csv": "sku,title,price\nC,Gamma,cheap\n"}
    with pytest.raises(DataError, match="items: column price has string in the new data, but dou"):
        ingest_more(*base, write(tmp_path / "day", files), wanted=WANTED)
    assert RunIds.read(base[1]).items.texts.to_pylist() == ["A", "B"]
    assert Tables.read(base[1]).items.num_rows == 2


def test_a_single_file_has_the_interactions_of_the_day(base, tmp_path):
    """Under any name, with other columns, separators and order; absolute paths do no harm."""
    config, data = base
    absolute = config.files.copy(update={"interactions": tmp_path / "base" / "orders.csv"})
    config = config.copy(update={"files": absolute})
    folder = write(tmp_path / "days", {"monday.csv": "zip;note;sku;customer\n20095;x;C;9\n"})
    day = ingest_more(config, data, folder / "monday.csv", wanted=WANTED)
    assert day.appended == 1 and day.ids.users.texts.to_pylist() == ["00042", "7", "9"]
    assert day.merged.items["title"].to_pylist() == ["Alpha", "Beta", None]
    with pytest.raises(DataError, match=r"ingest\.files has an absolute path"):
        ingest_more(config, data, folder, wanted=WANTED)
    with pytest.raises(DataError, match=r"nothing to add\. Give the files these names, or name a"):
        ingest_more(*base, folder, wanted=WANTED)
