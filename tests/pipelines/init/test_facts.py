"""What is counted in a column, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twotower.pipelines.init.facts import constancy, overlap


def one(facts_of, values):
    return facts_of(pd.DataFrame({"x": values}))["x"]


def test_texts(facts_of):
    column = one(facts_of, ["a b", "", None, "a b", " "])
    assert (column.distinct, column.nulls, column.words) == (1, 3, 2.0)
    assert column.codes.tolist() == [0, -1, -1, 0, -1]
    assert column.is_text and column.numbers is None


def test_numbers(facts_of):
    column = one(facts_of, [1.5, np.nan, -2.0])
    assert (column.distinct, column.nulls, column.range) == (2, 1, (-2.0, 1.5))
    assert not column.is_whole and one(facts_of, [1.0, 2.0]).is_whole
    assert one(facts_of, [True, False]).is_boolean


def test_lists_and_times(facts_of):
    lists = one(facts_of, [["a"], ["a"], []])
    assert lists.is_list and lists.distinct == 2
    assert one(facts_of, [pd.Timestamp("2024-01-01")]).is_time


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([f"u{n}@mail.org" for n in range(20)], "e-mail addresses"),
        ([f"+49 170 1234{n:03d}" for n in range(20)], "phone numbers"),
        ([f"{n:010d}" for n in range(20)], None),  # article numbers
        ([f"SKU-{n:08d}" for n in range(20)], None),
    ],
)
def test_personal_data(facts_of, values, found):
    assert one(facts_of, values).personal == found


def test_separated_values_links_and_decimal_commas(facts_of):
    genres = one(facts_of, ["Action|Comedy", "Comedy", "Action", "Comedy|Drama|Action"])
    assert genres.separator == "|"
    assert one(facts_of, ["Toy Story, 1995", "Heat, 1995"]).separator is None
    assert one(facts_of, ["https://a.org/1", "http://b.org"]).is_link
    assert one(facts_of, ["12,50", "1.000,00"]).has_decimal_comma
    assert not one(facts_of, ["12.50", "12,50"]).has_decimal_comma


def test_constancy():
    items = np.array([0, 0, 0, 1, 1, 2])
    assert constancy(np.array([5, 5, 5, 6, 6, 7]), items) == (1.0, 2)  # item 2 has one row
    assert constancy(np.array([5, -1, 5, 6, 6, 7]), items) == (1.0, 2)  # nulls do not count
    # 4 of 5 rows have their item's most frequent value; one value for all would reach 3 of 5.
    assert constancy(np.array([5, 5, 6, 6, 6, 7]), items)[0] == pytest.approx((0.8 - 0.6) / 0.4)
    assert constancy(np.array([5, 5, 5, 5, 5, 5]), items) == (0.0, 2)  # one value says nothing
    assert constancy(np.array([1, 2]), np.array([0, 1])) == (0.0, 0)


def test_overlap_compares_values(facts_of):
    left, right = one(facts_of, ["a", "a", "b", "c", None]), one(facts_of, ["a", "b", "x"])
    assert overlap(left, right) == pytest.approx(2 / 3)
