"""What an evaluation is based on, and the overlap of two times, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from twotower.pipelines.verdict.facts import gather, overlap_in_time


def test_the_counts_of_a_small_split():
    train = csr_matrix(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool))
    relevant = csr_matrix(np.array([[0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]], bool))
    facts = gather(relevant, train, np.array([True, True, True, False]), "file", 0.5)
    assert (facts.users, facts.positives, facts.median) == (3, 5, 2)
    assert facts.single == pytest.approx(1 / 3) and facts.candidates == 3
    assert facts.cold == pytest.approx(3 / 5)  # items 2 and 3 are not in training
    assert facts.strangers == pytest.approx(1 / 3)  # the last user
    assert (facts.history, facts.train_items) == (1.5, 2)
    assert (facts.split, facts.overlap) == ("file", 0.5)
    assert gather(relevant, train, None, "file", None).candidates == 4


def repeated(counts: dict[int, int]) -> list[int]:
    return [item for item, count in counts.items() for _ in range(count)]


def test_the_overlap_is_morisitas_index():
    first, middle, last = {1: 30, 2: 10}, {5: 40}, {2: 20, 3: 20}
    items = np.array([*repeated(first), *repeated(middle), *repeated(last)])
    found = overlap_in_time(items, np.arange(120))
    similar_first = (30 * 29 + 10 * 9) / (40 * 39)
    similar_last = (20 * 19 + 20 * 19) / (40 * 39)
    expected = 2 * (10 * 20) / ((similar_first + similar_last) * 40 * 40)
    assert found == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(120)
    assert overlap_in_time(items[order], np.arange(120)[order]) == pytest.approx(expected)


def test_the_overlap_does_not_depend_on_the_number_of_interactions():
    """A cosine of the counts would be 1 for many interactions and far lower for few."""
    rng = np.random.default_rng(0)
    for rows in (900, 90_000):
        found = overlap_in_time(rng.integers(0, 500, rows), np.arange(rows))
        assert found == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("items", "times"),
    [
        (np.zeros(300, int), np.zeros(300, int)),  # all at one time
        (np.arange(300), np.arange(300)),  # no item twice
        (np.zeros(6, int), np.arange(6)),
    ],
)
def test_too_little_for_an_overlap(items, times):
    assert overlap_in_time(items, times) is None
