"""How functions are compiled to machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function of numbers and arrays at its first call; threads run it in parallel.

    The machine code is kept in a cache, unless there is no folder that can be written.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(**options, cache=True)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
