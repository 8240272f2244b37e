"""How long the steps of a job and their phases took, as a table and a plot.

`stage` announces every step and phase here; they are recorded while a `recorded` block runs.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.bar import Bar
from rich.table import Table

from twotower.pipelines.errors import RunError

FILE, PLOT = "logs/timeline.json", "logs/timeline.png"
RECORDED = (
    "`twotower run` records one, because it runs all steps: `twotower run --config <name or file>`"
)
BETWEEN = "between the steps"
BAR_WIDTH = 32
MIN_SECONDS = 0.1  # of a phase that has a line of its own


@dataclass
class Span:
    """A named period: its start in seconds since the recording began, and its length."""

    name: str
    start: float
    seconds: float = 0.0


@dataclass
class Step(Span):
    """A step of the job. Its phases, if there are any, follow each other without a gap."""

    phases: list[Span] = field(default_factory=list)

    def by_phase(self) -> dict[str, float]:
        """Return the total seconds of each phase, in the order of first occurrence."""
        seconds: dict[str, float] = {}
        for phase in self.phases:
            seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.seconds
        return seconds


@dataclass
class Timeline:
    """The steps of a job in the order in which they began, and the seconds of the whole job."""

    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)

    @property
    def between(self) -> float:
        """Seconds outside all steps."""
        return self.seconds - sum(step.seconds for step in self.steps)

    def to_json(self) -> str:
        """Return the text of timeline.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Timeline:
        """Read a timeline.json. Raises RunError if it does not exist or is damaged."""
        try:
            found = json.loads(path.read_text())
            steps = [
                Step(s["name"], s["start"], s["seconds"], [Span(**p) for p in s["phases"]])
                for s in found["steps"]
            ]
            return cls(found["seconds"], steps)
        except FileNotFoundError as error:
            raise RunError(f"{path}: no timeline; {RECORDED}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise RunError(f"{path}: damaged; {RECORDED}") from error


@dataclass
class _Recording:
    timeline: Timeline
    began: float

    def now(self) -> float:
        return time.perf_counter() - self.began


_recording: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[Timeline]:
    """Record the steps of the block; the timeline is complete when the block ends."""
    recording = _Recording(Timeline(), time.perf_counter())
    token = _recording.set(recording)
    try:
        yield recording.timeline
    finally:
        _recording.reset(token)
        recording.timeline.seconds = recording.now()


@contextlib.contextmanager
def recorded_step(name: str) -> Iterator[Callable[[str], None]]:
    """Record the block as a step, if a recording is running. Yields `phase(name)`.

    `phase` begins a phase; the first one begins with the step. With "" or the name of the current
    phase it does nothing.
    """
    recording = _recording.get()
    if recording is None:
        yield lambda phase: None
        return
    step = Step(name, recording.now())
    recording.timeline.steps.append(step)

    def phase(name: str) -> None:
        now = recording.now()
        if not name or (step.phases and step.phases[-1].name == name):
            return
        _end(step.phases, now)
        step.phases.append(Span(name, now if step.phases else step.start))

    try:
        yield phase
    finally:
        now = recording.now()
        _end(step.phases, now)
        step.seconds = now - step.start


def _end(phases: list[Span], now: float) -> None:
    if phases:
        phases[-1].seconds = now - phases[-1].start


def timeline_table(timeline: Timeline) -> Table:
    """Return a table with a line for each step and each phase of at least `MIN_SECONDS`.

    A step with a single phase has no line for it. The bars show when each step ran; the bars of its
    phases follow one another, even if the phases alternated.
    """
    table = Table(box=None)
    for heading in ("step", "s", "share", ""):
        table.add_column(
            heading, justify="right" if heading in ("s", "share") else "left", no_wrap=True
        )

    def line(name: str, start: float, seconds: float, style: str = "") -> None:
        bar = Bar(timeline.seconds, start, start + seconds, width=BAR_WIDTH, color="cyan")
        share = f"{seconds / timeline.seconds:.0%}"
        table.add_row(name, f"{seconds:.1f}", share, bar, style=style)

    for step in timeline.steps:
        line(step.name, step.start, step.seconds, "bold")
        phases, start = step.by_phase(), step.start
        for phase, seconds in phases.items():
            if len(phases) > 1 and seconds >= MIN_SECONDS:
                line(f"  {phase}", start, seconds)
            start += seconds
    table.add_row(BETWEEN, f"{timeline.between:.1f}", f"{timeline.between / timeline.seconds:.0%}")
    table.add_row("in all", f"{timeline.seconds:.1f}", style="bold")
    return table


def plot_timeline(timeline: Timeline, title: str, out: Path) -> None:
    """Write a PNG with time from left to right and a row for each step and each of its phases."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows: list[tuple[str, list[tuple[float, float]], str]] = []
    for step in timeline.steps:
        rows.append((step.name, [(step.start, step.seconds)], "#1b6ca8"))
        for phase in (name for name, seconds in step.by_phase().items() if seconds >= MIN_SECONDS):
            spans = [(p.start, p.seconds) for p in step.phases if p.name == phase]
            rows.append((f"{phase}  ", spans, "#d98e04"))
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 1 + 0.22 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row, (_, spans, colour) in enumerate(rows):
            axes.broken_barh(spans, (row - 0.35, 0.7), color=colour)
            end, seconds = spans[-1][0] + spans[-1][1], sum(length for _, length in spans)
            axes.annotate(f" {seconds:.1f}", (end, row), va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set(xlabel="seconds", title=title, xlim=(0, timeline.seconds * 1.06))
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.grid(True, axis="x", alpha=0.25)
        figure.savefig(out, dpi=130)
