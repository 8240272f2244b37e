"""Made-up tables in the shapes that people have, with the names that public data sets use."""

from __future__ import annotations

import numpy as np
import pandas as pd

ROWS, USERS, ITEMS = 3_000, 200, 80
_first = np.random.default_rng(0)
USER = _first.integers(USERS, size=ROWS)
ITEM = _first.zipf(1.5, size=ROWS) % ITEMS
SECONDS = 1_650_000_000 + np.sort(_first.integers(300 * 86_400, size=ROWS))
TIMES = pd.to_datetime(SECONDS, unit="s")
GROUP = np.array(list("ABCDEF"))[ITEM % 6]
PRICE = (ITEM * 1.37 + 2).round(2)
STARS = _first.integers(1, 6, size=ROWS)


def _draw(seed: int) -> np.random.Generator:
    """Random numbers that are the same in whatever order the tables are made."""
    return np.random.default_rng(seed)


def texts(pattern: str, numbers: np.ndarray) -> list[str]:
    return [pattern.format(number) for number in numbers.tolist()]


def each_row(pattern: str) -> list[str]:
    return texts(pattern, np.arange(ROWS))


def retail() -> pd.DataFrame:
    """Invoices of a wholesaler: returns have negative quantities."""
    return pd.DataFrame(
        {
            "InvoiceNo": texts("{}", 536_000 + np.arange(ROWS) // 3),
            "StockCode": texts("{}A", 85_000 + ITEM),
            "Description": texts("WHITE HANGING HEART {} T-LIGHT", ITEM),
            "Quantity": _draw(1).integers(-2, 20, size=ROWS),
            "InvoiceDate": TIMES.strftime("%m/%d/%Y %H:%M"),
            "UnitPrice": PRICE,
            "CustomerID": USER + 12_000,
            "Country": np.array(["United Kingdom", "France", "Germany"])[USER % 3],
        }
    )


def events() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "timestamp": SECONDS * 1000,
            "visitorid": USER,
            "event": _draw(2).choice(
                ["view", "addtocart", "dislike"], p=[0.9, 0.07, 0.03], size=ROWS
            ),
            "itemid": ITEM,
            "transactionid": np.where(_draw(3).random(ROWS) < 0.03, 1.0, np.nan),
        }
    )


def marketplace() -> pd.DataFrame:
    """Each order has a customer_id of its own; customer_unique_id is the person."""
    order = USER * 100 + SECONDS // (30 * 86_400) % 100
    return pd.DataFrame(
        {
            "order_id": texts("o{}", order),
            "customer_id": texts("c{}", order),
            "customer_unique_id": texts("u{}", USER),
            "product_id": texts("p{}", ITEM),
            "seller_id": texts("s{}", ITEM % 9),
            "order_purchase_timestamp": TIMES.strftime("%Y-%m-%d %H:%M:%S"),
            "order_delivered_customer_date": (TIMES + pd.Timedelta("5D")).strftime("%Y-%m-%d"),
            "review_score": STARS,
        }
    )


def reviews() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "rating": STARS.astype(float),
            "title": each_row("very good thing number {}"),
            "text": each_row("I like it because it does what it says on page {}"),
            "images": each_row("http://shop.org/{}.jpg"),
            "asin": texts("B00{:05d}", ITEM),
            "parent_asin": texts("B00{:05d}", ITEM // 2),
            "user_id": texts("AG{:05d}", USER),
            "timestamp": SECONDS * 1000,
            "helpful_vote": _draw(4).integers(0, 30, size=ROWS),
        }
    )


def german() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Bestellnummer": np.arange(ROWS) // 3,
            "Kundennummer": texts("{:05d}", USER),
            "Artikelnummer": texts("{:05d}", ITEM),
            "Bestelldatum": TIMES.strftime("%d.%m.%Y %H:%M"),
            "Menge": _draw(5).integers(1, 5, size=ROWS),
            "Preis": [text.replace(".", ",") for text in texts("{:.2f}", PRICE)],
            "Kategorie": GROUP,
            "Zahlungsart": _draw(6).choice(["Rechnung", "Karte"], size=ROWS),
        }
    )


def chinese() -> pd.DataFrame:
    names = ["用户编号", "商品编号", "评分", "时间", "类别"]
    columns = [USER + 10_000, ITEM + 500, STARS, TIMES.strftime("%Y-%m-%d %H:%M:%S"), GROUP]
    return pd.DataFrame(dict(zip(names, columns, strict=True)))


def personal() -> pd.DataFrame:
    """A shop that exports more than a model should see."""
    return pd.DataFrame(
        {
            "customer_email": texts("u{}@mail.com", USER),
            "customer_name": texts("Ann{0} Bo{0}", USER),
            "phone": texts("+49 170 {:06d}", USER),
            "city": np.array(["Rome", "Bonn"])[USER % 2],
            "sku": texts("S{}", ITEM),
            "product_name": texts("Blue Chair {}", ITEM),
            "brand": GROUP,
            "bought_at": TIMES,
            "shipped_at": TIMES + pd.Timedelta("2D"),
            "member_since": pd.to_datetime(1_500_000_000 + USER * 86_400, unit="s"),
            "currency": "EUR",
            "note": np.where(_draw(7).random(ROWS) < 0.9, None, "please ring the bell twice"),
            "channel": _draw(8).choice(["web", "app"], size=ROWS),
        }
    )


ALL = {
    each.__name__: each
    for each in (retail, events, marketplace, reviews, german, chinese, personal)
}
