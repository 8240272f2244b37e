"""How users and tables are divided between two versions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from twotower.serving.runtime.contract import Contract
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.experiment.split import Split, check_same_requests, merge, take

SPLIT = Split(control=3, treatment=4, share=0.25, salt="first")


def test_a_user_is_treated_by_the_hash_of_the_salt_and_the_id():
    for user, text in (
        (42, b"first:42"),
        (b"C\xc3\xa4", b"first:C\xc3\xa4"),
        ("Cä", b"first:C\xc3\xa4"),
    ):
        digest = hashlib.blake2b(text, digest_size=8).digest()
        expected = int.from_bytes(digest, "big") / 2**64 < 0.25
        assert SPLIT.treated([user]).tolist() == [expected]


def test_the_share_holds_and_another_salt_divides_anew():
    users = range(20_000)
    first = SPLIT.treated(users)
    assert abs(first.mean() - 0.25) < 0.01
    second = Split(control=3, treatment=4, share=0.25, salt="second").treated(users)
    # Independent: a quarter of the treated are treated again.
    assert abs(second[first].mean() - 0.25) < 0.02
    # A larger share keeps those who were treated.
    assert Split(control=3, treatment=4, share=0.5, salt="first").treated(users)[first].all()


def test_rows_of_a_table_are_taken_with_their_lists():
    table = {
        "k": np.array([1, 2, 3]),
        "liked": np.array([10, 11, 30]),
        "liked__count": np.array([2, 0, 1]),
        "liked__state": np.array([0, 2, 0]),
    }
    taken = take(table, np.array([2, 0]))
    assert {name: column.tolist() for name, column in taken.items()} == {
        "k": [3, 1],
        "liked": [30, 10, 11],
        "liked__count": [1, 2],
        "liked__state": [0, 0],
    }


def test_answers_are_merged_in_the_order_of_the_rows():
    narrow = {"item": np.array([[1], [2]])}
    wide = {"item": np.array([[7, 8]])}
    merged = merge([narrow, wide], [np.array([0, 2]), np.array([1])])
    assert merged["item"].tolist() == [[1, 0], [7, 8], [2, 0]]


def test_versions_that_take_other_requests_cannot_share_them():
    ours = Contract(user_id="u", item_id="i", features={"age": "INT64"}, default_k=1, max_k=9)
    theirs = Contract(user_id="u", item_id="i", features={"age": "INT64"}, default_k=2, max_k=5)
    check_same_requests(ours, theirs, SPLIT)
    theirs = Contract(user_id="u", item_id="i", features={"age": "FP64"}, default_k=1, max_k=9)
    with pytest.raises(ServingError, match="versions 3 and 4 cannot share requests: their 'feat"):
        check_same_requests(ours, theirs, SPLIT)
