"""Amazon reviews of three years and four forms: the same tables from each."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.workflows.sources.layouts.conftest import (
    INTERACTIONS,
    RATINGS_2014,
    RATINGS_2018,
    REVIEWS_2018,
    REVIEWS_2023,
    plain,
    write_lines,
)
from twotower.workflows.errors import DataError
from twotower.workflows.ids import RunIds
from twotower.workflows.ingest import IngestConfig, detect_source, ingest
from twotower.workflows.sources.layouts.amazon import Amazon
from twotower.workflows.update.more import ingest_more

HEADER = "user_id,parent_asin,rating,timestamp"
FORMS = {
    "2014 or 2018": ("reviews_Beauty_5.json.gz", REVIEWS_2018),
    "2018 5-core": ("Luxury_Beauty_5.json", REVIEWS_2018),
    "2023": ("All_Beauty.jsonl.gz", REVIEWS_2023),
    "2023 not zipped": ("All_Beauty.jsonl", REVIEWS_2023),
    "ratings of 2014": ("ratings_Beauty.csv", RATINGS_2014),
    "ratings of 2018": ("Luxury_Beauty.csv", RATINGS_2018),
    "ratings of 2023": (
        "All_Beauty.csv.gz",
        [HEADER, *(f"{line[:-10]}{line[-10:]}000" for line in RATINGS_2014)],
    ),
}
PRODUCTS = {
    "2014": [
        "{'asin': '0700099867', 'title': \"It's\", 'brand': 'B', "
        "'categories': [['C', 'D'], ['C']]}",
        "{'asin': 'B000000001', 'title': 'Other'}",
    ],
    "2018": [
        {"asin": "0700099867", "title": "It's", "brand": "B", "category": ["C", "D"]},
        {"asin": "B000000001", "title": "", "category": []},
    ],
    "2023": [
        {"parent_asin": "0700099867", "title": "It's", "store": "B", "categories": ["C", "D"]},
        {"parent_asin": "B000000001", "title": "Other", "store": None, "categories": []},
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_interactions(form, tmp_path):
    name, lines = FORMS[form]
    folder = write_lines(tmp_path / "amazon", {name: lines})
    assert detect_source(folder) == ("amazon", folder)
    assert detect_source(folder / name) == ("amazon", folder / name)
    assert Amazon.shipped_config(folder) == "amazon"
    for path in (folder, folder / name):
        tables = Amazon(path).read()
        assert plain(tables.interactions) == INTERACTIONS
        assert sorted(plain(tables.items)["item_id"]) == ["0700099867", "B00NH13Q8W"]
        assert tables.users.column_names == ["user_id"]


@pytest.mark.parametrize("year", PRODUCTS)
def test_products_have_a_title_a_brand_and_categories(year, tmp_path):
    name, lines = FORMS["2023" if year == "2023" else "2014 or 2018"]
    files = {name: lines, "meta_Beauty.json.gz": PRODUCTS[year]}
    folder = write_lines(tmp_path / "amazon", files)
    assert Amazon.shipped_config(folder) == "amazon-products"
    messages: list[str] = []
    tables = Amazon(folder).read(on_message=messages.append)
    rows = {row["item_id"]: row for row in tables.items.to_pylist()}
    assert rows == {
        "0700099867": {
            "item_id": "0700099867",
            "title": "It's",
            "brand": "B",
            "categories": ["C", "D"],
        },
    }
    assert "1 of 2 products of meta_Beauty.json.gz have no review and are left out" in messages


@pytest.mark.parametrize(
    "lines",
    [
        ["user,item,rating", "1,2,3"],
        ["1,2,5.0,1440547200"],
        ["A1D87F6ZCVE5NK,B00NH13Q8W,7,1440547200"],
        ['{"user": 1, "item": 2}'],
        ['["a"]'],
        [""],
        [],
    ],
)
def test_other_files_are_not_taken_for_reviews(lines, tmp_path):
    for name in ("data.csv", "data.json", "meta_data.json"):
        folder = write_lines(tmp_path / name, {name: lines})
        assert detect_source(folder) is None


def test_a_day_without_products_keeps_those_before(tmp_path):
    base = {"All_Beauty.jsonl": REVIEWS_2023, "meta_All_Beauty.jsonl": PRODUCTS["2023"]}
    path = write_lines(tmp_path / "base", base)
    config, data = IngestConfig(source="amazon", path=path), tmp_path / "data"
    ingest(config, data)
    review = {**REVIEWS_2023[0], "timestamp": 1500000000000, "parent_asin": "B00NEW0000"}
    known = {**REVIEWS_2023[1], "timestamp": 1500000000000, "user_id": "ANEWONE"}
    day = write_lines(tmp_path / "day", {"more.jsonl": [review, known]})
    for place in (day, day / "more.jsonl"):
        merged = ingest_more(config, data, place).merged
        ids = RunIds.read(data).items.extend(pa.array(["B00NEW0000"]))
        titles = zip(
            ids.decode(merged.items["item_id"].to_numpy()), merged.items["title"], strict=True
        )
        assert {item: title.as_py() for item, title in titles} == {
            "0700099867": "It's",
            "B00NH13Q8W": None,
            "B00NEW0000": None,
        }
        assert len(merged.interactions) == 5


def test_what_is_unclear_is_refused(tmp_path):
    two = {"reviews_A.json": REVIEWS_2018, "reviews_B.json": REVIEWS_2018}
    with pytest.raises(DataError, match=r"2 files with reviews: reviews_A\.json, reviews_B\.json"):
        Amazon(write_lines(tmp_path / "two", two)).read()
    reviews = {"reviews_A.json": REVIEWS_2018}
    products = {"meta_A.json": PRODUCTS["2018"], "meta_B.json": PRODUCTS["2018"]}
    with pytest.raises(DataError, match=r"2 files with products: meta_A\.json, meta_B\.json"):
        Amazon(write_lines(tmp_path / "metas", {**reviews, **products})).read()
    damaged = {**reviews, "meta_A.json": [*PRODUCTS["2018"], "{'asin'"]}
    with pytest.raises(DataError, match=r"meta_A\.json, line 3: .*; expected a product"):
        Amazon(write_lines(tmp_path / "damaged", damaged)).read()
    with pytest.raises(DataError, match="no file with interactions"):
        Amazon(write_lines(tmp_path / "only", {"meta_A.json": PRODUCTS["2018"]})).read()


def test_products_that_look_like_numbers_stay_text(tmp_path):
    lines = [line.replace("B00NH13Q8W", "1700099867") for line in RATINGS_2018]
    lines = [line.replace("0700099867", "1800099867") for line in lines]
    tables = Amazon(write_lines(tmp_path / "books", {"Books.csv": lines})).read()
    assert plain(tables.interactions)["item_id"] == ["1700099867", "1800099867", "1800099867"]


def test_a_truncated_gzip_is_refused(tmp_path):
    lines = [
        {**row, "reviewText": f"{number} " * 500} for number, row in enumerate(REVIEWS_2018 * 99)
    ]
    folder = write_lines(tmp_path / "cut", {"reviews_A.json.gz": lines})
    file = folder / "reviews_A.json.gz"
    file.write_bytes(file.read_bytes()[:-200])
    assert detect_source(folder) == ("amazon", folder)
    with pytest.raises(DataError, match=r"reviews_A\.json\.gz"):
        Amazon(folder).read()
