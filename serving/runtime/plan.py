"""The compiled ensemble: plan.json names the steps in order and where each column comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .contract import Table
from .steps import STEPS

PLAN_FILE = "plan.json"
REQUEST = "request"


class Plan:
    """Runs the steps of a plan one after the other over one table.

    Between the steps a column is known by `<step>.<column>`, or `request.<column>`.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        plan = json.loads((folder / PLAN_FILE).read_text())
        self.steps = [
            (entry, STEPS[entry["op"]](folder / entry["name"], entry, threads))
            for entry in plan["steps"]
        ]
        self.outputs = plan["outputs"]

    def run(self, table: Table) -> Table:
        """Answer a table of n requests: item ids int64 [n, max k] and scores float32 of its shape.

        A row that asks for fewer items than the widest, or whose catalogue is exhausted, ends in
        -1 and -inf.
        """
        columns = {f"{REQUEST}.{name}": column for name, column in table.items()}
        for entry, step in self.steps:
            inputs = {name: columns[source] for name, source in entry["inputs"].items()}
            for name, column in step.run(inputs).items():
                columns[f"{entry['name']}.{name}"] = column
        return {name: columns[source] for name, source in self.outputs.items()}


def load(version: Path, threads: int) -> Callable[[Table], Table]:
    """`runtime: compiled`: the function that answers a table."""
    return Plan(version, threads).run
