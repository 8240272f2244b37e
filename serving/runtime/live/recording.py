"""Requests to the model `events`: who may record, and how tensors become events."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import RequestError
from ..filters.parameters import KEY_HEADER
from ..tensors import NO_VALUE, column_of
from .rules import Event, EventRules

PREFIX = "event:"
"""Before the names of the inputs of the model `retrieval` that are inputs of its face `events`."""
RECORDED = "recorded"
"""The output of the model `events`: the time with which each event is recorded."""


def is_recording(inputs: Mapping[str, Any]) -> bool:
    """Whether a request is one to the model `events`."""
    return any(name.startswith(PREFIX) for name in inputs)


def take_key(parameters: dict[str, Any]) -> str | None:
    """Remove the key from the parameters of a request, where Triton puts headers."""
    for name in parameters:
        if name.lower() == KEY_HEADER:
            return str(parameters.pop(name))
    return None


class Recording:
    """Reads requests to the model `events`.

    Parameters
    ----------
    rules : EventRules
    key : str or None
        The key of the server; without it, nobody may record.
    is_on : bool
        Whether there is a store.
    """

    def __init__(self, rules: EventRules, key: str | None, is_on: bool) -> None:
        self.rules, self.key, self.is_on = rules, key, is_on

    def read(
        self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any], key: str | None
    ) -> list[Event]:
        """Return the events of a request, one per row.

        Raises
        ------
        RequestError
            If the request may not record, or a part of it is wrong.
        """
        if not self.is_on:
            raise RequestError(
                "this server records no events: set serving.events.store, and start it again"
            )
        if not self.key or not hmac.compare_digest((key or "").encode(), self.key.encode()):
            raise RequestError(
                f"recording events needs the server's key in the header {KEY_HEADER}; it is the "
                "events_key of server.json in the run folder"
            )
        if parameters:
            raise RequestError(
                f"parameter '{next(iter(parameters))}' is unknown; this model takes none"
            )
        if others := [name for name in inputs if not name.startswith(PREFIX)]:
            raise RequestError(
                f"input '{others[0]}' is unknown beside {PREFIX}{self.rules.user}: events are "
                "recorded by requests of their own"
            )
        given = {name.removeprefix(PREFIX): array for name, array in inputs.items()}
        types = self.rules.types
        for name in (self.rules.user, self.rules.item):
            if name not in given:
                raise RequestError(f"input '{name}' is missing")
        if unknown := [name for name in given if name not in types]:
            raise RequestError(
                f"input '{unknown[0]}' is unknown; this model takes {', '.join(types)}"
            )
        rows = len(given[self.rules.user])
        ids = (self.rules.user, self.rules.item)
        columns = {
            name: _values(name, array, types[name], rows, is_id=name in ids)
            for name, array in given.items()
        }
        return [
            self.rules.check({name: column[row] for name, column in columns.items()}, f"row {row}")
            for row in range(rows)
        ]


def _values(name: str, array: np.ndarray, dtype: str, rows: int, is_id: bool) -> list[Any]:
    """Return the values of a tensor [n, 1] as in Python, with None for no value."""
    column = column_of(name, array, dtype, rows)
    values = column.tolist()
    if is_id:
        return values
    if dtype.startswith("FP"):
        return [None if value != value else value for value in values]
    return [None if value == NO_VALUE[dtype] else value for value in values]
