"""Metrics of predicted probabilities: order (AUC), log loss and calibration.

The metrics in `models/evaluation/metrics.py` rank the whole catalogue. These here compare rows with
a known label: a pair of user and item, and whether the user liked the item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from twotower.models.errors import ModelError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The sigmoid of a large float32 logit is exactly 0 or 1. Without clipping, a single such row with
# the other label would make the mean infinite. With it, a row adds at most -log(1e-7) = 16.1. This
# is also where Keras clips.
MIN_PROBABILITY = 1e-7

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = ("#1b6ca8", "#d98e04", "#b3261e", "#3f7d20", "#6a4c93", "#17a398", "#c05299", "#7f5539")
MARKERS = "os^Dv<>PX"
GREY = "#8a8a8a"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted and observed shares of positives, per bin of rows with similar probabilities.

    Attributes
    ----------
    predicted : ndarray of float64, shape (b,)
        Mean probability of the rows in each bin, ascending.
    observed : ndarray of float64, shape (b,)
        Share of positive rows in each bin.
    count : ndarray of int64, shape (b,)
        Number of rows in each bin, at least 1.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]; 0 if all bins are calibrated.

        It is the absolute difference of predicted and observed, averaged over the bins weighted by
        their rows (Naeini, Cooper and Hauskrecht, AAAI 2015). The bins have equal numbers of rows,
        not equal widths: most probabilities of a rare class would be in the first width.
        """
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.count))


@dataclass(frozen=True)
class RankingMetrics:
    """All metrics of one model on the same rows.

    Attributes
    ----------
    auc : float
        See `auc`.
    grouped_auc : float
        See `grouped_auc`.
    log_loss : float
        See `log_loss`.
    calibration_error : float
        See `Calibration.error`, with the default number of bins.
    rows : int
        Number of rows.
    positives : int
        Number of positive rows.
    """

    auc: float
    grouped_auc: float
    log_loss: float
    calibration_error: float
    rows: int
    positives: int

    def to_dict(self) -> dict[str, float]:
        """Return all numbers as one flat record for a JSON report."""
        return asdict(self)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Compute the area under the ROC curve.

    Parameters
    ----------
    labels : ndarray of bool or of 0 and 1, shape (n,)
        Whether each row is positive.
    scores : ndarray of float, shape (n,)
        Higher for rows that are more likely to be positive. Only their order matters.

    Returns
    -------
    float
        The share of the pairs of a positive and a negative row in which the positive one has the
        higher score. A tie counts as half a pair.

    Raises
    ------
    ModelError
        If shapes do not fit, a label is neither 0 nor 1, a score is NaN, or all rows are of one
        class.

    Notes
    -----
    With P positive and N negative rows and the rows ranked from 1 by ascending score (equal scores
    share their mean rank), the area is (sum of the positive rows' ranks - P (P + 1) / 2) / (P N)
    (Hanley and McNeil, 1982; Fawcett, 2006).

    Examples
    --------
    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    labels, scores = _checked(labels, scores, "scores")
    positives = np.count_nonzero(labels)
    if positives in (0, len(labels)):
        missing = "negative" if positives else "positive"
        raise ModelError(
            f"AUC needs rows of both classes, but none of the {len(labels)} rows is {missing}"
        )
    rank_sum = rankdata(scores)[labels].sum()
    return float(_area(rank_sum, positives, len(labels)))


def grouped_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """Compute the mean AUC over groups: how well each user's own rows are ordered.

    Unlike `auc`, it does not change if all scores of a user rise by the same amount.

    Parameters
    ----------
    labels : ndarray of bool or of 0 and 1, shape (n,)
        Whether each row is positive.
    scores : ndarray of float, shape (n,)
        Higher for rows that are more likely to be positive.
    groups : ndarray of int or str, shape (n,)
        The group of each row, such as its user.

    Returns
    -------
    float
        The mean over the groups with both classes, weighted by their numbers of rows. Groups with
        one class have no AUC and are left out.

    Raises
    ------
    ModelError
        If shapes do not fit, a label is neither 0 nor 1, a score is NaN, or no group has both
        classes.

    Notes
    -----
    This is the "GAUC" of Zhou et al., Deep Interest Network, KDD 2018, weighted by impressions.

    Examples
    --------
    >>> labels, users = np.array([1, 0, 1, 0, 0, 0]), np.array([7, 7, 8, 8, 8, 8])
    >>> grouped_auc(labels, np.array([0.9, 0.8, 0.3, 0.3, 0.1, 0.5]), users)
    0.6666666666666666
    """
    labels, scores = _checked(labels, scores, "scores")
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ModelError(f"groups have shape {groups.shape} and labels {labels.shape}")
    names, group = np.unique(groups, return_inverse=True)
    rows = np.bincount(group)
    positives = np.bincount(group[labels], minlength=len(names))
    both = (positives > 0) & (positives < rows)
    if not both.any():
        raise ModelError(
            f"grouped AUC needs a group with rows of both classes; there are {len(names)} groups "
            f"with {len(labels)} rows, of which {positives.sum()} are positive"
        )
    # One ranking by group and then by score: a row's rank in its group is its rank minus the number
    # of rows in the groups before.
    values, value = np.unique(scores, return_inverse=True)
    before = rows.cumsum() - rows
    ranks = rankdata(group * len(values) + value) - before[group]
    rank_sums = np.bincount(group[labels], weights=ranks[labels], minlength=len(names))
    areas = _area(rank_sums[both], positives[both], rows[both])
    return float(np.average(areas, weights=rows[both]))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute the mean negative log likelihood of the labels (binary cross-entropy).

    Parameters
    ----------
    labels : ndarray of bool or of 0 and 1, shape (n,)
        Whether each row is positive.
    probabilities : ndarray of float, shape (n,)
        Probability of each row being positive; clipped to [1e-7, 1 - 1e-7].

    Returns
    -------
    float
        In nats. A constant prediction of the share of positives gives the entropy of the labels.

    Raises
    ------
    ModelError
        If shapes do not fit, a label is neither 0 nor 1, or a probability is not in [0, 1].

    Examples
    --------
    >>> round(log_loss(np.array([0, 1]), np.array([0.5, 0.5])), 6)
    0.693147
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    of_label = np.where(labels, probabilities, 1 - probabilities)
    return float(-np.log(of_label.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)).mean())


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> Calibration:
    """Compare probabilities with the share of positives, in bins with equal numbers of rows.

    Parameters
    ----------
    labels : ndarray of bool or of 0 and 1, shape (n,)
        Whether each row is positive.
    probabilities : ndarray of float, shape (n,)
        Probability of each row being positive.
    bins : int
        Maximum number of bins. With fewer rows than bins, each distinct probability has its own.

    Returns
    -------
    Calibration
        Bins in ascending order of probability; empty ones are left out.

    Raises
    ------
    ModelError
        If shapes do not fit, a label is neither 0 nor 1, a probability is not in [0, 1], or `bins`
        is not positive.

    Notes
    -----
    Each distinct probability is put in a bin, with all of its rows: the bin that contains the
    middle of these rows when all n rows are sorted and cut into `bins` equal parts. The result
    therefore does not depend on the order of the rows. Without equal probabilities, the numbers of
    rows per bin differ by at most 1. With many, bins differ in size and some may be empty.

    Examples
    --------
    >>> found = calibration(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.7, 0.9]), bins=2)
    >>> found.predicted.round(6), found.observed, found.count, round(found.error, 6)
    (array([0.3, 0.8]), array([0.5, 1. ]), array([2, 2]), 0.2)
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    if bins < 1:
        raise ModelError(f"bins must be positive, got {bins}")
    values, value, rows = np.unique(probabilities, return_inverse=True, return_counts=True)
    # With rows start to end - 1 of a value, its middle is (start + end) / 2; in integers, so that
    # rounding moves no value to the next bin.
    end = rows.cumsum()
    bin_of_value = (end - rows + end) * bins // (2 * len(labels))
    count = np.bincount(bin_of_value, weights=rows)
    positives = np.bincount(bin_of_value, weights=np.bincount(value, weights=labels))
    total = np.bincount(bin_of_value, weights=values * rows)
    used = count > 0
    return Calibration(
        predicted=total[used] / count[used],
        observed=positives[used] / count[used],
        count=count[used].astype(np.int64),
    )


def ranking_metrics(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray
) -> RankingMetrics:
    """Compute all metrics of one model.

    Parameters
    ----------
    labels : ndarray of bool or of 0 and 1, shape (n,)
        Whether each row is positive.
    probabilities : ndarray of float, shape (n,)
        Probability of each row being positive.
    groups : ndarray of int or str, shape (n,)
        The group of each row for `grouped_auc`, such as its user.

    Returns
    -------
    RankingMetrics

    Raises
    ------
    ModelError
        If shapes do not fit, a label is neither 0 nor 1, a probability is not in [0, 1], or no
        group has both classes.
    """
    return RankingMetrics(
        auc=auc(labels, probabilities),
        grouped_auc=grouped_auc(labels, probabilities, groups),
        log_loss=log_loss(labels, probabilities),
        calibration_error=calibration(labels, probabilities).error,
        rows=len(labels),
        positives=int(np.count_nonzero(labels)),
    )


def reliability_plot(calibrations: Mapping[str, Calibration], path: Path) -> None:
    """Draw the observed share of positives by predicted probability, one line per model.

    Parameters
    ----------
    calibrations : mapping of str to Calibration
        Name of each model to its calibration.
    path : Path
        PNG file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(5.5, 5), layout="constrained")
        _draw_reliability(figure.subplots(), calibrations)
        figure.savefig(path, dpi=130)


def _draw_reliability(axes: Axes, calibrations: Mapping[str, Calibration]) -> None:
    """Draw a line per model and the diagonal; both axes have the same range."""
    for n, (name, each) in enumerate(calibrations.items()):
        axes.plot(
            each.predicted,
            each.observed,
            color=COLOURS[n % len(COLOURS)],
            marker=MARKERS[n % len(MARKERS)],
            ms=4,
            lw=1,
            label=f"{name}, calibration error {each.error:.4f}",
        )
    # After all lines: setting a limit ends the automatic scaling.
    limits = (0, max(axes.get_xlim()[1], axes.get_ylim()[1]))
    axes.plot(limits, limits, color=GREY, lw=1, ls=":", scalex=False, scaley=False)
    axes.set(xlabel="mean predicted probability", ylabel="observed share of positives")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.grid(True, alpha=0.25)
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def _area(rank_sum: np.ndarray, positives: np.ndarray | int, rows: np.ndarray | int) -> np.ndarray:
    """The areas under ROC curves from the sums of the positive rows' ranks; see `auc`."""
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (rows - positives))


def _checked(labels: np.ndarray, values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as bool and values as float64; ModelError if they are invalid."""
    labels, values = np.asarray(labels), np.asarray(values, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != values.shape or not len(labels):
        raise ModelError(
            f"labels and {name} must be vectors of the same length, at least 1; "
            f"got shapes {labels.shape} and {values.shape}"
        )
    positive = labels.astype(bool)
    if (positive != labels).any():
        raise ModelError(f"labels must be 0 or 1, got {labels[positive != labels][0]}")
    if np.isnan(values).any():
        raise ModelError(f"{np.isnan(values).sum()} of {len(values)} {name} are NaN")
    return positive, values


def _checked_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Like `_checked`, and ModelError if a probability is not in [0, 1]."""
    labels, probabilities = _checked(labels, probabilities, "probabilities")
    low, high = probabilities.min(), probabilities.max()
    if low < 0 or high > 1:
        raise ModelError(
            f"probabilities must be in [0, 1], got {low:g} to {high:g}; "
            "are they logits without a sigmoid?"
        )
    return labels, probabilities
