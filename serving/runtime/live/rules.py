"""What an event may hold: a user, an item, a time, and columns of the interactions.

An event is a dict: the ids as given, the time in seconds since 1970, and the columns that have a
value. Stored and sent, it is a line of JSON.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError
from ..operators.times import EARLIEST

Event = dict[str, Any]
MAX_AHEAD_SECONDS = 86_400
"""How far in the future the time of an event may be: clocks differ, and zones are mistaken."""
MAX_TEXT = 4096
"""Largest number of characters of an id or of a column's text."""
_INTEGERS = {"INT64": (-(2**63), 2**63 - 1), "UINT64": (0, 2**64 - 1)}
_KINDS = {"INT64": "a whole number", "UINT64": "a whole number, 0 or more", "BYTES": "a text"}


@dataclass(frozen=True)
class EventRules:
    """Names and types of events, and which of them are positives.

    Attributes
    ----------
    user, item, time : str
        Names of the ids and of the time.
    user_type, item_type : str
        Triton data types of the ids: INT64, UINT64 or BYTES.
    columns : dict of str to str
        Further columns of the interactions that an event may give, with their Triton data types.
    required : sequence of str
        Those of `columns` that an event must give.
    column : str or None
        The column that tells positives from other events; without it every event is a positive.
    at_least : float or None
        The smallest value of `column` that is a positive.
    values : sequence of int, float or str
        Without `at_least`: the values of `column` that are positives.
    """

    user: str
    item: str
    time: str
    user_type: str = "INT64"
    item_type: str = "INT64"
    columns: dict[str, str] = field(default_factory=dict)
    required: Sequence[str] = ()
    column: str | None = None
    at_least: float | None = None
    values: Sequence[int | float | str] = ()

    @property
    def types(self) -> dict[str, str]:
        """The Triton data type of all that an event may hold."""
        ids = {self.user: self.user_type, self.item: self.item_type, self.time: "INT64"}
        return {**ids, **self.columns}

    def is_positive(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is a positive."""
        if self.column is None:
            return True
        value = event.get(self.column)
        if value is None:
            return False
        return value in self.values if self.at_least is None else value >= self.at_least

    def holds(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is one by these rules; another version may have recorded it."""
        try:
            self.check(event, "")
        except RequestError:
            return False
        return True

    def check(self, given: Mapping[str, Any], where: str) -> Event:
        """Return an event with what is given, and the time by the clock if there is none.

        Parameters
        ----------
        given : mapping of str to int, float, str or None
            None is no value.
        where : str
            The place of the event, for messages.

        Raises
        ------
        RequestError
            If a name is unknown, a value is of another kind or out of range, or one is missing.
        """
        types = self.types
        for name in given:
            if name not in types:
                raise RequestError(f"{where}: {name!r} is unknown; an event has {', '.join(types)}")
        event = {
            name: _checked(given[name], kind, f"{where}: {name}")
            for name, kind in types.items()
            if given.get(name) is not None
        }
        for name in (self.user, self.item, *self.required):
            if name not in event:
                raise RequestError(f"{where}: {name} is missing")
        now = int(time.time())
        seconds = event.setdefault(self.time, now)
        if not EARLIEST <= seconds <= now + MAX_AHEAD_SECONDS:
            raise RequestError(
                f"{where}: {self.time} is {seconds}, which is not in the past; expected seconds "
                "since 1970"
            )
        return event


def _checked(value: Any, kind: str, where: str) -> Any:
    """Return a value of a Triton data type as int, float or str."""
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        if type(value) is int and low <= value <= high:
            return value
        expected = _KINDS[kind]
    elif kind == "BYTES":
        if type(value) is str and len(value) <= MAX_TEXT and _is_unicode(value):
            return value
        expected = f"{_KINDS[kind]} of at most {MAX_TEXT:,} characters"
    else:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
        expected = "a number"
    raise RequestError(f"{where} is {_shown(value)}; expected {expected}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
