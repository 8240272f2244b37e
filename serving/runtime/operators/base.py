"""What the operators between the user's row and the query vector have in common."""

from __future__ import annotations

from typing import Protocol

from ..contract import Table


class ColumnOperator(Protocol):
    """An operator that maps columns to columns."""

    def run(self, columns: Table) -> Table:
        """Return the output columns of n rows for the input columns of n rows."""
