"""Whether two models differ: a paired test over users.

The metrics of a user are few values with many ties (most of them 0), and what is reported is their
mean. The paired t-test is about the mean of the differences, which is close to normal for some tens
of users and more. Wilcoxon's signed-rank test drops the ties and is about ranks: with such values
it can contradict the means in the table. Comparisons on retrieval metrics advise the t-test too
(Smucker, Allan and Carterette, CIKM 2007; Urbano, Lima and Hanjalic, SIGIR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean difference of a metric between two models, over the same users.

    Attributes
    ----------
    mean : float
        Mean of the first model minus that of the second.
    low, high : float
        The 95 % confidence interval of the mean.
    p : float
        Two-sided p-value of the paired t-test: small if the models differ.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Test whether the mean difference between two models is 0.

    Parameters
    ----------
    first, second : ndarray of float, shape (n,)
        The metric of each user, at least 2 users in the same order.

    Returns
    -------
    Difference
        If all differences are equal, the interval is that difference, and p is 1 if it is 0 and
        else 0.
    """
    differences = first - second
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return Difference(mean, mean, mean, p=float(mean == 0))
    test = ttest_rel(first, second)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests.

    Parameters
    ----------
    p_values : sequence of float

    Returns
    -------
    list of float
        Adjusted p-values in the same order: those below 0.05 are together wrong with a probability
        of at most 0.05 (Holm, 1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    ascending = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(ascending, 1)
    return adjusted.tolist()
