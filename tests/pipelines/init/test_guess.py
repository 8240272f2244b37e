"""What is guessed from tables of many shapes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.pipelines.init import shops
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.guess import Named


def kinds(features):
    return {feature.name: feature.kind for feature in features}


def test_invoices(guess_of):
    found = guess_of(shops.retail())
    assert found.ids == {"user": "CustomerID", "item": "StockCode"}
    assert found.time.column == "InvoiceDate" and found.time.format == "%m/%d/%Y %H:%M"
    assert np.array_equal(found.time.seconds, shops.SECONDS // 60 * 60)
    assert (found.value.column, found.value.kind, found.value.at_least) == ("Quantity", "count", 1)
    assert "returns" in found.questions["positives"][0]
    assert kinds(found.features.user) == {"Country": "categorical"}
    assert kinds(found.features.item) == {"Description": "text", "UnitPrice": "numeric"}
    assert "order" in found.features.left_out["InvoiceNo"]


def test_events_without_those_that_say_no(guess_of):
    found = guess_of(shops.events())
    assert found.ids == {"user": "visitorid", "item": "itemid"}
    assert np.array_equal(found.time.seconds, shops.SECONDS)
    assert found.value.values == ["view", "addtocart"]
    events = shops.events()["event"]
    assert found.value.share == pytest.approx((events != "dislike").mean(), abs=1e-9)
    assert f"view {(events == 'view').mean():.1%}" in found.questions["positives"][0]
    assert "missing" in found.features.left_out["transactionid"]


def test_a_user_id_that_is_new_in_each_row_is_no_user(guess_of):
    found = guess_of(shops.marketplace())
    assert found.ids == {"user": "customer_unique_id", "item": "product_id"}
    assert "customer_id" in found.questions["ingest"][0]
    assert found.time.column == "order_purchase_timestamp"
    assert found.value.column == "review_score"
    assert kinds(found.features.item) == {"seller_id": "categorical"}
    left = {"order_id", "customer_id", "order_delivered_customer_date"}
    assert left == found.features.left_out.keys()


def test_reviews(guess_of):
    found = guess_of(shops.reviews())
    assert found.ids == {"user": "user_id", "item": "asin"}
    assert (found.value.column, found.value.at_least) == ("rating", 4)
    assert found.value.share == pytest.approx((shops.STARS >= 4).mean())
    assert {"title", "text", "images"} <= found.features.left_out.keys()
    assert [each.name for each in found.features.context] == ["helpful_vote"]


def test_german_headers_leading_zeros_and_decimal_commas(guess_of):
    found = guess_of(shops.german())
    assert found.ids == {"user": "Kundennummer", "item": "Artikelnummer"}
    assert found.time.column == "Bestelldatum"
    assert (found.value.column, found.value.kind) == ("Menge", "count")
    assert found.positives == len(shops.german().drop_duplicates(["Kundennummer", "Artikelnummer"]))
    assert kinds(found.features.item) == {"Kategorie": "categorical"}
    assert "decimal comma" in found.features.left_out["Preis"]
    assert kinds(found.features.context) == {"Zahlungsart": "categorical"}


def test_chinese_headers(guess_of):
    found = guess_of(shops.chinese())
    assert found.ids == {"user": "用户编号", "item": "商品编号"}
    assert (found.time.column, found.value.column) == ("时间", "评分")
    assert kinds(found.features.item) == {"类别": "categorical"}


def test_personal_data_is_left_out_and_said(guess_of):
    found = guess_of(shops.personal())
    assert found.ids == {"user": "customer_email", "item": "sku"}
    assert "e-mail" in " ".join(found.questions["ingest"])
    left = found.features.left_out
    assert "names" in left["customer_name"] and "phone" in left["phone"]
    assert "same value" in left["currency"] and "missing" in left["note"]
    assert found.time.column == "bought_at"
    assert "bought_at is used" in left["shipped_at"] and "of the user" in left["member_since"]
    assert kinds(found.features.user) == {"city": "categorical"}
    assert kinds(found.features.item) == {"brand": "categorical", "product_name": "text"}
    assert found.features.show == ["product_name"]


def test_the_same_table_gives_the_same_guess(guess_of):
    first, second = guess_of(shops.personal()), guess_of(shops.personal())
    assert (first.questions, first.features, first.profile) == (
        second.questions,
        second.features,
        second.profile,
    )


def log(**columns):
    return pd.DataFrame({"a": shops.USER, "b": shops.ITEM, **columns})


def test_columns_without_names_are_refused_with_the_candidates(guess_of):
    with pytest.raises(ConfigError) as refused:
        guess_of(log(c=shops.STARS), where="log.csv")
    message = str(refused.value)
    assert "log.csv" in message and "--user COLUMN --item COLUMN" in message
    assert "a (200 different" in message and "b (80 different" in message


def test_a_named_column_decides_the_rest(guess_of):
    found = guess_of(log(c=shops.GROUP), named=Named(user="a"))
    assert found.ids == {"user": "a", "item": "b"}
    assert "is b the item?" in found.questions["ingest"][0]
    assert kinds(found.features.item) == {"c": "categorical"}


@pytest.mark.parametrize("option", ["user", "item", "time", "value"])
def test_a_named_column_must_exist(guess_of, option):
    with pytest.raises(ConfigError, match=f"no column 'x' .--{option}.; the columns are"):
        guess_of(shops.chinese(), named=Named(**{option: "x"}))


def test_none_switches_time_and_value_off(guess_of):
    found = guess_of(shops.chinese(), named=Named(time="none", value="none"))
    assert found.time is None and found.value is None and found.split.method == "random"


def test_numbers_that_may_be_a_rating_or_a_quantity_are_a_question(guess_of):
    found = guess_of(log(v=shops.STARS).rename(columns={"a": "user", "b": "item"}))
    assert (found.value.column, found.value.kind) == ("v", "unclear")
    assert "what is v" in found.questions["positives"][0]
    assert found.value.at_least is None  # all rows are positives until it is answered


def test_day_and_month_are_chosen_by_the_order_of_the_rows(guess_of):
    month, day = np.sort(shops.USER % 12 + 1), shops.ITEM % 12 + 1
    dates = [f"{a:02d}/{b:02d}/2023" for a, b in zip(month, day, strict=True)]
    frame = log(date=dates).rename(columns={"a": "user", "b": "item"})
    found = guess_of(frame)
    assert found.time.format == "%m/%d/%Y"
    assert "%d/%m/%Y" in found.questions["ingest"][0]
    backwards = [f"{b:02d}/{a:02d}/2023" for a, b in zip(month, day, strict=True)]
    assert guess_of(frame.assign(date=backwards)).time.format == "%d/%m/%Y"


def test_days_as_numbers_and_years_of_two_digits(guess_of):
    days = shops.TIMES.strftime("%Y%m%d").astype(int)
    frame = log(day=days).rename(columns={"a": "user", "b": "item"})
    found = guess_of(frame)
    assert (found.time.column, found.time.format) == ("day", "%Y%m%d")
    assert np.array_equal(found.time.seconds, shops.SECONDS // 86_400 * 86_400)
    texts = guess_of(frame.assign(day=days.astype(str)))  # as in folders, day=20240513
    assert np.array_equal(texts.time.seconds, found.time.seconds)
    month = np.where(days // 100 % 100 == days[0] // 100 % 100, days, days[0])  # few days
    assert guess_of(frame.assign(day=month)).time.format == "%Y%m%d"
    short = guess_of(frame.assign(day=shops.TIMES.strftime("%d.%m.%y")))
    assert short.time is None and "time_format" in short.features.left_out["day"]


def test_small_numbers_are_an_order(guess_of):
    frame = log(time=np.arange(shops.ROWS)).rename(columns={"a": "user", "b": "item"})
    found = guess_of(frame)
    assert (found.time.column, found.split.method) == ("time", "leave_last_out")
    assert "0 to 2999, the order" in found.questions["ingest"][0]
    assert found.profile.days is None


def test_numbers_of_hours_are_no_time(guess_of):
    found = guess_of(log(hour_of_day=shops.STARS).rename(columns={"a": "user", "b": "item"}))
    assert found.time is None


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (log()[:10], "10 rows with a user and an item, of .* users .*too few to learn from"),
        (log().assign(a=1), "of 1 users"),
        (log()[["a"]], "only one column, 'a'"),
        (log(c=shops.STARS * 0).assign(c=1), "At least 100 positives|too few"),
    ],
)
def test_too_little_is_refused_with_what_is_needed(guess_of, frame, message):
    named = Named(user="a", item="b", value="c" if "c" in frame else None)
    if "c" in frame:
        frame = frame.assign(c=np.where(frame.index < 20, 1, 0))
    with pytest.raises(ConfigError, match=message):
        guess_of(frame, named=named)


def items_table():
    return pd.DataFrame(
        {
            "id": np.arange(shops.ITEMS - 8),
            "name": [f"Thing {n}" for n in range(shops.ITEMS - 8)],
            "colour": np.array(["red", "blue", "green"])[np.arange(shops.ITEMS - 8) % 3],
            "available": True,
            "weight": np.arange(shops.ITEMS - 8) * 0.5,
            "link": [f"https://shop.org/{n}" for n in range(shops.ITEMS - 8)],
        }
    )


def test_a_table_of_items_is_joined_by_its_values(guess_of):
    """Neither name says what the columns are; the values of b are the ids of the items."""
    found = guess_of(log().rename(columns={"a": "client"}), {"item": items_table()})
    assert found.ids == {"user": "client", "item": "b"}
    present = np.unique(shops.ITEM)
    assert found.sides["item"].key == "id"
    assert found.sides["item"].overlap == pytest.approx((present < shops.ITEMS - 8).mean())
    assert kinds(found.features.item) == {"colour": "categorical", "weight": "numeric"}
    assert found.features.show == ["name"]
    assert "web pages" in found.features.left_out["link"]
    assert "withdraw items" in found.features.left_out["available"]


def test_a_name_on_both_sides_is_used_once(guess_of):
    """As the configuration wants it; the names of our own columns are not used either."""
    users = pd.DataFrame({"client": np.arange(shops.USERS), "item_id": "x"})
    users["colour"] = np.array(["red", "blue"])[np.arange(shops.USERS) % 2]
    users["group"] = users["history"] = users["colour"]
    frame = log().rename(columns={"a": "client"})
    found = guess_of(frame, {"user": users, "item": items_table()})
    assert kinds(found.features.user) == {"group": "categorical"}
    assert "colour" in kinds(found.features.item)
    left = {name for name in found.features.left_out if name.endswith("of the users file")}
    assert left == {f"{name} of the users file" for name in ("colour", "history", "item_id")}


def test_a_table_that_does_not_fit_is_refused(guess_of):
    other = items_table().assign(id=lambda table: table["id"] + 5_000, weight=0.5)
    with pytest.raises(ConfigError, match="no column of the items file has the values of"):
        guess_of(shops.chinese(), {"item": other})
