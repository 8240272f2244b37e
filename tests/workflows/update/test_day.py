"""Days that look like a mistake, and days that look like any other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from twotower.workflows.availability import with_available
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.ids import Ids, RunIds
from twotower.workflows.stored import StoredTables
from twotower.workflows.tables import Tables, merge
from twotower.workflows.update.day import Day, suspicions

FEATURES = FeaturesConfig(user=["city"], item=["brand"], item_numeric=["price"])
N = 200


def tables(ids=range(N), described=None, named=None, rating=4.0, **columns) -> Tables:
    """N users, and items with an interaction each, or one of each of `named`.

    The item of ids[i] has the columns of item described[i], or those that are given.
    """
    ids = list(ids)
    what = ids if described is None else described
    named = ids if named is None else named
    items = {
        "item_id": ids,
        "brand": [f"brand {i % 50}" for i in what],
        "title": [f"title {i}" for i in what],
        "tags": [[i, i + 1] for i in what],
        "price": [5 + (i * 37 % 450) / 10 for i in what],  # 5.0 to 49.9
        **columns,
    }
    interactions = {
        "user_id": pa.array(range(len(named)), pa.int64()),
        "item_id": pa.array(named, pa.int64()),
        "rating": pa.array([rating] * len(named), pa.float32()),
    }
    users = {"user_id": list(range(N)), "city": [f"city {i % 7}" for i in range(N)]}
    return Tables(*(pa.table(part) for part in (interactions, users, items)))


BEFORE = tables(rating=5.0)
PRICES = np.array(BEFORE.items["price"])


def stored(tables: Tables, folder: Path) -> StoredTables:
    tables.write(folder)
    return StoredTables.read(folder)


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> StoredTables:
    return stored(BEFORE, tmp_path_factory.mktemp("before"))


@pytest.fixture
def found(before):
    return partial(suspicions_of, before)


def suspicions_of(
    before: StoredTables, new: Tables, max_changed: float = 0.5, max_shift: float = 3.0
) -> list[str]:
    day = Day(before, new, *merge(before, new), RunIds(Ids(), Ids()))
    return suspicions(day, FEATURES, PositivesConfig(column="rating"), max_changed, max_shift)


def test_numbers_in_another_unit_are_reported_with_the_figures(found):
    low, high = np.quantile(PRICES, [0.01, 0.99])
    middle = np.median(PRICES) * 100
    (text,) = found(tables(price=PRICES * 100))
    assert text.startswith(f"items: column price: the 200 new values have the median {middle:,.6g}")
    assert f"from {PRICES.min() * 100:,.6g} to {PRICES.max() * 100:,.6g}; those before are" in text
    assert f"between {low:,.6g} and {high:,.6g}. " in text
    assert (
        f"outside that range by {(middle - high) / (high - low):,.1f} times its width "
        "(update.max_shift is 3)" in text
    )
    assert found(tables(price=PRICES * 100), max_shift=np.inf) == []
    (text,) = found(tables(ids=[999], price=[2500.0]))  # a new item alone
    assert "the 1 new values have the median 2,500" in text


def test_ratings_on_another_scale_are_reported(found):
    (text,) = found(tables(rating=80.0))
    assert text.startswith("interactions: column rating: the 200 new values have the median 80, ")


def test_ids_that_were_renumbered_are_reported_with_an_example(found):
    renumbered = tables(described=[*range(1, N), 0])
    (text,) = found(renumbered)
    assert text.startswith("items: 200 of 200 known ones have other values than before in half")
    assert "(100%; update.max_changed is 50%), such as item_id 0: brand was 'brand 0', is" in text
    assert found(renumbered, max_changed=1) == []
    half = [*range(1, 121), *range(120, N)]  # 120 of 200
    assert "120 of 200 known ones" in found(tables(described=half))[0]
    assert found(tables(described=half), max_changed=0.6) == []
    # A table that lists all items without any interaction.
    assert "200 of 200 known ones" in found(tables(described=[*range(1, N), 0], named=[]))[0]


def test_a_normal_day_is_like_the_days_before(found):
    everything = list(range(N))
    dearer = PRICES * np.where(np.arange(N) % 25 == 0, 1.3, 1)  # 4 % of the prices
    list_of_changed = everything[:30]
    for day in (
        tables(),
        tables(ids=range(N, N + 50)),  # only new items
        tables(ids=[999], price=[2 * PRICES.max()]),
        tables(price=dearer),
        tables(price=PRICES * 1.05),
        tables(title=[f"new title {i}" for i in everything]),  # one column of four, of all items
        tables(price=[None] * N),
        # What has changed alone, without an interaction: 15 % of the items.
        tables(ids=list_of_changed, described=[i + 1 for i in list_of_changed], named=[]),
        # The same beside interactions of other items, whose rows are as before.
        tables(described=[*range(1, 31), *range(30, N)], named=everything[30:]),
        tables(ids=[3], described=[4]),  # one item described anew
    ):
        assert found(day) == []


def test_what_is_null_or_a_list_is_compared_as_a_value(found, tmp_path):
    nulls = tables(brand=[None] * N, tags=[None] * N, title=[None] * N)
    (text,) = found(nulls)
    assert "such as item_id 0: brand was 'brand 0', is None" in text
    earlier = stored(BEFORE._replace(items=nulls.items), tmp_path)
    day = Day(earlier, nulls, *merge(earlier, nulls), RunIds(Ids(), Ids()))
    assert suspicions(day, FEATURES, PositivesConfig(), 0.5, 3.0) == []


def test_a_catalogue_that_withdraws_most_items_is_reported():
    def withdrawn(count: int) -> list[str]:
        gone = with_available(BEFORE.items, np.arange(N) >= count)
        before = BEFORE._replace(items=with_available(BEFORE.items, np.ones(N, bool)))
        merged = before._replace(items=gone)
        day = Day(before, before._replace(items=gone.slice(0, 0)), merged, 0, RunIds(Ids(), Ids()))
        return suspicions(day, FEATURES, PositivesConfig(), 0.5, 3.0)

    assert withdrawn(100) == []
    (text,) = withdrawn(101)
    assert text.startswith("items: 101 of 200 are withdrawn (50%; update.max_changed is 50%)")


def test_a_withdrawn_item_is_not_another_item(tmp_path):
    """The column is not one of those that show that ids were renumbered."""
    ids = pa.table({"item_id": list(range(N))})
    before = BEFORE._replace(items=with_available(ids, np.ones(N, bool)))
    new = before._replace(items=with_available(ids, np.arange(N) >= 90))
    earlier = stored(before, tmp_path)
    day = Day(earlier, new, *merge(earlier, new), RunIds(Ids(), Ids()))
    assert suspicions(day, FeaturesConfig(user=["city"]), PositivesConfig(), 0.1, 3.0) == [
        "items: 90 of 200 are withdrawn (45%; update.max_changed is 10%). "
        "Is the catalogue complete?"
    ]
