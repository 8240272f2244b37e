"""A made-up file of orders, as a small shop exports it: text ids, AM/PM times, repeated orders.

No row belongs to a real person. The tastes are planted: each customer buys mostly in two of the
categories and at one of three price levels, and popular products are bought more often.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

START = pd.Timestamp("2024-01-02 08:00")
CATEGORIES = (
    "Bakery",
    "Books",
    "Coffee",
    "Games",
    "Garden",
    "Kitchen",
    "Office",
    "Outdoor",
    "Pets",
    "Snacks",
    "Tea",
    "Toys",
)
PRICES = (4.0, 15.0, 60.0)
"""Median price of each price level."""


def make_orders(
    rows: int = 20_000,
    customers: int = 1_500,
    products: int = 600,
    repeated: float = 0.3,
    days: int = 330,
    seed: int = 16,
) -> pd.DataFrame:
    """Draw the orders of a small shop.

    Parameters
    ----------
    rows : int
    customers, products : int
        How many there may be; a few never occur.
    repeated : float
        Share of the rows whose customer has bought the product before.
    days : int
        Length of the period.
    seed : int

    Returns
    -------
    DataFrame
        customer ("C00680"), product ("SKU-0016"), ordered ("05/13/2024 03:15 PM"), category and
        price, in the order of time. The category of 2 % of the products and the price of 1 % of
        the rows are missing.
    """
    draw = np.random.default_rng(seed)
    category = draw.integers(len(CATEGORIES), size=products)
    level = draw.integers(len(PRICES), size=products)
    price = np.round(np.array(PRICES)[level] * draw.lognormal(sigma=0.25, size=products), 2)
    popularity = 1 / (10 + draw.permutation(products))
    activity = draw.lognormal(sigma=0.9, size=customers)
    likes = np.array([draw.choice(len(CATEGORIES), 2, replace=False) for _ in range(customers)])
    budget = draw.integers(len(PRICES), size=customers)

    buyer = draw.choice(customers, size=rows, p=activity / activity.sum())
    bought: dict[int, list[int]] = {}
    chosen = np.empty(rows, np.int64)
    # The first row of a customer cannot repeat one.
    again = draw.random(rows) < repeated * rows / max(rows - customers, 1)
    for row, customer in enumerate(buyer.tolist()):
        before = bought.setdefault(customer, [])
        if (again[row] and before) or len(before) == products:
            chosen[row] = before[draw.integers(len(before))]
            continue
        fits = np.isin(category, likes[customer])
        weight = popularity * np.where(fits, 12.0, 1.0)
        weight *= np.where(level == budget[customer], 4.0, 1.0)
        weight[before] = 0
        chosen[row] = draw.choice(products, p=weight / weight.sum())
        before.append(int(chosen[row]))

    minutes = np.sort(draw.integers(days * 24 * 60, size=rows))
    named = np.array(CATEGORIES, dtype=object)[category]
    named[draw.random(products) < 0.02] = None
    paid = np.where(draw.random(rows) < 0.01, np.nan, price[chosen])
    return pd.DataFrame(
        {
            "customer": [f"C{each:05d}" for each in buyer],
            "product": [f"SKU-{each:04d}" for each in chosen],
            "ordered": (START + pd.to_timedelta(minutes, unit="min")).strftime("%m/%d/%Y %I:%M %p"),
            "category": named[chosen],
            "price": paid,
        }
    )
