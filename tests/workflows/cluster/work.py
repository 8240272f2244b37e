"""Tasks that worker processes import."""

from __future__ import annotations

import os
import time

from twotower.workflows.errors import DataError


def slow_square(number: int) -> tuple[int, int]:
    """The square, and the process that computed it."""
    time.sleep(0.1)
    return number * number, os.getpid()


def refuse(number: int) -> int:
    """Raise the error of wrong data."""
    raise DataError(f"row {number} is wrong; correct it")


def die(number: int) -> None:
    """End the worker, as the kernel does when memory runs out."""
    os.kill(os.getpid(), 9)
