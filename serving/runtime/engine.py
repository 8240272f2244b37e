"""The interface of an engine, which answers tables of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from .contract import Table
from .live.users import LiveUsers

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

    item_codes: np.ndarray
    """The codes of the items in the index, int64 [n_items], ascending."""

    def follow(self, live: LiveUsers) -> None:
        """Take the events of users into account from now on.

        Tables then have the column `LIVE` where users have events, and `changed` must be called
        with the slot of each user who does something.

        Raises
        ------
        ServingError
            If the engine cannot do this.
        """

    def changed(self, slot: int) -> None:
        """Forget what was computed for the user in a slot of the users with events."""

    def counts(self) -> Counts:
        """Return the current counts."""
