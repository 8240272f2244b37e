"""AUC, log loss and calibration compared with hand-computed numbers and slow references."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from matplotlib.figure import Figure

from twotower.models.errors import ModelError
from twotower.models.ranking.metrics import (
    Calibration,
    RankingMetrics,
    _draw_reliability,
    auc,
    calibration,
    grouped_auc,
    log_loss,
    ranking_metrics,
    reliability_plot,
)


def slow_auc(labels, scores) -> float:
    """The share of ordered pairs of a positive and a negative row, one pair at a time."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    won = sum((p > n) + (p == n) / 2 for p, n in product(positive, negative))
    return won / (len(positive) * len(negative))


def slow_grouped_auc(labels, scores, groups) -> float:
    """The AUC of one group at a time."""
    total = rows = 0
    for group in set(groups.tolist()):
        own = groups == group
        if len(set(labels[own].tolist())) == 2:
            total += own.sum() * slow_auc(labels[own], scores[own])
            rows += own.sum()
    return total / rows


def random_case(seed: int, n=300):
    """Rows with many ties, some of them infinite, and groups of one class and of one row."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < rng.choice([0.1, 0.5, 0.9])
    scores = rng.integers(-3, 4, n) + 0.5 * labels.round()
    scores[rng.random(n) < 0.05] = -np.inf
    groups = rng.choice([-5, 3, 8, 9, 200, 201, 202], n, p=[0.5, 0.3, 0.1, 0.07, 0.01, 0.01, 0.01])
    return labels, scores.astype(np.float32), groups


def test_auc_by_hand():
    # Positive scores 3, 2, 1 and negative ones 2, 0: wins 2 + (half and 1) + (0 and 1) of 6.
    labels, scores = np.array([1, 0, 1, 0, 1]), np.array([3, 2, 2, 0, 1])
    assert auc(labels, scores) == pytest.approx(4.5 / 6)
    assert auc(labels == 1, -scores) == pytest.approx(1.5 / 6)
    assert auc(labels, labels) == 1
    assert auc(labels, np.zeros(5)) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_ordered_pairs(seed):
    labels, scores, _ = random_case(seed)
    assert auc(labels, scores) == pytest.approx(slow_auc(labels, scores), abs=1e-12)


def test_auc_depends_only_on_the_order_of_the_scores():
    labels, scores, _ = random_case(seed=1)
    expected = auc(labels, scores)
    assert auc(labels.astype(np.float32), np.exp(scores)) == expected
    assert auc(labels.astype(int), 7 * scores - 100) == expected
    assert auc(labels, np.abs(scores)) != expected, "not a monotone map"


def test_grouped_auc_by_hand():
    # Group a: 1 of 1 pairs, 2 rows. Group b: 0.5 of 2 pairs, 3 rows. Group c: one class, left out.
    labels = np.array([1, 0, 1, 0, 0, 1, 1])
    scores = np.array([0.2, 0.1, 0.8, 0.8, 0.9, 0.5, 0.1])
    groups = np.array(list("aabbbcc"))
    expected = (2 * 1 + 3 * 0.25) / 5
    assert grouped_auc(labels, scores, groups) == pytest.approx(expected)
    mixed = np.array([4, 1, 6, 0, 3, 2, 5])
    assert grouped_auc(labels[mixed], scores[mixed], groups[mixed]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_grouped_auc_is_the_mean_over_groups(seed):
    labels, scores, groups = random_case(seed)
    expected = slow_grouped_auc(labels, scores, groups)
    assert grouped_auc(labels, scores, groups) == pytest.approx(expected, abs=1e-12)
    assert grouped_auc(labels, scores, groups) != pytest.approx(auc(labels, scores), abs=1e-4)


def test_grouped_auc_of_one_group_is_the_auc_and_ignores_the_level_of_a_group():
    labels, scores, groups = random_case(seed=2)
    assert grouped_auc(labels, scores, np.full(len(labels), 42)) == auc(labels, scores)
    expected = grouped_auc(labels, scores, groups)
    assert grouped_auc(labels, scores + 10 * groups, groups) == expected
    assert auc(labels, scores + 10 * groups) != pytest.approx(auc(labels, scores), abs=1e-3)


def test_log_loss_by_hand():
    labels, probabilities = np.array([1, 0, 1]), np.array([0.5, 0.75, 0.125])
    # The labels have the probabilities 1/2, 1/4 and 1/8.
    assert log_loss(labels, probabilities) == pytest.approx(math.log(2) * (1 + 2 + 3) / 3)


def test_log_loss_of_a_certain_error_is_finite():
    certain = np.array([0, 1], dtype=np.float32)
    assert log_loss(np.array([1, 0]), certain) == pytest.approx(-math.log(1e-7))
    assert log_loss(np.array([0, 1]), certain) == pytest.approx(1e-7)


def test_calibration_of_perfect_probabilities():
    probabilities = np.repeat([0.25, 0.5, 0.75], 4)
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
    found = calibration(labels, probabilities, bins=3)
    assert found.predicted.tolist() == found.observed.tolist() == [0.25, 0.5, 0.75]
    assert found.count.tolist() == [4, 4, 4]
    assert found.error == 0


def test_calibration_of_wrong_probabilities():
    # Bins of 4 rows: 0.25 and 0.75 predicted on average, 0 and half observed.
    probabilities = np.array([0.125, 0.25, 0.25, 0.375, 0.5, 0.75, 0.75, 1])
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 0])
    found = calibration(labels, probabilities, bins=2)
    assert found.predicted.tolist() == [0.25, 0.75]
    assert found.observed.tolist() == [0, 0.5]
    assert found.error == 0.25


def test_calibration_error_is_weighted_by_rows():
    found = Calibration(
        predicted=np.array([0.5, 1]), observed=np.array([0.25, 0]), count=np.array([3, 1])
    )
    assert found.error == (3 * 0.25 + 1) / 4


def test_equal_probabilities_share_a_bin():
    # Ranks 2 to 5 of 6 are equal; their middle is the border of the two bins, so they are in the
    # upper one.
    probabilities = np.array([0, 0.5, 0.5, 0.5, 0.5, 1])
    labels = np.array([0, 1, 1, 0, 0, 1])
    found = calibration(labels, probabilities, bins=2)
    assert found.count.tolist() == [1, 5]
    assert found.observed.tolist() == [0, 0.6]
    assert found.predicted.tolist() == [0, 0.6]
    # With two rows more above, the middle is below the border: ranks 1 to 5, then 6 to 8.
    probabilities, labels = np.append(probabilities, [1, 1]), np.append(labels, [1, 0])
    assert calibration(labels, probabilities, bins=2).count.tolist() == [5, 3]


def test_calibration_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    probabilities = rng.integers(0, 30, 500) / 29
    labels = rng.random(500) < probabilities**2
    first = calibration(labels, probabilities)
    order = rng.permutation(500)
    second = calibration(labels[order], probabilities[order])
    for name in ("predicted", "observed", "count"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


@pytest.mark.parametrize(("rows", "bins"), [(100, 10), (103, 10), (17, 5), (10, 10), (999, 7)])
def test_bins_have_equal_numbers_of_rows(rows, bins):
    rng = np.random.default_rng(rows)
    found = calibration(rng.random(rows) < 0.5, rng.permutation(rows) / rows, bins=bins)
    assert len(found.count) == bins and found.count.sum() == rows
    assert np.ptp(found.count) == (rows % bins > 0)
    assert (np.diff(found.predicted) > 0).all()


def test_empty_bins_are_left_out():
    few = calibration(np.array([1, 0, 0]), np.array([0.75, 0.25, 0.5]))
    assert few.predicted.tolist() == [0.25, 0.5, 0.75]
    assert few.observed.tolist() == [0, 0, 1]
    assert few.count.tolist() == [1, 1, 1]
    constant = calibration(np.array([1, 0, 0, 0]), np.full(4, 0.5))
    assert (constant.count.tolist(), constant.error) == ([4], 0.25)


def test_all_metrics_together():
    labels = np.array([True, False, True, False])
    probabilities = np.array([0.5, 0.25, 0.75, 0.75], dtype=np.float32)
    found = ranking_metrics(labels, probabilities, groups=np.array([1, 1, 2, 2]))
    assert found == RankingMetrics(
        auc=2.5 / 4,
        grouped_auc=(1 + 0.5) / 2,
        log_loss=pytest.approx(-math.log(0.5 * 0.75 * 0.75 * 0.25) / 4),
        # Bins of 0.25, 0.5 and twice 0.75, which are off by 0.25, 0.5 and 0.25.
        calibration_error=(0.25 + 0.5 + 2 * 0.25) / 4,
        rows=4,
        positives=2,
    )
    names = ["auc", "grouped_auc", "log_loss", "calibration_error", "rows", "positives"]
    assert list(found.to_dict()) == names
    assert found.to_dict()["auc"] == 0.625


def test_one_class_is_an_error_that_names_the_other():
    scores = np.arange(3)
    with pytest.raises(ModelError, match="none of the 3 rows is negative"):
        auc(np.ones(3), scores)
    with pytest.raises(ModelError, match="none of the 3 rows is positive"):
        auc(np.zeros(3), scores)
    with pytest.raises(ModelError, match="2 groups with 3 rows, of which 1 are positive"):
        grouped_auc(np.array([0, 0, 1]), scores, np.array([5, 5, 6]))


@pytest.mark.parametrize("metric", [auc, log_loss, calibration])
@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        ([0, 1], [0.5], r"shapes \(2,\) and \(1,\)"),
        ([[0, 1]], [[0.5, 0.5]], r"shapes \(1, 2\)"),
        ([], [], "at least 1"),
        ([0, 2], [0.5, 0.5], "labels must be 0 or 1, got 2"),
        ([0, math.nan], [0.5, 0.5], "labels must be 0 or 1, got nan"),
        ([0, 1], [0.5, math.nan], "1 of 2 .* are NaN"),
    ],
)
def test_invalid_rows_are_errors(metric, labels, values, message):
    with pytest.raises(ModelError, match=message):
        metric(np.array(labels), np.array(values))


def test_invalid_arguments_are_errors():
    labels, scores = np.array([0, 1]), np.array([-1, 3])
    for metric in (log_loss, calibration):
        with pytest.raises(ModelError, match=r"in \[0, 1\], got -1 to 3"):
            metric(labels, scores)
    with pytest.raises(ModelError, match="bins must be positive, got 0"):
        calibration(labels, labels, bins=0)
    with pytest.raises(ModelError, match=r"groups have shape \(3,\)"):
        grouped_auc(labels, scores, np.zeros(3))


def test_the_plot_has_a_line_per_model_and_a_dotted_diagonal():
    one = Calibration(np.array([0.1, 0.3]), np.array([0.2, 0.4]), np.array([5, 5]))
    two = Calibration(np.array([0.2]), np.array([0.1]), np.array([10]))
    axes = Figure().subplots()
    _draw_reliability(axes, {"one": one, "two": two})
    first, second, diagonal = axes.get_lines()
    assert first.get_xydata().tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert second.get_xydata().tolist() == [[0.2, 0.1]]
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    assert diagonal.get_linestyle() == ":"
    assert axes.get_xlim() == axes.get_ylim() and axes.get_xlim()[1] > 0.4
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["one, calibration error 0.1000", "two, calibration error 0.1000"]


def test_the_plot_is_a_png(tmp_path):
    path = tmp_path / "reliability.png"
    found = calibration(np.array([0, 1, 1]), np.array([0.1, 0.6, 0.8]))
    reliability_plot({"model": found}, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
