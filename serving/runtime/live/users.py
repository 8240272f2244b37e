"""What the users of recorded events have done, as the served graph reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import find
from ..contract import ABSENT, VALUE, Table, count_of, state_of
from ..operators.ids import ServedIds
from ..tensors import NUMPY_DTYPES
from .rules import EventRules
from .store import Position, Stored

LIVE = "live__slot"
"""The column of a table with the slot of each row's user; -1 for a user without events. A table
without it has no such user."""
NO_SLOT = -1


class Action(NamedTuple):
    """An event of a user with an item of the index."""

    seconds: int
    code: int
    position: int
    in_history: bool


class LiveUser:
    """The actions of a user, and what is made of them when it is first read."""

    __slots__ = ("actions", "hidden", "history")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.forget()

    def forget(self) -> None:
        """Drop what was made of the actions."""
        self.hidden: np.ndarray | None = None
        self.history: np.ndarray | None = None


class LiveUsers:
    """Users with events, each in a slot: their seen items and histories.

    Every event hides its item. A positive one that the version has not learned from begins the
    history, before what is stored.

    Parameters
    ----------
    rules : EventRules
    ids : ServedIds
        Converts the ids of events.
    item_ids : ndarray of int64, shape (n_items,)
        Codes of the items in the index, ascending. Events with other items have no effect.
    learned : tuple of int
        Position of the last event that the version has learned from; () for none.
    changed : callable
        Called with the slot of a user who has done something.

    Attributes
    ----------
    ignored : int
        Events whose ids are of another kind than those of the version.
    """

    def __init__(
        self,
        rules: EventRules,
        ids: ServedIds,
        item_ids: np.ndarray,
        learned: Position,
        changed: Callable[[int], None],
    ) -> None:
        self.rules, self.ids, self.item_ids = rules, ids, item_ids
        self.learned, self.changed = learned, changed
        self.slots: dict[int | bytes, int] = {}
        self.users: list[LiveUser] = []
        self.ignored = 0

    def apply(self, events: Iterable[Stored]) -> None:
        """Take events over, in the order in which they were recorded."""
        rules = self.rules
        events = list(events)
        own = [each for each in events if rules.holds(each.event)]
        self.ignored += len(events) - len(own)
        items = ids_of(rules.item_type, [each.event[rules.item] for each in own])
        codes = self.ids.items.encode(items)
        position, known = find(self.item_ids, codes)
        for stored, code, place, there in zip(
            own, codes.tolist(), position.tolist(), known.tolist(), strict=True
        ):
            if there:
                event = stored.event
                new = stored.position > self.learned and rules.is_positive(event)
                self._add(event[rules.user], Action(event[rules.time], code, place, new))

    def mark(self, user_ids: np.ndarray, table: Table) -> Table:
        """Return a table with the column `LIVE`, if one of the users has events.

        `user_ids` [n] are as in requests.
        """
        if not self.slots:
            return table
        slots = [self.slots.get(user, NO_SLOT) for user in user_ids.tolist()]
        if max(slots) == NO_SLOT:
            return table
        return {**table, LIVE: np.array(slots)}

    def hidden(self, slot: int, stored: np.ndarray) -> np.ndarray:
        """Return positions of seen items: those in `stored`, and those of the user's events."""
        user = self.users[slot]
        if user.hidden is None:
            own = np.array([action.position for action in user.actions], stored.dtype)
            user.hidden = np.union1d(stored, own)
        return user.hidden

    def history(self, slot: int, stored: np.ndarray) -> np.ndarray:
        """Return the codes of a history, the latest first: new ones, then those in `stored`."""
        user = self.users[slot]
        if user.history is None:
            # Of equal times, the one recorded last is the latest.
            latest = sorted(self._new(slot), key=lambda action: action.seconds)[::-1]
            fresh = dict.fromkeys(action.code for action in latest)
            rest = stored[~np.isin(stored, list(fresh))] if fresh else stored
            user.history = np.append(np.array(list(fresh), np.int64), rest)
        return user.history

    def new_positions(self, slot: int) -> np.ndarray:
        """Return the positions int64 of the items that events have added to a history."""
        return np.unique(np.array([action.position for action in self._new(slot)], np.int64))

    def with_history(self, table: Table, name: str, stored: Callable[[int], np.ndarray]) -> Table:
        """Return a table that gives the histories of the users with events, unless it has them.

        Parameters
        ----------
        table : dict of str to ndarray
            With the column `LIVE`.
        name : str
            The column of the histories.
        stored : callable
            Returns the stored history, as codes, of the user in a row of the table.
        """
        slots = table[LIVE]
        states = table.get(state_of(name), np.full(len(slots), ABSENT, np.int8))
        own = np.flatnonzero((slots != NO_SLOT) & (states == ABSENT))
        counts = table.get(count_of(name), np.zeros(len(slots), np.int64))
        lists = np.split(table.get(name, np.zeros(0, np.int64)), np.cumsum(counts)[:-1])
        states = states.copy()
        states[own] = VALUE
        for row in own.tolist():
            lists[row] = self.history(int(slots[row]), stored(row))
        return {
            **table,
            name: np.concatenate(lists),
            count_of(name): np.array([len(each) for each in lists]),
            state_of(name): states,
        }

    def _new(self, slot: int) -> list[Action]:
        return [action for action in self.users[slot].actions if action.in_history]

    def _add(self, user_id: int | str, action: Action) -> None:
        key: int | bytes = user_id.encode() if isinstance(user_id, str) else user_id
        slot = self.slots.get(key)
        if slot is None:
            slot = self.slots[key] = len(self.users)
            self.users.append(LiveUser())
        user = self.users[slot]
        user.actions.append(action)
        user.forget()
        self.changed(slot)


def ids_of(datatype: str, values: list[Any]) -> np.ndarray:
    """Return the ids of events as those in requests: numbers, or bytes."""
    if datatype == "BYTES":
        values = [value.encode() for value in values]
    return np.array(values, NUMPY_DTYPES[datatype])
