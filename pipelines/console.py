"""What people see: step headings, progress bars, one line of result, errors without tracebacks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)

Report = Callable[..., None]
LOG_EVERY_SECONDS = 10


@contextlib.contextmanager
def stage(name: str) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """A step on the console: yields `report(done, total, text="")` and `result(line)`.

    On a terminal a bar moves and gives way to the result line; elsewhere (a log, CI) a line
    every ten seconds says how far it is.
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
    with bar:
        task = bar.add_task(name, total=None, text="")

        def report(done: int, total: int, text: str = "") -> None:
            nonlocal told
            bar.update(task, completed=done, total=total, text=text)
            if not console.is_terminal and time.perf_counter() - told > LOG_EVERY_SECONDS:
                told = time.perf_counter()
                console.print(f"{name:<11}{told - started:6.1f} s  {done / total:.0%} {text}")

        yield report, lines.append
    seconds = time.perf_counter() - started
    console.print(f"[bold green]{name:<11}[/]{seconds:6.1f} s  {'; '.join(lines)}")
