"""The split that fits the data."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.split import choose_split
from twotower.workflows.profile import DAY

USERS = np.repeat(np.arange(100), 5)
ITEMS = np.tile(np.arange(5), 100)


def method(seconds=None, users=USERS, items=ITEMS):
    return choose_split(users, items, seconds)[0].method


def test_without_times_the_split_is_random():
    assert method() == "random"


def test_with_times_the_last_item_is_left_out():
    seconds = np.random.default_rng(0).permutation(500) * DAY
    split, positives = choose_split(USERS, ITEMS, seconds)
    assert split.method == "leave_last_out" and positives == 500


def test_times_of_one_day_are_not_used():
    assert method(10**9 + np.arange(500)) == "random"


def test_places_in_an_order_are_used():
    assert method(np.arange(500)) == "leave_last_out"


def test_baskets_are_cut_in_time():
    """All items of a user's visit have one time; each user comes ten times."""
    users = np.tile(np.repeat(np.arange(50), 4), 10)
    items = np.random.default_rng(0).integers(80, size=2000)
    seconds = np.repeat(np.arange(10), 200) * DAY
    assert method(seconds, users, items) == "temporal"


def test_a_cut_in_time_with_unknown_users_only_is_not_used():
    """Baskets again, but each user comes once."""
    assert method(USERS * DAY) == "random"


def test_users_with_one_item_only_are_refused():
    with pytest.raises(ConfigError, match="no user has three different items"):
        choose_split(np.arange(500), ITEMS, None)
