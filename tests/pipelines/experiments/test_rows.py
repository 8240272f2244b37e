"""The rows of a comparison: means, standard deviations and order."""

from __future__ import annotations

import pytest

from twotower.pipelines.experiments.rows import rows


def test_rows_are_ordered_by_valid_and_failed_ones_are_last(comparison):
    found = rows(comparison)
    assert [row.name for row in found] == ["high", "ease", "low", "broken"]
    assert [row.family for row in found] == ["towers", "baseline", "losses", ""]


def test_means_and_standard_deviations_equal_those_by_hand(comparison):
    high, ease, low, broken = rows(comparison)
    # .30 and .34: mean .32, deviations -.02 and .02, variance (.0004 + .0004) / (2 - 1).
    assert high.values["valid ndcg@10"].mean == pytest.approx(0.32)
    assert high.values["valid ndcg@10"].spread == pytest.approx(0.0008**0.5)
    assert str(high.values["valid ndcg@10"]) == ".3200 ± .0283"
    assert str(high.values["test ndcg@10"]) == ".2300 ± .0424"
    assert str(low.values["test ndcg@10"]) == ".8000 ± .0000"
    assert (low.seconds.mean, low.epochs.mean) == (20, 3.5)
    assert str(ease.values["valid ndcg@10"]) == ".2500" and ease.epochs is None
    assert broken.values == {} and broken.failed == 2
