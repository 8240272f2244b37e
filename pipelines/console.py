"""Console output: a line per stage with its duration and result, and progress bars."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from twotower.pipelines.timeline import recorded_step

console = Console(highlight=False, soft_wrap=True, emoji=False)

ShowProgress = Callable[..., None]
"""The first function that `stage` yields; every argument may be left out."""
LOG_EVERY_SECONDS = 10


def say(line: str) -> None:
    """Print a line as it is, without interpreting markup in it."""
    console.print(escape(line))


JOINERS = "\u200c\u200d"
"""Invisible characters that belong to the spelling of words and to emoji."""


def printable(text: str) -> str:
    """Escape characters of data that would control the terminal or reorder what it shows.

    >>> printable("a\\x1b[2J\\u202eb")
    'a\\\\x1b[2J\\\\u202eb'
    """
    return "".join(
        each if each.isprintable() or each in JOINERS else each.encode("unicode_escape").decode()
        for each in text
    )


@contextlib.contextmanager
def stage(name: str) -> Iterator[tuple[ShowProgress, Callable[[str], None]]]:
    """Show on the console how far a stage of a command is, and its result when it ends.

    On a terminal, a progress bar is shown and then replaced by the result line. Elsewhere (a log
    file, CI), a line is printed every ten seconds.

    Parameters
    ----------
    name : str
        The name of the stage, which starts its lines.

    Yields
    ------
    progress : callable
        `progress(done, total, phase, detail)` updates the bar. `done` and `total` keep their value
        if they are left out. `phase` names what takes the time, also in the timeline (see
        `recorded_step`); `detail` is only shown.
    result : callable
        `result(line)` adds a part to the result line.
    """
    started = time.perf_counter()
    results: list[str] = []
    bar = Progress(
        TextColumn("[bold]{task.description:<11}[/]"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    last_line = started
    with recorded_step(name) as begin, bar:
        task = bar.add_task(name, total=None, text="")

        def show(
            done: int | None = None, total: int | None = None, phase: str = "", detail: str = ""
        ) -> None:
            nonlocal last_line
            begin(phase)
            text = ", ".join(part for part in (phase, detail) if part)
            bar.update(task, completed=done, total=total, text=escape(text))
            now = time.perf_counter()
            if not console.is_terminal and now - last_line > LOG_EVERY_SECONDS:
                last_line = now
                percentage = bar.tasks[task].percentage
                say(f"{name:<11}{now - started:6.1f} s  {percentage:.0f}% {text}")

        yield show, results.append
    seconds = time.perf_counter() - started
    console.print(f"[bold green]{name:<11}[/]{seconds:6.1f} s  {escape('; '.join(results))}")
