"""Child processes: a command that is killed at the end of a block, a command with a log, a clone.

The load generator imports this module in each of its processes, so it imports little.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "runs" / "benchmarks"
# Variables of the `make` that runs the benchmark. They must not reach the `make` it measures.
OWN_VARIABLES = (
    "VIRTUAL_ENV",
    "MAKE",
    "MFLAGS",
    "DATA",
    "PARTS",
    "CONFIG",
    "SET",
    "PYTHON",
    "TF_CPP",
)


@contextmanager
def child(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the project's folder with its output piped; kill it at the block's end."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def call(
    folder: Path,
    command: Sequence[str],
    log: str,
    variables: Mapping[str, str] | None = None,
) -> tuple[float, str]:
    """Run a command to its end, with an empty package cache.

    Parameters
    ----------
    folder : Path
        Where the command runs. The package cache is placed beside it.
    command : sequence of str
    log : str
        Name of the log file in runs/benchmarks, without its suffix.
    variables : mapping of str to str, optional
        Environment variables in addition to those of this process.

    Returns
    -------
    seconds : float
    output : str
        Standard output and standard error.

    Raises
    ------
    click.ClickException
        If the command fails.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OWN_VARIABLES)}
    environment["UV_CACHE_DIR"] = str(folder.parent / "cache")
    environment["COLUMNS"] = "100"
    environment.update(variables or {})
    path = LOGS / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with path.open("w") as output:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise click.ClickException(
            f"{' '.join(command)} failed with exit code {done.returncode}: see {path}"
        )
    return seconds, path.read_text()


@contextmanager
def clone() -> Iterator[Path]:
    """Clone the committed project into a temporary folder; remove it at the block's end."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        project = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project)], check=True)
        yield project
