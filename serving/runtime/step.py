"""What the parts of the served graph have in common."""

from __future__ import annotations

from collections.abc import Mapping

from .contract import Table

Counts = Mapping[tuple[str, str, str], float]
"""(metric, label, value of the label) -> count since the model was loaded."""

STAGE_SECONDS = "twotower_stage_seconds_total"


class Step:
    """Made once from a folder of arrays and an entry of plan.json, then run on every batch."""

    def run(self, columns: Table) -> Table:
        """The step's output columns for its input columns, n rows each."""
        raise NotImplementedError
