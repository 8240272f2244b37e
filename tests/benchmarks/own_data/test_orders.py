"""The made-up orders have the shape that they promise."""

from __future__ import annotations

import pandas as pd

from benchmarks.own_data.orders import make_orders


def test_ids_times_repeats_and_features():
    orders = make_orders(rows=4_000, customers=300, products=120)
    assert list(orders) == ["customer", "product", "ordered", "category", "price"]
    assert orders["customer"].str.fullmatch(r"C\d{5}").all()
    assert orders["product"].str.fullmatch(r"SKU-\d{4}").all()
    assert orders["ordered"].str.fullmatch(r"\d\d/\d\d/2024 \d\d:\d\d [AP]M").all()
    times = pd.to_datetime(orders["ordered"], format="%m/%d/%Y %I:%M %p")
    assert times.is_monotonic_increasing and (times - times.iloc[0]).dt.days.max() > 300
    assert 0.28 < orders.duplicated(["customer", "product"]).mean() < 0.32
    by_product = orders.groupby("product")
    assert (by_product["category"].nunique() <= 1).all()
    assert (by_product["price"].nunique() == 1).all()
    assert 0 < orders["category"].isna().mean() < 0.1
    assert 0 < orders["price"].isna().mean() < 0.02


def test_the_seed_decides():
    small = {"rows": 300, "customers": 40, "products": 30}
    assert make_orders(**small).equals(make_orders(**small))
    assert not make_orders(**small).equals(make_orders(**small, seed=1))


def test_customers_have_tastes():
    """More than half of a customer's orders are in two of the twelve categories."""
    orders = make_orders(rows=4_000, customers=300, products=120)
    counts = orders.groupby(["customer", "category"]).size()
    two = counts.groupby("customer").nlargest(2).groupby(level=0).sum()
    all_orders = counts.groupby("customer").sum()
    many = all_orders >= 10
    assert (two / all_orders)[many].mean() > 0.55
