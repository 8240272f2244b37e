"""What operators have in common: their interface, and how they divide rows among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import pairwise
from typing import Protocol

from ..contract import Table


class ColumnOperator(Protocol):
    """An operator that maps columns to columns."""

    def run(self, columns: Table) -> Table:
        """Return the output columns of n rows for the input columns of n rows."""


def share(work: Callable[[int, int], None], count: int, shares: int, pool: Executor) -> None:
    """Call `work(first, last)` for parts of 0 .. count, the first one in this thread."""
    ends = [count * part // shares for part in range(shares + 1)]
    (mine, *others) = pairwise(ends)
    waiting = [pool.submit(work, first, last) for first, last in others]
    work(mine[0], mine[1])
    for other in waiting:
        other.result()
