"""What an event may hold, and which events are positives."""

from __future__ import annotations

import time

import pytest

from twotower.serving.runtime.errors import RequestError
from twotower.serving.runtime.live.rules import EventRules

RULES = EventRules(
    user="user",
    item="item",
    time="at",
    item_type="BYTES",
    columns={"stars": "FP64", "place": "BYTES", "visit": "INT64"},
    required=["stars"],
    column="stars",
    at_least=4,
)
FULL = {"user": 7, "item": "a", "at": 1_700_000_000, "stars": 4.5, "place": "x", "visit": 3}


def test_an_event_holds_what_is_given():
    assert RULES.check(FULL, "line 1") == FULL
    # A whole number is a number, and None is no value.
    event = RULES.check({**FULL, "stars": 4, "place": None}, "line 1")
    assert event == {name: FULL[name] for name in ("user", "item", "at", "visit")} | {"stars": 4.0}
    assert type(event["stars"]) is float


def test_an_event_without_a_time_is_one_of_now():
    before = int(time.time())
    event = RULES.check({"user": 7, "item": "a", "stars": 1}, "line 1")
    assert before <= event["at"] <= time.time()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, "line 9: user is missing"),
        ({"item": None}, "line 9: item is missing"),
        ({"stars": None}, "line 9: stars is missing"),
        ({"user": "7"}, "line 9: user is '7'; expected a whole number"),
        ({"user": 7.0}, "line 9: user is 7.0; expected a whole number"),
        ({"user": True}, "line 9: user is True; expected a whole number"),
        ({"user": 2**63}, "expected a whole number"),
        ({"item": 5}, "line 9: item is 5; expected a text of at most 4,096 characters"),
        ({"item": "x" * 4097}, "expected a text of at most 4,096 characters"),
        ({"item": "\ud800"}, "expected a text"),
        ({"stars": "5"}, "line 9: stars is '5'; expected a number"),
        ({"stars": float("nan")}, "line 9: stars is nan; expected a number"),
        ({"visit": 1.5}, "line 9: visit is 1.5; expected a whole number"),
        ({"place": ["x"]}, "line 9: place is ['x']; expected a text"),
        ({"colour": 1}, "line 9: 'colour' is unknown; an event has user, item, at, stars, place,"),
        ({"at": 1_700_000_000_000}, "line 9: at is 1700000000000, which is not in the past"),
        ({"at": -(10**12)}, "which is not in the past"),
    ],
)
def test_a_wrong_event_is_named(change, message):
    with pytest.raises(RequestError) as error:
        RULES.check({**FULL, **change}, "line 9")
    assert message in str(error.value)


def test_an_event_is_a_positive_by_its_value():
    assert [RULES.is_positive({"stars": stars}) for stars in (3.9, 4.0, 5.0)] == [False, True, True]
    assert not RULES.is_positive({})
    chosen = EventRules(user="u", item="i", time="t", column="kind", values=["buy", "cart"])
    assert [chosen.is_positive({"kind": kind}) for kind in ("view", "buy")] == [False, True]
    assert EventRules(user="u", item="i", time="t").is_positive({})
