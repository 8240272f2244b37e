"""The compiled ensemble: plan.json names the steps in order and where each column comes from."""

from __future__ import annotations

import json
import time
from pathlib import Path

from .contract import Table
from .step import STAGE_SECONDS, Counts, Step
from .steps import STEPS, UserFeatures, UserRows
from .vector_cache import VectorCache

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
        (users,) = (step for _, step in self.steps if isinstance(step, UserRows))
        (features,) = (step for _, step in self.steps if isinstance(step, UserFeatures))
        self.cache = VectorCache(features.features, len(users.user_ids))
        entry, top = self.steps[-1]
        self.vector, self.row = entry["inputs"][top.vector], entry["inputs"][top.row]
        self.seconds = dict.fromkeys((entry["op"] for entry, _ in self.steps), 0.0)

    def run(self, table: Table) -> Table:
        """Answer a table of n requests: item ids int64 [n, max k] and scores float32 of its shape.

        A row that asks for fewer items than the widest, or whose catalogue is exhausted, ends in
        -1 and -inf.
        """
        columns = {f"{REQUEST}.{name}": column for name, column in table.items()}
        self._run(self.steps[:1], columns)
        vectors = self.cache.get(table, columns[self.row])
        if vectors is None:
            self._run(self.steps[1:-1], columns)
            self.cache.put(table, columns[self.row], columns[self.vector])
        else:
            columns[self.vector] = vectors
        self._run(self.steps[-1:], columns)
        return {name: columns[source] for name, source in self.outputs.items()}

    def _run(self, steps: list[tuple[dict, Step]], columns: Table) -> None:
        """Add the columns that the steps answer."""
        started = time.perf_counter()
        for entry, step in steps:
            inputs = {name: columns[source] for name, source in entry["inputs"].items()}
            for name, column in step.run(inputs).items():
                columns[f"{entry['name']}.{name}"] = column
            ended = time.perf_counter()
            self.seconds[entry["op"]] += ended - started
            started = ended

    def counts(self) -> Counts:
        """What the steps have counted, and the seconds each took."""
        counts = {(STAGE_SECONDS, "stage", op): spent for op, spent in self.seconds.items()}
        for counting in (self.cache, *(step for _, step in self.steps)):
            counts.update(counting.counts)
        return counts


def load(version: Path, threads: int) -> Plan:
    """`runtime: compiled`: the engine that answers tables."""
    return Plan(version, threads)
