"""How a cost grows with the number of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LINEAR = (0.85, 1.15)
"""Powers that are called linear."""


class Growth(NamedTuple):
    """A fit of seconds = constant * rows ** power, by least squares of the logarithms.

    Attributes
    ----------
    power : float
        1 if the cost is in proportion to the rows, 0 if it does not depend on them.
    per_million : float
        Seconds for each million of the rows between the smallest and the largest size.
    """

    power: float
    per_million: float

    @property
    def words(self) -> str:
        """The growth in a word."""
        low, high = LINEAR
        if self.power < low:
            return "less than linear"
        return "linear" if self.power <= high else "more than linear"


def growth(rows: list[int], seconds: list[float]) -> Growth:
    """Fit how a cost grows.

    Parameters
    ----------
    rows : list of int
        Different sizes, ascending, two or more.
    seconds : list of float
        The cost of each, above 0.

    Returns
    -------
    Growth

    Examples
    --------
    >>> growth([1_000_000, 2_000_000, 4_000_000], [3.0, 6.0, 12.0])
    Growth(power=1.0, per_million=3.0)
    """
    power = np.polyfit(np.log(rows), np.log(seconds), 1)[0]
    per_million = (seconds[-1] - seconds[0]) / (rows[-1] - rows[0]) * 1e6
    return Growth(round(float(power), 2), round(float(per_million), 3))
