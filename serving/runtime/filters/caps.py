"""The parameter `max_per`: how many items of an answer may share a value of a column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError

MAX_PER = "max_per"
"""The name of the request parameter."""
MAX_LENGTH = 1 << 10
"""Longest text, in characters."""


def parse_caps(text: str, columns: Mapping[str, str]) -> dict[str, int]:
    """Return the largest number of items for each column, from JSON such as `{"genres": 2}`.

    Parameters
    ----------
    text : str
    columns : mapping of str to str
        The columns that it may name.

    Raises
    ------
    RequestError
        If the text is no such object; the message names the column or the value.
    """
    problem = f"parameter '{MAX_PER}' is {text[:40]!r}; expected JSON such as {{\"genres\": 2}}"
    if len(text) > MAX_LENGTH:
        raise RequestError(f"{problem} of at most {MAX_LENGTH:,} characters")
    try:
        caps: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(problem) from error
    if not isinstance(caps, dict) or not caps:
        raise RequestError(problem)
    for name, largest in caps.items():
        if name not in columns:
            known = (
                f"this model has {', '.join(columns)}" if columns else "serving.filters is empty"
            )
            raise RequestError(f"parameter '{MAX_PER}': column '{name[:40]}' is unknown; {known}")
        if type(largest) is not int or largest < 1:
            shown = json.dumps(largest)[:40]
            raise RequestError(
                f"parameter '{MAX_PER}': column '{name}': {shown}; expected an integer of 1 or more"
            )
    return caps
