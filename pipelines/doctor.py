"""Checks of the installation and of a running server, printed as tables with advice."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from twotower.pipelines.console import console
from twotower.pipelines.errors import RunError

if TYPE_CHECKING:
    from twotower.pipelines.run import Run
    from twotower.serving.doctor import Check

MODULES = (
    "pandas",
    "pydantic",
    "nvtabular",
    "merlin.models",
    "merlin.systems",
    "tensorflow",
    "tf2onnx",
)
"""What training and export import, besides what `check_serving` looks for."""


def doctor() -> list[Check]:
    """Print installed versions and checks of the installation.

    Returns
    -------
    list of Check
        All are `ok` if everything needed is installed.
    """
    from twotower.serving.doctor import Check, check_serving

    if _installed("pydantic"):
        _print_versions()
    checks = [
        Check(name, True, "installed") if _installed(name) else Check(name, False, "", "make env")
        for name in MODULES
    ]
    checks += check_serving()
    gpu = _gpu()
    optional = "optional; training uses one that TensorFlow finds"
    checks.append(Check("GPU", True, gpu or "none; CPU", "" if gpu else optional))
    cudf = _installed("cudf")
    container = "the merlin-tensorflow container: make docker-build"
    checks.append(
        Check(
            name="GPU for NVTabular",
            ok=True,
            value="cuDF" if cudf else "pandas on the CPU",
            advice="" if cudf else container,
        )
    )
    table = Table("check", "", "found", "how to get it", title="checks", title_justify="left")
    _add_rows(table, checks, "missing")
    console.print(table)
    return checks


def doctor_server(run: Run) -> list[Check]:
    """Print checks of the run's server.

    Returns
    -------
    list of Check

    Raises
    ------
    RunError
        If no server answers for the run.
    """
    from twotower.pipelines.steps.serve import running_server
    from twotower.serving.triton.health import check_server

    server = running_server(run)
    if server is None:
        raise RunError(f"{run.path}: no server answers for this run; start it: twotower serve")
    table = Table("check", "", "found", "advice", title=f"server of {run.path}")
    found = check_server(server.http, server.metrics, server.pid)
    _add_rows(table, found, "wrong")
    console.print(table)
    return found


def _add_rows(table: Table, found: Sequence[Check], bad: str) -> None:
    for check in found:
        mark = "[green]ok[/]" if check.ok else f"[red]{bad}[/]"
        if check.ok and check.advice:  # optional, and not installed
            mark = "-"
        table.add_row(check.name, mark, Text(check.value), Text(check.advice))


def _print_versions() -> None:
    from twotower.pipelines.run import versions

    installed = Table(title="versions", title_justify="left", show_header=False)
    for name, version in versions().items():
        installed.add_row(name, Text(version))
    console.print(installed)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not installed either
        return False


def _gpu() -> str:
    """The names of the GPUs that nvidia-smi lists; empty if there are none."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver or no device
        return ""
    return ", ".join(done.stdout.split("\n")).strip(", ")
