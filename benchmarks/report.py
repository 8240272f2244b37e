"""The result files of the benchmarks: figures, checks, machine, versions.

python -m benchmarks.report        prints every check in benchmarks/results/*.json
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from twotower.pipelines.run import git_commit, versions, write_atomically

RESULTS = Path(__file__).parent / "results"
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "==": lambda value, limit: value == limit,
}


@dataclass(frozen=True)
class Check:
    """A measured value and the limit that it must keep."""

    name: str
    value: float
    relation: str
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the value keeps the limit."""
        return RELATIONS[self.relation](self.value, self.limit)

    def record(self) -> dict[str, Any]:
        """The check for the result file; the limit includes its relation, as in "<= 5"."""
        return {**asdict(self), "limit": f"{self.relation} {self.limit:g}", "holds": self.holds}


Rows = dict[str, Any]
"""Named groups of figures, for a result file."""
Part = Callable[[], tuple[Rows, list[Check]]]
"""Measures one part of a benchmark."""


def machine() -> dict[str, Any]:
    """Describe the machine that the figures are measured on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": platform.system(),
    }


def merge(name: str, rows: Rows, checks: list[Check]) -> Path:
    """Write rows and checks to results/<name>.json.

    They replace rows and checks of the same names; the others in the file stay.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.is_file() else {"rows": {}, "checks": []}
    new = [check.record() for check in checks]
    names = {check["name"] for check in new}
    commit = git_commit()
    record = {
        "machine": machine(),
        "versions": versions(),
        "commit": commit,
        "rows": {**old["rows"], **{n: {**row, "commit": commit} for n, row in rows.items()}},
        "checks": [c for c in old["checks"] if c["name"] not in names] + new,
    }
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    return path


def measure_parts(result: str, parts: Mapping[str, Part]) -> None:
    """Measure parts one after another; write each one's figures to results/<result>.json."""
    for part, measure in parts.items():
        print(f"{part} ...", flush=True)
        rows, checks = measure()
        path = merge(result, rows, checks)
        for check in checks:
            print(f"  {check.name}: {check.value:g} ({check.relation} {check.limit:g})", flush=True)
        print(f"  written to {path}", flush=True)


def print_checks() -> bool:
    """Print a table of every check in results/; return True if all hold."""
    table = Table("benchmark", "check", "value", "limit", "", title="checks", title_justify="left")
    failed = 0
    for path in sorted(RESULTS.glob("*.json")):
        for check in json.loads(path.read_text())["checks"]:
            mark = "[green]holds[/]" if check["holds"] else "[red]does not hold[/]"
            failed += not check["holds"]
            table.add_row(path.stem, check["name"], f"{check['value']:g}", check["limit"], mark)
    console = Console()
    if not table.row_count:
        console.print("no results yet: run make bench-main DATA=<folder>")
        return False
    console.print(table)
    console.print(f"{failed} of {table.row_count} do not hold" if failed else "all hold")
    return not failed


if __name__ == "__main__":
    sys.exit(0 if print_checks() else 1)
