"""Result files of the benchmarks: what was measured, on what, and whether it holds.

python -m benchmarks.report        prints every check of benchmarks/results/*.json
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
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
    """A measured figure beside what it has to be."""

    name: str
    value: float
    relation: str
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the figure is what it has to be."""
        return RELATIONS[self.relation](self.value, self.limit)

    def record(self) -> dict[str, Any]:
        """For the result file: limit in words, since it may be a floor or a ceiling."""
        return {**asdict(self), "limit": f"{self.relation} {self.limit:g}", "holds": self.holds}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
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


def merge(name: str, rows: dict[str, Any], checks: list[Check]) -> Path:
    """Write rows and checks into results/<name>.json, beside those of parts measured before.

    A part measured again replaces its rows and the checks of the same names.
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


def measure_parts(name: str, parts: dict[str, Callable[[], tuple[dict, list[Check]]]]) -> None:
    """Measure one part after another; merge each one's figures into results/<name>.json."""
    for part, measured in parts.items():
        print(f"{part} ...", flush=True)
        rows, checks = measured()
        path = merge(name, rows, checks)
        for check in checks:
            print(f"  {check.name}: {check.value:g} ({check.relation} {check.limit:g})", flush=True)
        print(f"  written to {path}", flush=True)


def print_checks() -> bool:
    """A table of every check in results/; True when all hold."""
    table = Table("benchmark", "check", "value", "limit", "", title="checks", title_justify="left")
    short = 0
    for path in sorted(RESULTS.glob("*.json")):
        for check in json.loads(path.read_text())["checks"]:
            mark = "[green]holds[/]" if check["holds"] else "[red]falls short[/]"
            short += not check["holds"]
            table.add_row(path.stem, check["name"], f"{check['value']:g}", check["limit"], mark)
    console = Console()
    if not table.row_count:
        console.print("no results yet: make bench-main DATA=<folder>")
        return False
    console.print(table)
    console.print(f"{short} of {table.row_count} fall short" if short else "all hold")
    return not short


if __name__ == "__main__":
    sys.exit(0 if print_checks() else 1)
