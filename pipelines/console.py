"""What people see: step headings, progress bars, one line of result, errors without tracebacks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from twotower.pipelines.timeline import recorded_step

console = Console(highlight=False, soft_wrap=True, emoji=False)

Report = Callable[..., None]
LOG_EVERY_SECONDS = 10


def say(line: str) -> None:
    """A line as it is, whatever characters it has."""
    console.print(escape(line))


@contextlib.contextmanager
def stage(name: str) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """A step on the console: yields `report(done, total, phase, detail)` and `result(line)`.

    On a terminal a bar moves and gives way to the result line; elsewhere (a log, CI) a line
    every ten seconds says how far it is. All arguments of `report` may be left out: what is not
    said goes on. `phase` names what takes the time in the timeline (see `recorded_step`), `detail`
    is only shown beside it.
    """
    started = time.perf_counter()
    lines: list[str] = []
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
    told = started
    with recorded_step(name) as begin, bar:
        task = bar.add_task(name, total=None, text="")

        def report(
            done: int | None = None, total: int | None = None, phase: str = "", detail: str = ""
        ) -> None:
            nonlocal told
            begin(phase)
            text = ", ".join(part for part in (phase, detail) if part)
            bar.update(task, completed=done, total=total, text=escape(text))
            if not console.is_terminal and time.perf_counter() - told > LOG_EVERY_SECONDS:
                told = time.perf_counter()
                far = bar.tasks[task].percentage
                say(f"{name:<11}{told - started:6.1f} s  {far:.0f}% {text}")

        yield report, lines.append
    seconds = time.perf_counter() - started
    console.print(f"[bold green]{name:<11}[/]{seconds:6.1f} s  {escape('; '.join(lines))}")
