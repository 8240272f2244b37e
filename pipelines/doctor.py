"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

from rich.table import Table

from pipelines.console import console
from pipelines.run import versions


def doctor() -> bool:
    """Print versions and checks; True when everything needed is there."""
    from serving.doctor import check_serving

    installed = Table(title="versions", title_justify="left", show_header=False)
    for name, version in versions().items():
        installed.add_row(name, version)
    console.print(installed)

    checks = Table("check", "", "found", "how to get it", title="checks", title_justify="left")
    found = check_serving()
    for check in found:
        mark = "[green]ok[/]" if check.ok else "[red]missing[/]"
        checks.add_row(check.name, mark, check.value, "" if check.ok else check.advice)
    checks.add_row("GPU for NVTabular", *_cudf())
    console.print(checks)
    return all(check.ok for check in found)


def _cudf() -> tuple[str, str, str]:
    import importlib.util

    if importlib.util.find_spec("cudf"):
        return "[green]ok[/]", "cuDF", ""
    return "-", "pandas on the CPU", "the merlin-tensorflow container: make docker-build"
