"""The events of a server: it records them, and follows what other processes record."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

from ..engine import Counts
from .opening import SETTINGS
from .rules import Event
from .store import EventStore, Position, StoreError, as_position
from .users import LiveUsers

PAUSE_SECONDS = 1.0
"""How long a store that cannot be used is left alone. Until then, answers are from the last known
state."""
EVENTS, STORE_UP = "twotower_events_total", "twotower_events_store_up"


class LiveState:
    """Records events and keeps the users with events up to date.

    Parameters
    ----------
    store : EventStore
    users : sequence of LiveUsers
        Those of each version that answers.
    log : callable
        Gets an event, a level and fields.
    """

    def __init__(
        self, store: EventStore, users: Sequence[LiveUsers], log: Callable[..., None]
    ) -> None:
        self.store, self.users, self.log = store, users, log
        self.recorded = self.read = 0
        self.is_up, self.next_try = True, 0.0

    def refresh(self) -> None:
        """Take over what was recorded since the last call, if the store can be used."""
        if not self.is_up and time.monotonic() < self.next_try:
            return
        try:
            new = self.store.read_new()
        except StoreError as error:
            self._failed(error)
            return
        if not self.is_up:
            self.is_up = True
            self.log("event store answers again")
        if new:
            for users in self.users:
                users.apply(new)
            self.read += len(new)

    def record(self, events: Sequence[Event]) -> None:
        """Record events, which the next answer takes into account.

        Raises
        ------
        StoreError
            If they were not recorded.
        """
        try:
            self.store.append(events)
        except StoreError as error:
            self._failed(error)
            raise
        self.recorded += len(events)
        self.next_try = 0.0  # it can be used
        self.refresh()

    def counts(self) -> Counts:
        """Return the counts for the metrics."""
        return {
            (EVENTS, "source", "recorded"): self.recorded,
            (EVENTS, "source", "read"): self.read,
            (STORE_UP, "", ""): int(self.is_up),
        }

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _failed(self, error: StoreError) -> None:
        if self.is_up:
            self.log("event store fails", logging.ERROR, error=str(error))
        self.is_up, self.next_try = False, time.monotonic() + PAUSE_SECONDS


def store_settings() -> dict[str, str] | None:
    """Return the settings of the store that the environment names; None if it names none."""
    return json.loads(os.environ[SETTINGS]) if SETTINGS in os.environ else None


def learned_position(store: EventStore, learned: Mapping[str, str] | None) -> Position:
    """Return the position up to which a version has learned from a store; () if from another."""
    if learned is None:
        return ()
    try:
        same = store.identity == learned["store"]
    except StoreError:
        same = True  # out of reach now; there is one store as a rule
    return as_position(learned["until"]) if same else ()
