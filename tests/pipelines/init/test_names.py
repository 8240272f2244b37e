"""What names of columns say, in several languages and conventions."""

from __future__ import annotations

import pytest

from twotower.pipelines.init.names import has_role, id_evidence, tokens


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("userId", ("user", "id")),
        ("CustomerID", ("customer", "id")),
        ("itemid", ("item", "id")),
        ("Kundennummer", ("kunden", "nummer")),
        ("Artikel-Nr.", ("artikel", "nr")),
        ("商品编号", ("商品", "编号")),
        ("user_id2", ("user", "id")),
        ("xyz", ("xyz",)),
        ("", ()),
    ],
)
def test_names_are_split_into_words(name, words):
    assert tokens(name) == words


USERS = ["user_id", "CustomerID", "visitorid", "Kundennummer", "member_no", "用户编号", "clientId"]
ITEMS = ["item_id", "StockCode", "asin", "Artikelnr", "movie.id", "business_id", "商品编号", "sku"]
NEITHER = ["user_age", "product_category", "order_id", "InvoiceNo", "price", "user_item_score", ""]


@pytest.mark.parametrize("name", USERS)
def test_names_of_users(name):
    assert id_evidence(name, "user") >= 3 and id_evidence(name, "item") == 0


@pytest.mark.parametrize("name", ITEMS)
def test_names_of_items(name):
    assert id_evidence(name, "item") >= 3 and id_evidence(name, "user") == 0


@pytest.mark.parametrize("name", NEITHER)
def test_attributes_and_orders_are_no_ids(name):
    assert id_evidence(name, "user") == id_evidence(name, "item") == 0


def test_a_marked_name_is_surer_than_a_plain_one_and_a_weak_word_less_sure():
    ranked = ["customer_id", "customer", "customer_unique_key_x", "session_id", "session"]
    evidence = [id_evidence(name, "user") for name in ranked]
    assert evidence == sorted(evidence, reverse=True) and evidence[-1] > 0


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("InvoiceDate", "time"),
        ("bestelldatum", "time"),
        ("stars", "rating"),
        ("Menge", "count"),
        ("评分", "rating"),
        ("behavior_type", "event"),
        ("unit_price", "money"),
    ],
)
def test_roles(name, role):
    assert has_role(name, role)
    assert not has_role("x7", role)
