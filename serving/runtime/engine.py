"""The interface of an engine, which answers tables of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from .contract import Table

Counts = Mapping[tuple[str, str, str], float]
"""(metric, label, value of the label) -> count since the model was loaded."""

STAGE_SECONDS = "twotower_stage_seconds_total"


class Engine(Protocol):
    """Runs the served graph."""

    def run(self, table: Table) -> Table:
        """Answer a table of n requests, whose ids are codes (see `operators.ids`).

        Returns
        -------
        dict of str to ndarray
            Codes of items int64 [n, max k] and scores float32 of the same shape. A row that asks
            for fewer items than the largest k, or has fewer items left, ends in -1 and -inf. -1
            may also be an item's code; the score says which it is.
        """

    def similar(self, table: Table) -> Table:
        """Answer a table of n requests for similar items with codes and cosines, as `run` does.

        Asked items are in no answer. A row without a known item has no answer.
        """

    def recommend(self, table: Table) -> Table:
        """Answer a table of requests to the model `recommend`.

        Returns
        -------
        dict of str to ndarray
            As `run` does, with the probabilities of the ranking model as scores, and the scores of
            retrieval as RETRIEVAL_SCORE.
        """

    def deny(self, codes: np.ndarray) -> None:
        """Leave items, given by their codes int64 [m], out of all answers from now on."""

    def counts(self) -> Counts:
        """Return the current counts."""
