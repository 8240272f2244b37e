"""`twotower init` on files: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.own_data.orders import make_orders
from tests.pipelines.init import shops
from twotower.pipelines.cli import main
from twotower.pipelines.config import load_config
from twotower.workflows.features.checks import check_data
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import ingest
from twotower.workflows.tables import Tables

COMMAS = "user,item\n" + "\n".join(f"u{n % 40},i{n % 30}" for n in range(400))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def orders(folder):
    frame = make_orders(rows=3_000, customers=250, products=90)
    frame.to_csv(folder / "orders.csv", index=False)
    return frame


def call(*arguments):
    return CliRunner().invoke(main, ["init", *arguments])


def refused(*arguments):
    result = call(*arguments)
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return result.output


def test_orders(orders, folder):
    result = call("orders.csv")
    assert result.exit_code == 0, result.output
    assert "wrote twotower.yaml: check it, then `twotower run`" in result.output
    for line in ("interactions", "3,000, 2024-01-02", "assumed:", "user           customer"):
        assert line in result.output
    config = load_config(folder / "twotower.yaml")
    assert str(config.ingest.files.interactions) == "orders.csv"
    assert config.ingest.files.columns == {
        "user_id": "customer",
        "item_id": "product",
        "timestamp": "ordered",
    }
    assert config.features.item == ["category"] and config.features.item_numeric == ["price"]


def test_json(orders):
    result = CliRunner().invoke(main, ["init", "orders.csv", "--json"])
    made = json.loads(result.stdout)
    assert made["config"] == "twotower.yaml" and made["questions"] == []
    assert made["assumed"]["item features"] == "category (categorical), price (numeric)"
    assert made["profile"]["rows"] == 3_000
    assert made["profile"]["repeats"] == orders.duplicated(["customer", "product"]).sum()


def test_an_edited_file_is_never_lost(orders, folder):
    path = folder / "twotower.yaml"
    path.write_text("name: mine\n")
    assert "--force replaces it" in refused("orders.csv")
    assert path.read_text() == "name: mine\n"
    assert call("orders.csv", "--force").exit_code == 0
    assert (folder / "twotower.yaml.old").read_text() == "name: mine\n"
    assert call("orders.csv", "--force").exit_code == 0  # the first one is still kept
    assert (folder / "twotower.yaml.old").read_text() == "name: mine\n"
    assert (folder / "twotower.yaml.old2").read_text() == path.read_text()
    assert call("orders.csv", "--out", "other.yaml").exit_code == 0
    assert load_config(folder / "other.yaml").name == "orders"


def test_what_is_not_clear_is_asked(folder):
    shops.events().to_parquet(folder / "log.parquet")
    result = call("log.parquet")
    assert "answer its 1 question, then `twotower run`" in result.output
    assert "which events count as positives?" in result.output
    assert "# QUESTION: which events" in (folder / "twotower.yaml").read_text()


@pytest.mark.parametrize("shop", shops.ALL)
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_what_is_written_can_be_read(folder, shop, format):
    """Every column that the configuration names is found, and its values suit their use."""
    frame = shops.ALL[shop]()
    name = f"{shop}.{format}"
    frame.to_csv(name, index=False) if format == "csv" else frame.to_parquet(name)
    result = call(name)
    assert result.exit_code == 0, result.output
    config = load_config(folder / "twotower.yaml")
    report = ingest(config.ingest, folder / "data", wanted=config.wanted)
    check_data(folder / "data", config.positives, config.features)
    assert report.users > 100 and report.items > 50
    tables = Tables.read(folder / "data")
    sides = {*tables.users.column_names, *tables.items.column_names}
    assert set(config.features.user) | set(config.features.item) | set(config.show) <= sides


def test_a_table_of_items_with_another_name_for_the_id(orders, folder):
    names = sorted(orders["product"].unique())
    table = pd.DataFrame({"sku": names, "name": [f"Thing {n}" for n in range(len(names))]})
    table["colour"] = ["red", "blue", "green"] * (len(names) // 3)
    table[:-2].to_csv(folder / "items.csv", index=False)
    result = call("orders.csv", "--items", "items.csv")
    assert result.exit_code == 0, result.output
    assert "joined by sku; 97.8% of the items have a row" in result.output
    config = load_config(folder / "twotower.yaml")
    assert config.features.item == ["colour", "category"] and config.show == ["name"]
    ingest(config.ingest, folder / "data", wanted=config.wanted)
    items = Tables.read(folder / "data").items.to_pandas()
    assert items["name"].isna().sum() == 2  # the two products without a row
    assert set(items["colour"].dropna()) == {"red", "blue", "green"}


FILES = {
    "empty.csv": (b"", "no rows"),
    "header.csv": (b"user,item\n", "no rows"),
    "one.csv": (b"user\n1\n2\n", "separator|only one column"),
    "few.csv": (
        COMMAS[:64].rpartition("\n")[0].encode(),
        "too few to learn from. At least 100 rows",
    ),
    "lonely.csv": (b"user,item\n" + b"".join(b"u,i%d\n" % n for n in range(200)), "of 1 users"),
    "binary.csv": (bytes(range(256)) * 40, "NUL|text|UTF-8"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_used(folder, name):
    content, message = FILES[name]
    (folder / name).write_bytes(content)
    output = refused(name)
    assert name in output
    assert any(part in output for part in message.split("|")), output
    assert not (folder / "twotower.yaml").exists()


def test_a_document_with_the_wrong_ending(folder):
    with zipfile.ZipFile(folder / "orders.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<w:document>user, item</w:document>")
    assert "orders.csv" in refused("orders.csv")


def test_a_file_that_is_not_there(folder):
    assert "no-such.csv" in refused("no-such.csv")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + COMMAS.encode(),  # as Excel saves UTF-8
        COMMAS.replace(",", ";").encode(),
        COMMAS.replace(",", "\t").encode(),
        COMMAS.encode("utf-16"),
    ],
    ids=["mark", "semicolons", "tabs", "utf-16"],
)
def test_encodings_and_separators(folder, content):
    (folder / "log.csv").write_bytes(content)
    result = call("log.csv")
    assert result.exit_code == 0, result.output
    columns = load_config(folder / "twotower.yaml").ingest.files.columns
    assert columns == {"user_id": "user", "item_id": "item"}


def test_how_to_read_can_be_said(folder):
    """The values of the first line could be names of columns, and there are no words to tell."""
    lines = [f"k{n % 40}§m{n % 30}" for n in range(400)]
    (folder / "log.csv").write_text("\n".join(lines), encoding="latin-1")
    options = ["--separator", "§", "--no-header", "--encoding", "latin-1"]
    named = ["--user", "column_1", "--item", "column_2"]
    result = call("log.csv", *options, *named)
    assert result.exit_code == 0, result.output
    files = load_config(folder / "twotower.yaml").ingest.files
    assert (files.separator, files.header, files.encoding) == ("§", False, "latin-1")
    assert files.columns == {"user_id": "column_1", "item_id": "column_2"}
    assert "400" in result.output


def test_a_known_data_set_needs_no_init(folder):
    for name in ("ratings.dat", "movies.dat", "users.dat"):
        (folder / name).write_text("1::1::5::978300760\n")
    assert "needs no init: twotower run --data" in refused(str(folder))


def test_columns_that_cannot_be_read_are_left_out_and_named(folder):
    """The index that pandas writes has no name, and exports of APIs have nested objects."""
    frame = make_orders(rows=3_000, customers=250, products=90)
    frame.to_csv(folder / "orders.csv")
    result = call("orders.csv")
    assert result.exit_code == 0, result.output
    assert "orders.csv: column '' is not used: it has no name" in result.output
    assert load_config(folder / "twotower.yaml").ingest.files.columns["user_id"] == "customer"
    frame["meta"] = [{"page": 1}] * len(frame)
    frame.to_json(folder / "orders.jsonl", orient="records", lines=True)
    result = call("orders.jsonl", "--force")
    assert result.exit_code == 0, result.output
    assert "column 'meta' is not used: its values are of type struct<page: int64>" in result.output


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_unsigned_hashes_are_ids(folder, suffix):
    hashes = np.random.default_rng(0).integers(2**64 - 1, size=200, dtype=np.uint64)
    frame = pd.DataFrame(
        {"user_id": hashes[shops.USER % 150], "item_id": hashes[150 + shops.ITEM % 40]}
    )
    frame["segment"] = hashes[shops.USER % 150 % 5]
    frame["time"] = shops.SECONDS.astype(np.uint64)
    getattr(frame, f"to_{suffix}")(folder / f"hashes.{suffix}", index=False)
    result = call(f"hashes.{suffix}")
    assert result.exit_code == 0, result.output
    config = load_config(folder / "twotower.yaml")
    if suffix == "parquet":
        assert "segment: whole numbers beyond 2**63 - 1, which only ids may be" in result.output
    ingest(config.ingest, folder / "data", wanted=config.wanted)
    users = Tables.read(folder / "data").users["user_id"].to_numpy()
    decoded = RunIds.read(folder / "data").users.decode(users)
    assert set(decoded.tolist()) == set(hashes[:150].tolist())


def test_vectors_are_recognised_in_tables_and_beside_them(orders, folder):
    products = np.sort(orders["product"].unique())
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(len(products), 4))
    table = pd.DataFrame(
        {"product": products, "image": [*vectors], "odd": [[0.5], [1.5, 2.0]] * 45}
    )
    table.to_parquet(folder / "products.parquet")
    np.save(folder / "text.npy", vectors[:, :3].astype(np.float32))
    (folder / "text.ids.txt").write_text("".join(f"{each}\n" for each in products))
    np.save(folder / "others.npy", vectors)
    np.save(folder / "others.ids.npy", np.arange(1_000_000, 1_000_000 + len(products)))
    np.save(folder / "alone.npy", vectors)
    result = call("orders.csv", "--items", "products.parquet")
    assert result.exit_code == 0, result.output
    assert "others.npy: not used: its ids are not those of the users or items" in result.output
    assert "alone.npy: the ids of its rows are missing" in result.output
    assert "image (vector)" in result.output
    text = (folder / "twotower.yaml").read_text()
    assert "  vectors: {text: text.npy}" in text and "odd: lists of lists, or lists of num" in text
    config = load_config(folder / "twotower.yaml")
    assert config.features.item_vectors == {"image": 4, "text": 3}
    ingest(config.ingest, folder / "data", wanted=config.wanted)
    items = Tables.read(folder / "data").items
    ids = RunIds.read(folder / "data").items.decode(items["item_id"].to_numpy())
    place = list(ids).index(products[7])
    np.testing.assert_allclose(items["image"][place].as_py(), vectors[7], rtol=1e-6)
    np.testing.assert_allclose(items["text"][place].as_py(), vectors[7, :3], rtol=1e-6)
