"""Where events are kept: a file beside the versions, or Redis, which several servers share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..errors import ServingError
from .rules import Event

EVENTS, ANSWERS = "events", "answers"
"""What a store keeps, each for itself: events, and what was answered during an experiment."""
MANY = 10_000
"""Number of events that are read at a time."""

Position = tuple[int, ...]
"""The place of an event in its store; later ones are greater."""


class Stored(NamedTuple):
    """An event of a store."""

    position: Position
    event: Event


class StoreError(ServingError):
    """The store cannot be read or written now. What was acknowledged before is in it."""


class EventStore(Protocol):
    """Keeps events in the order in which they were recorded."""

    @property
    def identity(self) -> str:
        """Distinguishes this store from others, whose positions mean something else."""

    def append(self, events: Sequence[Event]) -> None:
        """Record events, all of them or none; once this returns, they are kept.

        Raises
        ------
        StoreError
        """

    def read_new(self) -> list[Stored]:
        """Return the events, of whichever process, that this object has not returned before.

        Raises
        ------
        StoreError
        """

    def close(self) -> None:
        """Close the connection."""


def as_text(event: Event) -> str:
    """Return an event as a line of JSON."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def as_event(text: str | None) -> Event | None:
    """Return the event of a line of JSON; None if it is none, which only other programs write."""
    try:
        event = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def as_position(text: str) -> Position:
    """Return a position from its text, numbers joined by "-"; "" is before all events."""
    return tuple(int(number) for number in text.split("-")) if text else ()


def position_text(position: Position) -> str:
    """Return the text of a position."""
    return "-".join(map(str, position))
