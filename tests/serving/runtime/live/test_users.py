"""What events change: seen items, histories, and the table of a request."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.serving.runtime.contract import ABSENT, VALUE, Contract
from twotower.serving.runtime.live.rules import EventRules
from twotower.serving.runtime.live.store import Stored
from twotower.serving.runtime.live.users import LIVE, LiveUsers
from twotower.serving.runtime.operators.ids import IDS_FOLDER, ServedIds, save_texts

RULES = EventRules(
    user="user", item="item", time="at", columns={"stars": "FP64"}, column="stars", at_least=3
)
ITEMS = np.array([10, 20, 30, 40])


def stored(number: int, user: int, item: int, stars: float = 5.0, at: int = 100) -> Stored:
    return Stored((number,), {"user": user, "item": item, "stars": stars, "at": at})


@pytest.fixture
def live(tmp_path):
    contract = Contract(user_id="user", item_id="item", features={}, default_k=1, max_k=1)
    changed: list[int] = []
    users = LiveUsers(RULES, ServedIds(contract, tmp_path), ITEMS, (2,), changed.append)
    users.told = changed
    return users


def test_every_event_hides_and_new_positives_begin_the_history(live):
    live.apply(
        [
            stored(1, user=7, item=10),  # the version has learned from it
            stored(2, user=7, item=40, stars=1),
            stored(3, user=7, item=30),
            stored(4, user=7, item=20, stars=2),  # no positive
            stored(5, user=7, item=99),  # no item of the index
            stored(6, user=8, item=10),
        ]
    )
    assert live.slots == {7: 0, 8: 1} and live.told == [0, 0, 0, 0, 1]
    assert live.hidden(0, np.array([2], np.int32)).tolist() == [0, 1, 2, 3]
    assert live.hidden(0, np.array([2], np.int32)).dtype == np.int32
    assert live.history(0, np.array([20, 10])).tolist() == [30, 20, 10]
    assert live.new_positions(0).tolist() == [2]
    assert live.hidden(1, np.array([], np.int32)).tolist() == [0]


def test_a_history_is_in_the_order_of_time_and_has_each_item_once(live):
    live.apply([stored(3, 7, 10, at=300), stored(4, 7, 20, at=100), stored(5, 7, 30, at=300)])
    assert live.history(0, np.array([40, 10, 20])).tolist() == [30, 10, 20, 40]
    live.apply([stored(6, 7, 20, at=400)])
    assert live.history(0, np.array([40, 10, 20])).tolist() == [20, 30, 10, 40]


def test_a_table_is_marked_only_where_there_are_events(live):
    table = {"k": np.array([1, 1])}
    assert live.mark(np.array([7, 9]), table) is table
    live.apply([stored(3, user=7, item=10)])
    assert live.mark(np.array([8, 9]), table) is table
    assert live.mark(np.array([9, 7]), table)[LIVE].tolist() == [-1, 0]
    assert LIVE not in table


def test_histories_are_given_to_the_rows_that_give_none(live):
    live.apply([stored(3, user=7, item=10), stored(4, user=8, item=20)])
    marked = live.mark(np.array([9, 7, 8, 7]), {})
    table = live.with_history(marked, "liked", lambda row: np.array([40, row]))
    assert table["liked"].tolist() == [10, 40, 1, 20, 40, 2, 10, 40, 1]
    assert table["liked__count"].tolist() == [0, 3, 3, 3]
    assert table["liked__state"].tolist() == [ABSENT, VALUE, VALUE, VALUE]
    # What a request gives stays.
    given = marked | {
        "liked": np.array([1, 2, 3]),
        "liked__count": np.array([2, 1, 0, 0]),
        "liked__state": np.array([VALUE, VALUE, ABSENT, ABSENT], np.int8),
    }
    table = live.with_history(given, "liked", lambda row: np.array([40, row]))
    assert table["liked"].tolist() == [1, 2, 3, 20, 40, 2, 10, 40, 1]
    assert table["liked__count"].tolist() == [2, 1, 3, 3]


def test_events_of_another_kind_are_ignored(live):
    wrong = [{"user": "a", "item": 10, "at": 1}, {"user": 1}, {}, {"colour": 1}]
    live.apply([Stored((number,), event) for number, event in enumerate(wrong, 3)])
    assert live.ignored == 4 and not live.slots


def test_ids_may_be_texts(tmp_path):
    """A user is known by the bytes of a request, an item by its code; unknown texts have none."""
    rules = EventRules(user="user", item="item", time="at", user_type="BYTES", item_type="BYTES")
    save_texts(tmp_path / IDS_FOLDER, "users", ["anna", "bob"])
    save_texts(tmp_path / IDS_FOLDER, "items", ["x", "ä", "y"])
    contract = Contract(
        user_id="user",
        item_id="item",
        features={},
        default_k=1,
        max_k=1,
        user_id_type="BYTES",
        item_id_type="BYTES",
    )
    live = LiveUsers(rules, ServedIds(contract, tmp_path), np.arange(3), (), lambda slot: None)
    done = [("bob", "ä"), ("nobody yet", "y"), ("bob", "no such item"), ("bob", "x")]
    live.apply(
        Stored((number,), {"user": user, "item": item, "at": number})
        for number, (user, item) in enumerate(done)
    )
    asked = np.array([b"anna", b"nobody yet", b"bob"], object)
    assert live.mark(asked, {})[LIVE].tolist() == [-1, 1, 0]
    assert live.hidden(0, np.zeros(0, np.int32)).tolist() == [0, 1]
    assert live.history(0, np.zeros(0, np.int64)).tolist() == [0, 1]
    assert live.hidden(1, np.zeros(0, np.int32)).tolist() == [2]
