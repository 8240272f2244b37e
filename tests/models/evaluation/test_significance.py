"""The paired test and Holm's adjustment, compared with textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from twotower.models.evaluation.significance import holm, paired_difference


def test_the_test_is_the_t_test_of_the_differences():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 50))
    found = paired_difference(first, second)
    differences = first - second
    error = differences.std(ddof=1) / np.sqrt(50)
    assert found.mean == pytest.approx(differences.mean())
    width = stats.t.ppf(0.975, 49) * error
    assert (found.low, found.high) == pytest.approx((found.mean - width, found.mean + width))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.mean) / error, 49))
    swapped = paired_difference(second, first)
    assert (swapped.mean, swapped.low, swapped.p) == pytest.approx(
        (-found.mean, -found.high, found.p)
    )


def test_equal_models_do_not_differ_and_a_constant_difference_is_certain():
    values = np.array([0.0, 0.5, 1.0])
    same = paired_difference(values, values)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    above = paired_difference(values + 1, values)
    assert (above.mean, above.low, above.high, above.p) == (1, 1, 1, 0)


def test_holm_is_the_example_of_a_textbook():
    # Ordered .005 .01 .03 .04 times 4 3 2 1, then never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_equal_models_are_rarely_taken_for_different_ones():
    """Of many tests of models that do not differ, about one in twenty is below 0.05."""
    rng = np.random.default_rng(0)
    p = [paired_difference(*(rng.random((2, 40)) < 0.2).astype(float)).p for _ in range(1000)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07
