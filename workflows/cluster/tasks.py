"""How a step runs many tasks: one after another, or in other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

RunTasks = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Calls a function with each of many arguments, and yields the results in order.

`map` runs the tasks in this process; `Cluster.run` has other processes run them. The function and
its arguments are pickled then.
"""
