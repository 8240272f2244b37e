"""Run a command and watch how much memory it and its processes hold."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import psutil

PAUSE = 0.25
"""Seconds between two looks at the memory."""


class Cost(NamedTuple):
    """What a command took.

    Attributes
    ----------
    seconds : float
    memory : list of (float, float)
        Every `PAUSE` seconds, the seconds since the start, and the memory in GB that the command
        and its children held: the sum of their resident pages, where a page that several of them
        share counts once for each.
    """

    seconds: float
    memory: list[tuple[float, float]]

    def most(self, start: float = 0.0, end: float = math.inf) -> float:
        """Return the most memory in GB between two times in seconds, 0 if there was no look."""
        return max((held for at, held in self.memory if start <= at <= end), default=0.0)


class Watch:
    """Looks at the memory of a process and its children until the block ends.

    Parameters
    ----------
    pid : int
    """

    def __init__(self, pid: int):
        self._process, self._ended = psutil.Process(pid), threading.Event()
        self._started = time.perf_counter()
        self.memory: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(PAUSE):
            at = time.perf_counter() - self._started
            self.memory.append((at, resident(self._process) / 1e9))


def resident(process: psutil.Process) -> int:
    """Return the bytes of resident memory of a process and its children."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            try:
                total += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def run(folder: Path, command: Sequence[str], log: Path) -> Cost:
    """Run a command to its end.

    Parameters
    ----------
    folder : Path
        Where it runs.
    command : sequence of str
    log : Path
        The file that receives what it prints.

    Returns
    -------
    Cost

    Raises
    ------
    click.ClickException
        If the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            with Watch(process.pid) as watch:
                code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code:
        raise click.ClickException(f"{' '.join(command)} failed with exit code {code}: see {log}")
    return Cost(time.perf_counter() - started, watch.memory)
