"""The order of positives in time: hand-made rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twotower.workflows.order import (
    OCCURRENCE,
    ORDER,
    POSITION,
    add_positions,
    in_time,
    latest_first,
    number_repeats,
    time_order,
)


def test_rows_are_ordered_by_time_then_by_the_order_then_by_the_file():
    rows = pd.DataFrame({"timestamp": [5, 3, 3, 5, 3], ORDER: [0, 9, 2, 0, 2]})
    assert in_time(rows).tolist() == [2, 4, 1, 0, 3]
    assert in_time(rows[["timestamp"]]).tolist() == [1, 2, 4, 0, 3]
    assert in_time(rows[[ORDER]]).tolist() == [0, 3, 2, 4, 1]
    assert in_time(rows[[]]).tolist() == [0, 1, 2, 3, 4]


def test_a_repeated_pair_has_the_time_of_its_last_row_unless_each_row_counts():
    positives = pd.DataFrame(
        {"user_id": [1, 1, 1, 1], "item_id": [7, 8, 7, 9], ORDER: [0, 1, 3, 2]}
    )
    pairs = positives[["user_id", "item_id"]].drop_duplicates()
    assert pairs["item_id"].iloc[time_order(pairs, positives)].tolist() == [8, 9, 7]
    assert number_repeats(positives, "last") is positives
    kept = number_repeats(positives, "keep")
    assert kept[OCCURRENCE].tolist() == [0, 0, 1, 0]
    assert kept["item_id"].iloc[time_order(kept, kept)].tolist() == [7, 8, 9, 7]


def test_positions_count_from_the_users_first_row():
    parts = pd.DataFrame(
        {
            "user_id": [2, 1, 2, 1, 1],
            "item_id": [5, 5, 6, 7, 8],
            "part": ["train", "train", "test", "valid", "train"],
        }
    )
    train = add_positions(parts, parts.assign(**{ORDER: [1, 0, 0, 1, 2]}))
    assert parts[POSITION].tolist() == [1, 0, 0, 1, 2]
    assert train.tolist() == [0, 0, 1] and train.dtype == np.int32


def test_the_latest_items_come_first():
    users, items, position = np.array([[0, 0, 2, 0], [4, 5, 6, 7], [1, 2, 0, 0]])
    lists = latest_first(users, items, position, n_users=3, length=2)
    assert lists.tolist() == [[5, 4], [-1, -1], [6, -1]]
