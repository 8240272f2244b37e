"""What the steps of a compiled plan have in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .contract import Table

Counts = Mapping[tuple[str, str, str], float]
"""(metric, label, value of the label) -> count since the model was loaded."""

STAGE_SECONDS = "twotower_stage_seconds_total"


class Step:
    """Made once from a folder of arrays and an entry of plan.json, then run on every batch."""

    counts: Counts = MappingProxyType({})

    def run(self, columns: Table) -> Table:
        """The step's output columns for its input columns, n rows each."""
        raise NotImplementedError
