"""The profile of interactions, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.workflows.profile import DAY, profile

# Ten rows, in the order of time; user 4 and item 23 occur only in the last one.
USERS = np.array([1, 1, 1, 1, 2, 2, 3, 3, 3, 4])
ITEMS = np.array([20, 20, 21, 22, 20, 21, 20, 21, 22, 23])


def test_counts_by_hand():
    found = profile(USERS, ITEMS)
    assert (found.rows, found.users, found.items) == (10, 4, 4)
    assert found.repeats == 1  # user 1 and item 20
    assert found.density == 9 / 16
    assert found.per_user == 2.5  # 3, 2, 3 and 1 different items
    assert found.per_item == 2.5  # 3, 3, 2 and 1 different users
    assert (found.single_users, found.single_items) == (1 / 4, 1 / 4)
    assert found.top_items == 0.4  # item 20 alone is the top tenth
    assert found.days is None and found.new_users is None and found.new_items is None


def test_new_ids_are_counted_in_the_last_tenth_of_the_time():
    seconds = 10**9 + np.arange(10) * DAY
    shuffled = np.random.default_rng(0).permutation(10)
    found = profile(USERS[shuffled], ITEMS[shuffled], seconds[shuffled])
    assert (found.start, found.end, found.days) == (10**9, 10**9 + 9 * DAY, 9.0)
    assert (found.new_users, found.new_items) == (1.0, 1.0)
    # Without user 4 and item 23 nothing is new.
    late = profile(USERS[:-1], ITEMS[:-1], seconds[:-1])
    assert (late.new_users, late.new_items) == (0.0, 0.0)


def test_ids_may_be_any_int64():
    ids = np.array([-1, 2**63 - 1, 0, -1])
    found = profile(ids, ids[::-1])
    assert (found.users, found.items, found.repeats) == (3, 3, 1)
    assert found.density == pytest.approx(3 / 9)


def test_one_row():
    found = profile(np.array([5]), np.array([6]), np.array([100]))
    assert found.density == 1.0
    assert (found.days, found.new_users) == (None, 1.0)  # 100 is a place in an order
